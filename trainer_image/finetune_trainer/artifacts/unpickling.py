"""What may be unpickled from a checkpoint: tensors, plain containers, and a fixed list of names. Nothing else is run.

A checkpoint lies in a bucket that others may write to, and a pickle can call anything. torch's restricted unpickler is
forced on every `torch.load` of this process, whatever a library asks for (DeepSpeed asks for the other one).
"""

import os
import pickle
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch

_GLOBAL = re.compile(r"GLOBAL (\S+)")
_PICKLED = {".pt", ".pth", ".bin", ".pkl", ".ckpt"}
_NEVER_READ = {"training_args.bin"}
"""What the Trainer writes beside a model and reads nowhere: full of names that are not on the list."""


def restrict() -> None:
    """Before anything is loaded. Called again, it changes nothing."""
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    torch.serialization.add_safe_globals(_allowed())


def problems(folder: Path) -> list[str]:
    """What is wrong with the pickles of a checkpoint, without running or reading more than their structure. Removes
    what nobody reads. Empty: all of it may be loaded."""
    restrict()
    for name in _NEVER_READ:
        for path in folder.rglob(name):
            path.unlink()
    pickled = [path for path in sorted(folder.rglob("*")) if path.suffix in _PICKLED and path.is_file()]
    said = {path.relative_to(folder).as_posix(): _problem(path) for path in pickled}
    return [f"{name} {problem}" for name, problem in said.items() if problem is not None]


def _problem(path: Path) -> str | None:
    if not zipfile.is_zipfile(path):
        return "is no file that torch wrote"
    try:
        torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        named = _GLOBAL.search(str(error))
        what = f"it names {named[1]}" if named else "it holds more than tensors and numbers"
        return f"is refused: {what}, which may run code"
    except Exception as error:  # noqa: BLE001 - whatever the bytes provoke, they are no checkpoint
        return f"cannot be read ({type(error).__name__})"
    return None


def _allowed() -> list[Any]:
    """States of optimizer, scheduler and random numbers; with DeepSpeed, what its shards name."""
    import numpy as np

    names: list[Any] = [
        np._core.multiarray._reconstruct,  # type: ignore[attr-defined]  # noqa: SLF001 - numpy's own way to pickle
        np.ndarray,
        np.dtype,
        type(np.dtype(np.uint32)),
    ]
    return names + _of_deepspeed()


def _of_deepspeed() -> list[Any]:
    if sys.modules.get("deepspeed") is None:
        return []
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
