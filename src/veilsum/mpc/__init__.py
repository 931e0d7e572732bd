"""Engines on shares: synchronous, each party in a thread of its own, one round at a time."""
