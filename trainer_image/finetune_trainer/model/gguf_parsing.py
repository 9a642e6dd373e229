"""Parses a .gguf file once for configuration, tokenizer and weights.

transformers 5.23 reads the file again for each of them, and rebuilds gguf's table of tensor names for each module of
the model: half of the loading time of SmolLM2-135M.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model.places import FIELD
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


def read_shapes(files: ModelFiles, source: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor in the .gguf file, by the names of that format.

    Raises:
        ConfigurationError: the file is damaged or cut off.
    """
    from transformers.integrations.gguf.reader import GgufHeader

    path = files.folder / str(files.gguf)
    try:
        header = GgufHeader.from_file(str(path))
    except Exception as error:  # a parser that trusts its input
        message = f"{source} cannot be read as GGUF ({error}). Upload the file again"
        raise ConfigurationError(message, field=FIELD, reason="WeightsDamaged") from error
    end = max((header.data_start + tensor.offset + tensor.nbytes for tensor in header.tensors), default=0)
    if end > path.stat().st_size:
        message = f"{source} is cut off: it has {path.stat().st_size:,} bytes of {end:,}. Upload the file again"
        raise ConfigurationError(message, field=FIELD, reason="WeightsDamaged")
    return {tensor.name: tuple(tensor.shape) for tensor in header.tensors}


def conversions(files: ModelFiles, config: Any) -> Any:
    """From the file's names to those of the model; None for an architecture that only transformers' older reader
    knows."""
    from transformers.integrations.gguf.reader import read_gguf_metadata
    from transformers.integrations.gguf.utils import get_gguf_conversion_mapping, is_gguf_arch_supported

    metadata, _ = read_gguf_metadata(str(files.folder / str(files.gguf)))
    architecture = metadata["general.architecture"]
    return get_gguf_conversion_mapping(architecture, config) if is_gguf_arch_supported(architecture) else None
