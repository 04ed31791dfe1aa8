"""hyperctl: a client like any other."""
