"""Parses a .gguf file once for configuration, tokenizer and weights.

transformers 5.23 reads the file again for each of them, and rebuilds gguf's table of tensor names for each module of
the model: half of the loading time of SmolLM2-135M.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_trainer.model.source import ModelFiles


@contextmanager
def parsed_once(files: ModelFiles) -> Iterator[None]:
    """Whatever is loaded from these files inside this context shares one parse; its memory is freed afterwards."""
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
