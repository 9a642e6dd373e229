"""One question each, answered as a function from draft to draft. `decide` has their order."""
