"""veilsum: organisations compute together on data that none of them shows."""

__version__ = "0.1.0"
