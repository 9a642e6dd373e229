"""The prepared folder: what a preparation writes and a training reads.

train.safetensors        ids int32 [tokens], supervised uint8 [tokens], offsets int64 [rows + 1]
evaluation.safetensors   the same for the held-out rows
questions.jsonl          the held-out rows as text: prompt (rendered), question, expected
template.jinja           the chat template used; serving must use the same
stats.json               counts, and everything the digest covers
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from finetune_trainer.objectives.objective import TokenRow

FORMAT_VERSION = 2
"""Incremented when the same inputs would be prepared differently: part of the digest."""


@dataclass(frozen=True)
class Question:
    """One held-out row as text."""

    prompt: str
    """Rendered up to where the answer begins."""
    question: str
    expected: str


@dataclass(frozen=True)
class PreparedRows:
    train: list[TokenRow]
    evaluation: list[TokenRow]
    questions: list[Question]
    template: str
    stats: dict[str, Any]


def write(prepared: PreparedRows, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_rows(prepared.train, folder / "train.safetensors")
    _write_rows(prepared.evaluation, folder / "evaluation.safetensors")
    lines = [json.dumps(asdict(question), ensure_ascii=False) + "\n" for question in prepared.questions]
    (folder / "questions.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "template.jinja").write_text(prepared.template, encoding="utf-8")
    (folder / "stats.json").write_text(json.dumps(prepared.stats, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read(folder: Path) -> PreparedRows:
    lines = (folder / "questions.jsonl").read_text(encoding="utf-8").split("\n")
    return PreparedRows(
        train=_read_rows(folder / "train.safetensors"),
        evaluation=_read_rows(folder / "evaluation.safetensors"),
        questions=[Question(**json.loads(line)) for line in lines if line],
        template=(folder / "template.jinja").read_text(encoding="utf-8"),
        stats=json.loads((folder / "stats.json").read_text(encoding="utf-8")),
    )


def _write_rows(rows: Sequence[TokenRow], path: Path) -> None:
    offsets = np.cumsum([0, *(row.length for row in rows)], dtype=np.int64)
    ids = np.concatenate([row.ids for row in rows]) if rows else np.zeros(0, np.int32)
    supervised = np.concatenate([row.supervised for row in rows]) if rows else np.zeros(0, np.bool_)
    save_file({"ids": ids.astype(np.int32), "supervised": supervised.astype(np.uint8), "offsets": offsets}, path)


def _read_rows(path: Path) -> list[TokenRow]:
    arrays = load_file(path)
    ids, supervised, offsets = arrays["ids"], arrays["supervised"].astype(np.bool_), arrays["offsets"]
    return [TokenRow(ids[start:end], supervised[start:end]) for start, end in itertools.pairwise(offsets)]
