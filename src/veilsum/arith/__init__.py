"""Numbers: native kernels, each with a Python twin."""
