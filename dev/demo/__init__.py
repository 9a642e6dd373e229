"""`make demo`: from nothing to a verified adapter, on a real cluster, told in one line a stage."""
