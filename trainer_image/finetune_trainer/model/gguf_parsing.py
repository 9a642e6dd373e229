"""Parses a .gguf file once for configuration, tokenizer and weights.

transformers 5.23 reads the file anew for each of them, and makes gguf's table of tensor names anew for each module of
the model: for SmolLM2-135M half of the time that it takes to load.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_trainer.model.source import ModelFiles


@contextmanager
def parsed_once(files: ModelFiles) -> Iterator[None]:
    """What is loaded from these files within shares one parse of them; its memory is free afterwards."""
    if files.gguf is None:
        yield
        return
    import gguf

    reader, names = gguf.GGUFReader, gguf.get_tensor_name_map
    # transformers imports both by these names at each call.
    gguf.GGUFReader, gguf.get_tensor_name_map = functools.cache(reader), functools.cache(names)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, names
