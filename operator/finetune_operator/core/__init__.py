"""The pure core: from what was observed of one FineTuneJob to what has to be done about it.

`snapshot` in, `decide` → `Plan` out. Nothing here does I/O, asks the time or draws a random number (import-linter holds
that), so every fault can be written as a row of a table.
"""
