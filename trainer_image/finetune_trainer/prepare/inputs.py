"""Everything that prepared rows depend on, and the digest of it under which they are stored."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from finetune_contract.jobspec import JobFile
from finetune_trainer.artifacts import manifests
from finetune_trainer.model.pins import PinnedData
from finetune_trainer.objectives.chat import Chat
from finetune_trainer.objectives.objective import Objective
from finetune_trainer.prepare import store
from finetune_trainer.prepare.content import reading
from finetune_trainer.prepare.data_files import DataFile
from finetune_trainer.prepare.dataset import DatasetFiles


def describe(job: JobFile, objective: Objective, files: DatasetFiles, chat: Chat) -> dict[str, Any]:
    """JSON. File names are not in it: a copied data set is the same data set."""
    dataset, training = job.spec.dataset, job.spec.training
    return {
        "format": store.FORMAT_VERSION,
        "train": _digests(files.train),
        "evaluation": files.evaluation and _digests(files.evaluation),
        "tokenizer": _tokenizer_digest(chat.tokenizer),
        "template": hashlib.sha256(chat.template.encode()).hexdigest(),
        "options": {
            **objective.row_options(dataset),
            "dataFormat": dataset.format,
            "splitFraction": dataset.split_fraction,
            "maxSamples": dataset.max_samples,
            "maxLength": training.max_length,
            "truncate": training.truncate,
            "seed": training.seed,
        },
    }


def _digests(files: Sequence[DataFile]) -> list[str]:
    digests = []
    for file in files:
        with reading(file):
            digests.append(manifests.sha256(file.path))
    return digests


def data_files(files: DatasetFiles, described: dict[str, Any]) -> tuple[PinnedData, ...]:
    """Names and digests, of which `describe` has the digests alone."""
    named = [*files.train, *(files.evaluation or ())]
    digests = [*described["train"], *(described["evaluation"] or ())]
    return tuple(PinnedData(source=file.name, sha256=mark) for file, mark in zip(named, digests, strict=True))


def digest(inputs: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _tokenizer_digest(tokenizer: Any) -> str:
    parts = [
        tokenizer.backend_tokenizer.to_str(),
        json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
