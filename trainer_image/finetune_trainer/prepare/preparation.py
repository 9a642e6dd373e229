"""Preparation: checks all that can be checked without a GPU, and turns rows of text into rows of tokens.

One pass, in the order of what is cheap to find out: may we write; is the model there and does the method suit it; can
every row be read; what does it become. The result is stored under a digest over all it was made from: a second job with
the same inputs finds it and is done.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from finetune_contract import layout
from finetune_contract.jobspec import JobFile
from finetune_contract.termination import PreparedResult
from finetune_trainer.artifacts import manifests
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.errors import DataError
from finetune_trainer.model import source
from finetune_trainer.model.gguf_parsing import parsed_once
from finetune_trainer.objectives.sft.rows import Renderer, TokenRow
from finetune_trainer.prepare import checks, store
from finetune_trainer.prepare.formats import Conversation, Format, detect_format, parse
from finetune_trainer.prepare.readers import DataFile, find_files, read_rows
from finetune_trainer.prepare.splitting import choose_held_out, content_key
from finetune_trainer.prepare.templates import choose_template
from finetune_trainer.training.hooks import Report

_BATCH = 1_000
"""Rows rendered and tokenised at once: enough for the tokenizer's threads, little enough to report between."""


def run(job: JobFile, storage: Storage, scratch: Path, report: Report) -> PreparedResult:
    """Prepares the rows of a job and leaves them in `layout.prepared_uri`.

    Args:
        scratch: a folder of ours to download and write into.
        report: takes one line for people at a time.

    Returns:
        Where the rows are, and how many.

    Raises:
        ConfigurationError: model, method, template, path or bucket.
        DataError: names file, row and field.
        Transient: storage or network.
    """
    storage.probe(job.spec.output.uri)
    files = source.fetch_head(job.spec.model, storage, scratch / "model")
    with parsed_once(files):
        model = checks.build_without_weights(files, job.spec.model.source)
        tokenizer = checks.load_tokenizer(files, job.spec.model.source)
    checks.check_method(job, model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    report(f"model: {type(model).__name__}, {parameters:,} parameters")
    template = choose_template(tokenizer, job.spec.dataset.template)

    data = _fetch_data(job, storage, scratch)
    inputs = _inputs(job, data, tokenizer, template)
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    uri = layout.prepared_uri(job.spec.output.uri, digest)
    if (manifest := manifests.load_valid(storage, uri)) is not None:
        report(f"prepared rows are there already, made from the same inputs: {uri}")
        return _result(uri, digest, manifest.metrics, parameters, reused=True)

    prepared = _prepare(job, data, Renderer(tokenizer, template, **_mask_options(job)), inputs, report)
    folder = scratch / "prepared"
    store.write(prepared, folder)
    counts = prepared.stats["counts"]
    manifests.commit(
        storage,
        folder,
        uri,
        kind="prepared",
        scratch=scratch,
        provenance=inputs,
        metrics=counts,
        uid=job.identity.uid,
        run=job.identity.run,
        attempt=job.attempt.number,
    )
    report(f"prepared rows: {uri}")
    return _result(uri, digest, counts, parameters, reused=False)


def _result(uri: str, digest: str, counts: dict[str, Any], parameters: int, *, reused: bool) -> PreparedResult:
    return PreparedResult(
        uri=uri,
        digest=digest,
        train_rows=counts["trainRows"],
        evaluation_rows=counts["evaluationRows"],
        tokens=counts["tokens"],
        supervised_tokens=counts["supervisedTokens"],
        longest_row=counts["longestRow"],
        parameters=parameters,
        reused=reused,
    )


class _Data:
    """The files of a job: those to train on, and those to score if they are named apart."""

    def __init__(self, train: list[DataFile], evaluation: list[DataFile] | None) -> None:
        self.train = train
        self.evaluation = evaluation


def _fetch_data(job: JobFile, storage: Storage, scratch: Path) -> _Data:
    dataset = job.spec.dataset

    def fetch(uri: str, name: str, field: str) -> list[DataFile]:
        return find_files(uri, storage.fetch(uri, scratch / "data" / name, field=field), field)

    train = [
        file
        for index, item in enumerate(dataset.train)
        for file in fetch(item.source, f"train-{index}", f"spec.dataset.train[{index}].source")
    ]
    if dataset.evaluation is None:
        return _Data(train, None)
    return _Data(train, fetch(dataset.evaluation.source, "evaluation", "spec.dataset.evaluation.source"))


def _mask_options(job: JobFile) -> dict[str, bool]:
    dataset = job.spec.dataset
    return {"train_on_prompt": dataset.train_on_prompt, "mask_history": dataset.mask_history}


def _inputs(job: JobFile, data: _Data, tokenizer: Any, template: str) -> dict[str, Any]:
    """All that the prepared rows depend on. Names of files are not in it: a copied data set is the same data set."""
    dataset, training = job.spec.dataset, job.spec.training
    words = [
        tokenizer.backend_tokenizer.to_str(),
        json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str),
    ]
    return {
        "format": store.FORMAT_VERSION,
        "train": [manifests.sha256(file.path) for file in data.train],
        "evaluation": data.evaluation and [manifests.sha256(file.path) for file in data.evaluation],
        "tokenizer": hashlib.sha256("\n".join(words).encode()).hexdigest(),
        "template": hashlib.sha256(template.encode()).hexdigest(),
        "options": {
            **_mask_options(job),
            "dataFormat": dataset.format,
            "splitFraction": dataset.split_fraction,
            "maxSamples": dataset.max_samples,
            "maxLength": training.max_length,
            "truncate": training.truncate,
            "seed": training.seed,
        },
    }


def _prepare(
    job: JobFile, data: _Data, renderer: Renderer, inputs: dict[str, Any], report: Report
) -> store.PreparedRows:
    dataset, training = job.spec.dataset, job.spec.training
    conversations = list(islice(_read(data.train, dataset.format, report), dataset.max_samples))
    if not conversations:
        raise DataError("there is no row to train on", file=data.train[0].name)
    train, held_out = conversations, list[Conversation]()
    if data.evaluation is not None:
        held_out = list(_read(data.evaluation, dataset.format, report))
    elif chosen := choose_held_out(conversations, dataset.split_fraction, training.seed):
        held_out = [conversations[index] for index in sorted(chosen)]
        train = [row for index, row in enumerate(conversations) if index not in chosen]

    limit = _LengthLimit(training.max_length, truncate=training.truncate)
    train_rows = list(limit.apply(train, _render(renderer, train, "training", report)))
    evaluation_rows = list(limit.apply(held_out, _render(renderer, held_out, "held-out", report)))
    limit.check()
    counts = _counts(train_rows, evaluation_rows, limit.truncated)
    overlap = len({content_key(row) for row in train} & {content_key(row) for row in held_out})
    stats = {
        "counts": counts,
        "overlap": overlap,
        "inputs": inputs,
        "endOfTurn": renderer.end_of_turn(conversations[0]),
    }
    report(
        f"rows: {counts['trainRows']:,} to train on, {counts['evaluationRows']:,} held out; "
        f"{counts['tokens']:,} tokens, {counts['supervisedTokens']:,} learned; "
        f"the longest row has {counts['longestRow']:,}"
    )
    if overlap:
        report(f"warning: {overlap:,} held-out rows also stand in the training rows; their score flatters")
    questions = [
        store.Question(
            renderer.prompt(row), row.messages[-2].content if len(row.messages) > 1 else "", row.messages[-1].content
        )
        for row in held_out
    ]
    return store.PreparedRows(train_rows, evaluation_rows, questions, renderer.template, stats)


def _read(files: Sequence[DataFile], wanted: str, report: Report) -> Iterator[Conversation]:
    for file in files:
        name: Format | None = None
        for row in read_rows(file):
            if name is None:
                name = detect_format(row) if wanted == "auto" else wanted  # type: ignore[assignment]
                report(f"{file.name}: format {name}{' (told by its columns)' if wanted == 'auto' else ''}")
            yield parse(row, name)  # type: ignore[arg-type]


def _render(renderer: Renderer, rows: Sequence[Conversation], what: str, report: Report) -> Iterator[TokenRow]:
    last = time.monotonic()
    for start in range(0, len(rows), _BATCH):
        yield from renderer.render(rows[start : start + _BATCH])
        if time.monotonic() - last > 5:
            last = time.monotonic()
            report(f"tokenised {min(start + _BATCH, len(rows)):,} of {len(rows):,} {what} rows")


class _LengthLimit:
    """Cuts or refuses rows of more than `tokens` tokens. All rows are looked at before one is refused, so that one
    message says how far to go."""

    def __init__(self, tokens: int, *, truncate: bool) -> None:
        self._tokens = tokens
        self._truncate = truncate
        self._first: tuple[Conversation, int] | None = None
        self._longest = 0
        self._count = 0
        self.truncated = 0

    def apply(self, conversations: Iterable[Conversation], rows: Iterable[TokenRow]) -> Iterator[TokenRow]:
        for conversation, row in zip(conversations, rows, strict=True):
            if row.length > self._tokens and not self._truncate:
                self._first = self._first or (conversation, row.length)
                self._longest = max(self._longest, row.length)
                self._count += 1
            yield self._cut(conversation, row)

    def check(self) -> None:
        if self._first is None:
            return
        conversation, length = self._first
        rest = f" ({self._count:,} rows are too long, the longest has {self._longest:,})" if self._count > 1 else ""
        raise conversation.error(
            f"{length:,} tokens, more than spec.training.maxLength {self._tokens:,}{rest}; set maxLength to "
            f"{self._longest}, or spec.training.truncate to true, or shorten the row"
        )

    def _cut(self, conversation: Conversation, row: TokenRow) -> TokenRow:
        if row.length > self._tokens:
            self.truncated += 1
            row = TokenRow(row.ids[: self._tokens], row.supervised[: self._tokens])
        # The first token is predicted from nothing, so that it is never learned.
        if not row.supervised[1:].any():
            why = (
                f"; its answer begins after token {self._tokens:,}, raise spec.training.maxLength"
                if self._truncate
                else ""
            )
            raise conversation.error(f"no token to learn{why}")
        return row


def _counts(train: Sequence[TokenRow], evaluation: Sequence[TokenRow], truncated: int) -> dict[str, int]:
    return {
        "trainRows": len(train),
        "evaluationRows": len(evaluation),
        "tokens": sum(row.length for row in train),
        "supervisedTokens": sum(int(np.count_nonzero(row.supervised[1:])) for row in train),
        "longestRow": max(row.length for row in [*train, *evaluation]),
        "truncatedRows": truncated,
    }
