"""The prepared folder: what a preparation writes and a training reads.

train.safetensors        ids int32 [tokens], supervised uint8 [tokens], offsets int64 [rows + 1]
evaluation.safetensors   the same for the held-out rows
questions.jsonl          the held-out conversations as text: prompt (rendered), question, expected
template.jinja           the chat template used; serving must use the same
stats.json               counts, and everything the digest covers

Rows are read from the disk when they are needed: nobody holds them all.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

from finetune_trainer.prepare.token_files import StoredRows

FORMAT_VERSION = 2
"""Incremented when the same inputs would be prepared differently: part of the digest."""

TRAIN, EVALUATION = "train.safetensors", "evaluation.safetensors"


@dataclass(frozen=True)
class Question:
    """One held-out row as text."""

    prompt: str
    """Rendered up to where the answer begins."""
    question: str
    expected: str


class Questions(Sequence[Question]):
    """Of a file; read when they are asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[Question]:
        with self._path.open(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                yield Question(**json.loads(line))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @overload
    def __getitem__(self, index: int) -> Question: ...
    @overload
    def __getitem__(self, index: slice) -> list[Question]: ...
    def __getitem__(self, index: int | slice) -> Question | list[Question]:
        if isinstance(index, slice):
            return list(itertools.islice(self, *index.indices(len(self))))
        return list(self)[index]


@dataclass(frozen=True)
class PreparedRows:
    train: StoredRows
    evaluation: StoredRows
    questions: Questions
    template: str
    stats: dict[str, Any]


def write_questions(questions: Iterable[Question], folder: Path) -> None:
    with (folder / "questions.jsonl").open("w", encoding="utf-8") as file:
        for question in questions:
            file.write(json.dumps(asdict(question), ensure_ascii=False) + "\n")


def write_description(template: str, stats: dict[str, Any], folder: Path) -> None:
    (folder / "template.jinja").write_text(template, encoding="utf-8")
    (folder / "stats.json").write_text(json.dumps(stats, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read(folder: Path) -> PreparedRows:
    return PreparedRows(
        train=StoredRows.open(folder / TRAIN),
        evaluation=StoredRows.open(folder / EVALUATION),
        questions=Questions(folder / "questions.jsonl"),
        template=(folder / "template.jinja").read_text(encoding="utf-8"),
        stats=json.loads((folder / "stats.json").read_text(encoding="utf-8")),
    )
