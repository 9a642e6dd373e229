"""Preparation: checks everything that can be checked without a GPU, and turns rows of text into rows of tokens.

One pass, cheapest checks first: may we write; does the model exist and does the method suit it; can every row be read;
what does it become. The result is stored under a digest of everything it was made from: a second job with the same
inputs finds it and is done.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from finetune_contract import layout
from finetune_contract.jobspec import JobFile
from finetune_contract.termination import PreparedResult
from finetune_trainer.artifacts import manifests
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.model import source
from finetune_trainer.model.gguf_parsing import parsed_once
from finetune_trainer.objectives import answers
from finetune_trainer.objectives.chat import Chat
from finetune_trainer.objectives.conversations import Conversation
from finetune_trainer.objectives.objective import Objective, Rendered, Renderer, TokenRow
from finetune_trainer.objectives.registry import objective_for
from finetune_trainer.objectives.remarks import Remarks
from finetune_trainer.prepare import checks, dataset, inputs, splitting, store
from finetune_trainer.prepare.expansion import Expansion
from finetune_trainer.prepare.length_limit import LengthLimit
from finetune_trainer.prepare.templates import choose_template
from finetune_trainer.rank.reporting import Report

_BATCH = 1_000
"""Rows rendered and tokenised at once: enough for the tokenizer's threads, few enough to report in between."""


def run(job: JobFile, storage: Storage, scratch: Path, report: Report) -> PreparedResult:
    """Prepares the rows of a job and stores them at `layout.prepared_uri`.

    Args:
        scratch: our own folder, for downloads and results.

    Returns:
        Where the rows are, and how many.

    Raises:
        ConfigurationError: model, method, stage, template, path or bucket.
        DataError: names file, row and field.
        Transient: storage or network.
    """
    storage.probe(job.spec.output.uri)
    objective = objective_for(job.spec.stage)
    tokenizer, parameters = _check_model(job, storage, scratch, report)
    chat = Chat(tokenizer, choose_template(tokenizer, job.spec.dataset.template))
    files = dataset.fetch(job.spec.dataset, storage, scratch / "data")
    made_from = inputs.describe(job, objective, files, chat)
    digest = inputs.digest(made_from)
    uri = layout.prepared_uri(job.spec.output.uri, digest)
    if (manifest := manifests.load_valid(storage, uri)) is not None:
        report(f"reusing prepared rows made from the same inputs: {uri}")
        return _result(uri, digest, manifest.metrics, parameters, reused=True)

    prepared = _prepare(job, objective, files, chat, made_from, report)
    counts = prepared.stats["counts"]
    store.write(prepared, scratch / "prepared")
    manifests.commit(
        storage,
        scratch / "prepared",
        uri,
        kind="prepared",
        scratch=scratch,
        provenance=made_from,
        metrics=counts,
        uid=job.identity.uid,
        run=job.identity.run,
        attempt=job.attempt.number,
    )
    report(f"prepared rows: {uri}")
    return _result(uri, digest, counts, parameters, reused=False)


def _check_model(job: JobFile, storage: Storage, scratch: Path, report: Report) -> tuple[Any, int]:
    """The tokenizer, and the number of the model's parameters, once model and method are known to work together."""
    files = source.fetch_without_weights(job.spec.model, storage, scratch / "model")
    with parsed_once(files):
        model = checks.build_on_meta_device(files, job.spec.model.source)
        tokenizer = checks.load_tokenizer(files, job.spec.model.source)
    checks.check_method(job, model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    report(f"model: {type(model).__name__}, {parameters:,} parameters")
    return tokenizer, parameters


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


def _prepare(
    job: JobFile,
    objective: Objective,
    files: dataset.DatasetFiles,
    chat: Chat,
    made_from: dict[str, Any],
    report: Report,
) -> store.PreparedRows:
    rows = dataset.read(files, job.spec.dataset, job.spec.training.seed, report)
    renderer = objective.renderer(chat, job.spec.dataset)
    limit = LengthLimit(job.spec.training.max_length, truncate=job.spec.training.truncate, objective=objective)
    remarks, expansion = Remarks(), Expansion()
    sides: list[list[TokenRow]] = []
    for conversations, side in ((rows.train, "training"), (rows.held_out, "held-out")):
        sides.append([])
        rendered_rows = _render(renderer, conversations, side, report)
        for conversation, rendered in zip(conversations, rendered_rows, strict=True):
            remarks.add(rendered.remarks)
            expansion.add(rendered)
            sides[-1] += limit.apply(conversation, rendered.rows)
    train, held_out = sides
    limit.check()
    expansion.check()
    counts = _counts(objective, train, held_out, limit, expansion)
    remarks.report(report)
    overlap = splitting.overlap(rows.train, rows.held_out)
    _report_counts(counts, overlap, report)
    expansion.report(report)
    stats = {
        "counts": counts,
        "overlap": overlap,
        "inputs": made_from,
        "remarks": remarks.as_dict(),
        "endOfTurn": answers.end_of_turn(chat, rows.first),
    }
    questions = [_question(chat, row) for row in rows.held_out]
    return store.PreparedRows(train, held_out, questions, chat.template, stats)


def _render(renderer: Renderer, rows: Sequence[Conversation], what: str, report: Report) -> Iterator[Rendered]:
    last = time.monotonic()
    for start in range(0, len(rows), _BATCH):
        yield from renderer.render(rows[start : start + _BATCH])
        if time.monotonic() - last > 5:
            last = time.monotonic()
            report(f"tokenised {min(start + _BATCH, len(rows)):,} of {len(rows):,} {what} rows")


def _question(chat: Chat, row: Conversation) -> store.Question:
    question = row.messages[-2].content if len(row.messages) > 1 else ""
    return store.Question(answers.prompt(chat, row), question, expected=row.messages[-1].content)


def _counts(
    objective: Objective,
    train: Sequence[TokenRow],
    held_out: Sequence[TokenRow],
    limit: LengthLimit,
    expansion: Expansion,
) -> dict[str, int]:
    return {
        "trainRows": len(train),
        "evaluationRows": len(held_out),
        "tokens": sum(row.length for row in train),
        "supervisedTokens": sum(objective.learned_tokens(row) for row in train),
        "longestRow": max(row.length for row in [*train, *held_out]),
        "truncatedRows": limit.truncated,
        "droppedRows": limit.dropped,
        "conversations": expansion.conversations,
        "tokensOnce": expansion.tokens_once,
    }


def _report_counts(counts: dict[str, int], overlap: int, report: Report) -> None:
    report(
        f"rows: {counts['trainRows']:,} to train on, {counts['evaluationRows']:,} held out; "
        f"{counts['tokens']:,} tokens, {counts['supervisedTokens']:,} of them learned; "
        f"the longest row has {counts['longestRow']:,} tokens"
    )
    if overlap:
        report(f"warning: {overlap:,} held-out rows are also among the training rows: their score will be too good")
