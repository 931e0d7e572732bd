"""On disk: journals, tables larger than memory, sources of rows, results."""
