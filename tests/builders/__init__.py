"""Builders of objects for tests: `make_job().suspended().build()`."""
