"""Schemes as local steps: deterministic functions of given bytes, no sockets, no files."""
