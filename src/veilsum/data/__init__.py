"""What rows and ids mean: schemas, normal forms, alignments."""
