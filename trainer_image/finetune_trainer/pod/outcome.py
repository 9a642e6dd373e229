"""How a process of the trainer ended, as a record: every error gets its exit code, reason and message here.

A rank writes its record to a file for the supervisor of its node, which writes one for the kubelet. Imports neither
torch nor boto3: the supervisor needs this and has to start at once.
"""

import faulthandler
import os
import signal
from pathlib import Path
from typing import IO, Any, Literal

from finetune_contract import names
from finetune_contract.exitcodes import ExitCode
from finetune_contract.progress import ProgressRecord
from finetune_contract.termination import TerminationRecord
from finetune_trainer.causes.foreseeing import foreseen
from finetune_trainer.rank import heartbeat

Role = Literal["prepare", "train"]

ENV_OUTCOME_DIR = "FINETUNE_OUTCOME_DIR"
"""Set by the supervisor for its ranks."""
STACKS_SIGNAL = signal.SIGUSR2
"""Makes a rank write the stacks of all its threads to `stacks_file`."""
_kept_open: list[IO[bytes]] = []
EXIT_BUG = 1
"""No code of the contract: the operator looks at the pod instead."""


def success(role: Role, message: str, **results: Any) -> TerminationRecord:
    return TerminationRecord(
        role=role, exit_code=ExitCode.SUCCEEDED, reason="Succeeded", message=message, node_rank=node_rank(), **results
    )


def failure(role: Role, error: BaseException, *, progress: ProgressRecord | None = None) -> TerminationRecord:
    code, reason, message = _verdict(error)
    return TerminationRecord(
        role=role, exit_code=code, reason=reason, message=message, node_rank=node_rank(), progress=progress
    )


def _verdict(error: BaseException) -> tuple[int, str, str]:
    known = foreseen(error)
    if known is None:
        return EXIT_BUG, "InternalError", f"{type(error).__name__}: {error}"
    return known.code, known.reason, known.message


def node_rank() -> int:
    return int(os.environ.get(names.ENV_NODE_RANK, "0"))


# --- files -----------------------------------------------------------------------------------------------------------
def write_atomically(path: Path, data: bytes) -> None:
    """A reader finds the previous content or this, never half of it."""
    draft = path.with_name(path.name + ".draft")
    draft.write_bytes(data)
    draft.replace(path)


def rank_file(folder: Path, local_rank: int) -> Path:
    return folder / f"rank-{local_rank}.json"


def progress_file(folder: Path) -> Path:
    """Kept up to date by rank 0, so that even a rank that the kernel kills leaves behind how far it got."""
    return folder / "progress.json"


def write_rank_record(record: TerminationRecord) -> None:
    """Where the supervisor looks for it; without one (`rank` started by hand) nowhere."""
    if folder := os.environ.get(ENV_OUTCOME_DIR):
        path = rank_file(Path(folder), int(os.environ.get("LOCAL_RANK", "0")))
        write_atomically(path, record.model_dump_json(by_alias=True).encode())


def watch_rank() -> None:
    """From here on the supervisor sees this rank's signs of life, and can ask for the stacks of its threads: the dump
    is C code, which runs whatever the process is stuck in."""
    if folder := os.environ.get(ENV_OUTCOME_DIR):
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        heartbeat.install(Path(folder), local_rank)
        stacks = stacks_file(Path(folder), local_rank).open("wb")
        faulthandler.register(STACKS_SIGNAL, file=stacks, all_threads=True)
        _kept_open.append(stacks)


def stacks_file(folder: Path, local_rank: int) -> Path:
    return folder / f"stacks-{local_rank}"


def read_record(path: Path) -> TerminationRecord | None:
    return TerminationRecord.parse(path.read_text()) if path.is_file() else None


def read_progress(folder: Path) -> ProgressRecord | None:
    path = progress_file(folder)
    try:
        return ProgressRecord.model_validate_json(path.read_bytes()) if path.is_file() else None
    except ValueError:
        return None


def write_termination_message(record: TerminationRecord) -> None:
    """The termination message. A mounted file cannot be replaced, so it is written in place."""
    path = Path(os.environ.get(names.ENV_TERMINATION_LOG, names.TERMINATION_LOG))
    try:
        path.write_bytes(record.render())
    except OSError as error:
        print(f"the termination record cannot be written to {path}: {error}", flush=True)
