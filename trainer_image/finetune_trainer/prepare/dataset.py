"""The rows of a job: which files they come from, read as conversations, split into rows to train on and held-out rows.

Order and split are deterministic: equal files and options give equal rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from finetune_contract.jobspec import Dataset
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.errors import DataError
from finetune_trainer.objectives.conversations import Conversation
from finetune_trainer.prepare.data_files import DataFile, find_files
from finetune_trainer.prepare.formats import Format, detect_format, parse
from finetune_trainer.prepare.readers import read_rows
from finetune_trainer.prepare.splitting import choose_held_out
from finetune_trainer.rank.reporting import Report

_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class DatasetFiles:
    train: list[DataFile]
    evaluation: list[DataFile] | None
    """None: held-out rows are split off the training rows."""


@dataclass(frozen=True)
class Rows:
    train: list[Conversation]
    held_out: list[Conversation]
    first: Conversation
    """Of the data set, whichever side it is on."""


def fetch(dataset: Dataset, storage: Storage, into: Path, report: Report) -> DatasetFiles:
    """Raises ConfigurationError for a source that does not exist or holds no data file."""

    def find(uri: str, name: str, field: str) -> list[DataFile]:
        return find_files(uri, storage.fetch(uri, into / name, field=field), field, report)

    train = [
        file
        for index, item in enumerate(dataset.train)
        for file in find(item.source, f"train-{index}", f"spec.dataset.train[{index}].source")
    ]
    if dataset.evaluation is None:
        return DatasetFiles(train, None)
    return DatasetFiles(train, find(dataset.evaluation.source, "evaluation", "spec.dataset.evaluation.source"))


def read(files: DatasetFiles, dataset: Dataset, seed: int, report: Report) -> Rows:
    """Raises DataError for a row that cannot be read, and where there is none."""
    conversations = list(islice(_read(files.train, dataset.format, report), dataset.max_samples))
    if not conversations:
        raise DataError("there is no row to train on", file=files.train[0].name)
    first = conversations[0]
    if files.evaluation is not None:
        held_out = list(_read(files.evaluation, dataset.format, report))
        if not held_out:
            message = "there is no row to evaluate on; fill it, or leave spec.dataset.evaluation out"
            raise DataError(message, file=files.evaluation[0].name)
        return Rows(conversations, held_out, first)
    chosen = choose_held_out(conversations, dataset.split_fraction, seed)
    held_out = [row for index, row in enumerate(conversations) if index in chosen]
    return Rows([row for index, row in enumerate(conversations) if index not in chosen], held_out, first)


def _read(files: Sequence[DataFile], wanted: str, report: Report) -> Iterator[Conversation]:
    for file in files:
        name: Format | None = None
        rows = read_rows(file)
        while batch := list(islice(rows, _ROWS_AT_ONCE)):
            if name is None:
                name = detect_format(batch[0]) if wanted == "auto" else wanted  # type: ignore[assignment]
                report(f"{file.name}: format {name}{' (detected by its columns)' if wanted == 'auto' else ''}")
            yield from (parse(row, name) for row in batch)  # type: ignore[arg-type]
