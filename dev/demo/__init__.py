"""`make demo`: from nothing to a verified adapter, on a real cluster, in one line per stage."""
