"""Work that all ranks of a node need and one of them does."""

import fcntl
from collections.abc import Callable
from pathlib import Path


def once_per_node(folder: Path, name: str, action: Callable[[], Path]) -> Path:
    """The path that `action` returned in whichever process came first; the others wait for it.

    A lock on a file, not a barrier: it has no time-out, needs no process group, and the kernel releases it when its
    holder dies, so that the next process tries again.

    Args:
        folder: the scratch folder that the ranks of a node share.
        name: of the work; unique within the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / f".{name}.done"
    with (folder / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.is_file():
            done.write_text(str(action()))
        return Path(done.read_text())
