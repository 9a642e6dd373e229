"""Parses a .gguf file once for configuration, tokenizer and weights.

transformers 5.23 reads the file again for each of them, and rebuilds gguf's table of tensor names for each module of
the model: half of the loading time of SmolLM2-135M.
"""

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model import weights
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


def compare(files: ModelFiles, model: Any, shapes: Mapping[str, tuple[int, ...]]) -> weights.Difference | None:
    """As `weights.compare`, from this format's names. None for a mixture of experts that only transformers' older
    reader knows: loading decides.

    Args:
        model: on the meta device.
        shapes: of `read_shapes`.
    """
    from transformers.integrations.gguf.reader import read_gguf_metadata
    from transformers.integrations.gguf.utils import get_gguf_conversion_mapping, is_gguf_arch_supported

    metadata, _ = read_gguf_metadata(str(files.folder / str(files.gguf)))
    architecture = metadata["general.architecture"]
    if is_gguf_arch_supported(architecture):
        return weights.compare(model, shapes, mapping=get_gguf_conversion_mapping(architecture, model.config))
    names = _names_of_older_reader(architecture, model)
    if names is None or any("_exps" in name for name in shapes):
        return None
    # It leaves out what it does not know, and transposes some of the rest.
    found = {names[name]: shape for name, shape in shapes.items() if name in names}
    return weights.compare(model, found, packed=True)


def _names_of_older_reader(architecture: str, model: Any) -> Mapping[str, str] | None:
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
    try:
        names: Mapping[str, str] = get_gguf_hf_weights_map(model, processor)
    except NotImplementedError:  # a name that the gguf package does not have
        return None
    return names
