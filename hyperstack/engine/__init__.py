"""One host's runtime: the only owner of state on the host."""
