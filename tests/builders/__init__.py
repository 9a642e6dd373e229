"""Objects for tests, said in words: `make_job().suspended().build()`."""
