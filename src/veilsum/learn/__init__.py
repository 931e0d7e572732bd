"""Local models: plain graphs of a closed set of operations, importers, and their plaintext twin."""
