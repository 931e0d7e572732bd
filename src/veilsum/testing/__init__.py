"""What tests stand on: clusters, faults, transcripts and conformance suites. Nothing imports it."""
