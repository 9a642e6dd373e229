"""Keeps the progress record of this start: in memory for `/progress`, in a file for the supervisor."""

import threading
from pathlib import Path
from typing import Any

from finetune_contract.jobspec import JobFile
from finetune_contract.progress import ProgressRecord
from finetune_trainer.pod import outcome
from finetune_trainer.prepare.pace import Progress


class RecordKeeper:
    """Written to by training and by the upload's thread, read by the endpoint's.

    Args:
        file: replaced at each update, so that even a rank that the kernel kills leaves behind how far it got.
    """

    def __init__(self, job: JobFile, *, file: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._file = file
        self._record = ProgressRecord(run=job.identity.run, attempt=job.attempt.number, activity="starting")

    @property
    def record(self) -> ProgressRecord:
        return self._record

    def note_preparation(self, progress: Progress) -> None:
        self.update(
            activity="preparing",
            rows=progress.rows,
            rows_per_second=progress.rows_per_second,
            eta_seconds=progress.eta_seconds,
        )

    def update(self, **fields: Any) -> None:
        with self._lock:
            self._record = self._record.model_copy(update=fields)
            if self._file:
                outcome.write_atomically(self._file, self._record.model_dump_json(by_alias=True).encode())
