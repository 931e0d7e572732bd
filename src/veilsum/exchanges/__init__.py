"""Sub-protocols that two or more scripts use, in the same form."""
