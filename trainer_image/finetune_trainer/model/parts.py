"""The parts of a model: its language model, and what else hangs on it, such as a vision tower.

Rows are text: what lies outside the language model gets no gradient. It stays in the model, frozen and without
adapters, so that the result has the class, and its weights the names, that every library knows for this model.
"""

import re
from collections.abc import Iterator
from typing import Any


def beside_language(model: Any) -> tuple[str, ...]:
    """Names of the outermost modules that no text passes through; none for a model of text alone."""
    if model.config.get_text_config(decoder=True) is model.config:
        return ()
    language = [model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings()]
    return tuple(_without(model, "", {id(module) for module in language if module is not None}))


def _without(module: Any, name: str, kept: set[int]) -> Iterator[str]:
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}".lstrip(".")
        if id(child) in kept:
            continue
        if any(id(inner) in kept for inner in child.modules()):
            yield from _without(child, path, kept)
        elif next(child.parameters(), None) is not None:
            yield path


def pattern(names: tuple[str, ...]) -> str | None:
    """A regular expression for these modules and all that is in them, as peft's `exclude_modules` takes it."""
    return rf"({'|'.join(map(re.escape, names))})(\..+)?" if names else None


def is_within(name: str, parts: tuple[str, ...]) -> bool:
    """Whether a module is one of these parts, or in one of them."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def freeze_beside_language(model: Any) -> None:
    for name in beside_language(model):
        model.get_submodule(name).requires_grad_(False)
