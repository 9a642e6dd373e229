"""Whose fault an end is: one table from cause to code, place and cure (docs/exit-codes.md is generated from it)."""
