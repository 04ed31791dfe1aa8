"""What pods boot: the kernels that there are, and how one is added, tried and built."""
