"""Names and shapes of a model's weights, read from the first bytes of each file: no weight is downloaded.

Which files count is decided as transformers decides it: one .safetensors file, else the shards that the index names,
else the same of .bin. The shapes within .bin files are not known before they are loaded.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model.places import FIELD, Place

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
ADAPTER = "adapter_config.json"
MERGE_ADAPTER = "Name the model that it was trained on, or a folder in which the two are merged"
_SHARD = re.compile(r".+-(\d{5})-of-(\d{5})\.(safetensors|bin)")
_LONGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library."""
_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}


@dataclass(frozen=True)
class Weights:
    """What the files of a model hold."""

    files: tuple[str, ...]
    """Those that are read, an index first."""
    shapes: Mapping[str, tuple[int, ...]] | None = field(default=None)
    """By name of the tensor as it is stored; None for .bin."""


def read_weights(place: Place) -> Weights:
    """Raises ConfigurationError when files are missing, damaged or contradict each other."""
    sizes = place.sizes()
    if ADAPTER in sizes:
        _refuse(
            place,
            f"holds an adapter ({ADAPTER}), not a model of its own. {MERGE_ADAPTER}",
            "NotAModel",
        )
    if SINGLE in sizes:
        return Weights((SINGLE,), _shapes(place, [SINGLE], sizes))
    if INDEX in sizes:
        shards = _shards_of(place, INDEX, sizes)
        return Weights((INDEX, *shards), _shapes(place, shards, sizes))
    if BIN in sizes:
        return Weights(tuple(_not_empty(place, [BIN], sizes)))
    if BIN_INDEX in sizes:
        return Weights((BIN_INDEX, *_not_empty(place, _shards_of(place, BIN_INDEX, sizes), sizes)))
    _refuse_without_weights(place, sizes)


def _refuse_without_weights(place: Place, sizes: Mapping[str, int]) -> NoReturn:
    named = sorted(name for name in sizes if name.endswith((".safetensors", ".bin")))
    if not named:
        _refuse(place, "has no weights (*.safetensors or *.bin)", "WeightsMissing")
    shards = [name for name in named if _SHARD.fullmatch(name)]
    if shards:
        index = INDEX if shards[0].endswith(".safetensors") else BIN_INDEX
        _refuse(
            place,
            f"has {len(shards)} shards ({_some(shards)}) and no {index}, which says which of them belong to the model. "
            "Upload the index that was saved with them",
            "WeightsMissing",
        )
    _refuse(
        place,
        f"has weights in {_some(named)}, a name that is not read. They must be in {SINGLE}, or in shards with {INDEX}",
        "WeightsMissing",
    )


# --- index -----------------------------------------------------------------------------------------------------------
def _shards_of(place: Place, index: str, sizes: Mapping[str, int]) -> list[str]:
    """Raises for an index that is broken, or names a file that is not there."""
    document = _json(place, index, place.read(index, 0, sizes[index]))
    weight_map = document.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        _refuse(
            place,
            f"has a {index} whose `weight_map` is not a table of tensor names to file names. Upload it again",
            "WeightsDamaged",
        )
    shards = sorted(set(weight_map.values()))
    if lost := [shard for shard in shards if shard not in sizes]:
        count = f"{len(lost)} of {len(shards)} shards are missing" if len(lost) > 1 else f"{lost[0]!r} is missing"
        named = f" ({_some(lost)})" if len(lost) > 1 else ""
        _refuse(
            place,
            f"is incomplete: {count}{named}, named by {index}. Upload the model again, all files of it",
            "WeightsMissing",
        )
    return shards


# --- headers of safetensors ------------------------------------------------------------------------------------------
def _shapes(place: Place, files: Sequence[str], sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    owners: dict[str, str] = {}
    for file in files:
        for name, shape in _header(place, file, sizes[file]):
            if name in shapes:
                both = f"{owners[name]} and {file}" if owners[name] != file else f"{file} twice"
                _refuse(place, f"has the tensor {name!r} in {both}. Upload the model again", "WeightsDamaged")
            shapes[name], owners[name] = shape, file
    return shapes


def _header(place: Place, file: str, size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of each tensor in a .safetensors file (https://github.com/huggingface/safetensors, Format)."""
    length = int.from_bytes(place.read(file, 0, 8), "little")
    if size < 8:
        _refuse(place, f"has a {file} of {size} bytes. Upload it again", "WeightsDamaged")
    if place.read(file, 0, 7) == b"version":
        _refuse(
            place,
            f"has a pointer of Git LFS in place of {file}. Fetch the file itself with `git lfs pull`, and upload it",
            "WeightsDamaged",
        )
    if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
        _refuse(
            place,
            f"has a {file} that is no safetensors file, or is cut off: it has {size:,} bytes, and its header alone "
            f"would have {length:,}. Upload it again",
            "WeightsDamaged",
        )
    entries = _json(place, file, place.read(file, 8, length))
    end = 0
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        shape, last = _entry(place, file, name, entry)
        end = max(end, last)
        yield name, shape
    if end + 8 + length != size:
        state = "is cut off" if end + 8 + length > size else "is longer than its header says"
        _refuse(
            place,
            f"has a {file} that {state}: {size:,} bytes of {end + 8 + length:,}. Upload it again",
            "WeightsDamaged",
        )


def _entry(place: Place, file: str, name: str, entry: Any) -> tuple[tuple[int, ...], int]:
    """The tensor's shape, and where it ends among the data."""
    try:
        shape = tuple(int(size) for size in entry["shape"])
        first, last = (int(place) for place in entry["data_offsets"])
        bits = _BITS[entry["dtype"]]
        if min(shape, default=0) < 0 or first < 0 or (last - first) * 8 != math.prod(shape) * bits:
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError):
        _refuse(
            place,
            f"has a {file} whose header is broken at the tensor {name!r}. Upload it again",
            "WeightsDamaged",
        )
    return shape, last


# --- helpers ---------------------------------------------------------------------------------------------------------
def _json(place: Place, file: str, data: bytes) -> dict[str, Any]:
    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            _refuse(place, f"has a {file} that names {twice!r} twice. Upload it again", "WeightsDamaged")
        return found

    try:
        document = json.loads(data, object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        _refuse(place, f"has a broken {file} ({reason}). Upload it again", "WeightsDamaged")
    if not isinstance(document, dict):
        _refuse(place, f"has a broken {file}: it is no JSON object. Upload it again", "WeightsDamaged")
    return document


def _not_empty(place: Place, files: Sequence[str], sizes: Mapping[str, int]) -> Sequence[str]:
    for file in files:
        if sizes[file] == 0:
            _refuse(place, f"has an empty {file}. Upload it again", "WeightsDamaged")
    return files


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _refuse(place: Place, what: str, reason: str) -> NoReturn:
    raise ConfigurationError(f"{place.source} {what}", field=FIELD, reason=reason)
