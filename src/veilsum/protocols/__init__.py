"""The joint computations, one readable script each."""
