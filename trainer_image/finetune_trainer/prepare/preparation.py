"""Preparation: checks everything that can be checked without a GPU, and turns rows of text into rows of tokens.

One pass, cheapest checks first: may we write; does the model exist and does the method suit it; can every row be read;
what does it become. The result is stored under a digest of everything it was made from: a second job with the same
inputs finds it and is done.
"""

from pathlib import Path
from typing import Any

from finetune_contract import layout
from finetune_contract.jobspec import JobFile
from finetune_contract.termination import PreparedResult
from finetune_trainer.artifacts import manifests
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.model import pins, places
from finetune_trainer.objectives import answers
from finetune_trainer.objectives.chat import Chat
from finetune_trainer.objectives.conversations import Conversation
from finetune_trainer.objectives.objective import Objective
from finetune_trainer.objectives.registry import objective_for
from finetune_trainer.prepare import checks, dataset, inputs, splitting, store
from finetune_trainer.prepare.batch_work import BatchWork
from finetune_trainer.prepare.pace import Note, Pace
from finetune_trainer.prepare.pipeline import Pipeline, Split
from finetune_trainer.prepare.templates import choose_template
from finetune_trainer.rank.reporting import Report
from finetune_trainer.rank.schedule import Schedule


def run(
    job: JobFile, storage: Storage, scratch: Path, report: Report, note: Note = lambda progress: None
) -> PreparedResult:
    """Prepares the rows of a job and stores them at `layout.prepared_uri`.

    Args:
        scratch: our own folder, for downloads and results.
        note: is told every few seconds how far it is.

    Returns:
        Where the rows are, and how many.

    Raises:
        ConfigurationError: model, method, stage, template, path or bucket.
        DataError: names file, row and field.
        Transient: storage or network.
    """
    storage.probe(job.spec.output.uri)
    Schedule.of(job.spec.training, steps=1).check()
    objective = objective_for(job.spec.stage)
    place = places.place_of(job.spec.model, storage)
    model = checks.check_model(job, place, storage, scratch, report)
    chat = Chat(model.tokenizer, choose_template(model.tokenizer, job.spec.dataset.template))
    files = dataset.fetch(job.spec.dataset, storage, scratch / "data", report)
    made_from = inputs.describe(job, objective, files, chat)
    digest = inputs.digest(made_from)
    uri = layout.prepared_uri(job.spec.output.uri, digest)
    if (manifest := manifests.load_valid(storage, uri)) is not None:
        report(f"reusing prepared rows made from the same inputs: {uri}")
        checks.check_longest_row(manifest.metrics["longestRow"], model.positions)
        pins.record(storage, job, pins.pinned_base(place, model.weights), inputs.data_files(files, made_from))
        return _result(uri, digest, manifest.metrics, model.parameters, reused=True)

    counts = _prepare(job, objective, files, chat, made_from, scratch, report, note)
    checks.check_longest_row(counts["longestRow"], model.positions)
    pins.record(storage, job, pins.pinned_base(place, model.weights), inputs.data_files(files, made_from))
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
    return _result(uri, digest, counts, model.parameters, reused=False)


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
    scratch: Path,
    report: Report,
    note: Note,
) -> dict[str, int]:
    """Writes the prepared rows to `scratch / "prepared"`; returns their counts."""
    folder, pipeline = scratch / "prepared", _pipeline(job, objective, files, chat, scratch, report, note)
    folder.mkdir(parents=True, exist_ok=True)
    with pipeline.split(files) as split:
        findings = split.findings
        findings.limit.check()
        findings.expansion.check()
        counts = _counts(split)
        findings.remarks.report(report)
        overlap = splitting.overlap(split.train.keys, split.held_out.keys)
        _report_counts(counts, overlap, report)
        findings.expansion.report(report)
        split.train.write(folder / store.TRAIN)
        split.held_out.write(folder / store.EVALUATION)
        held_out = pipeline.held_out_conversations(split)
        store.write_questions((_question(chat, row) for row in held_out), folder)
    stats = {
        "counts": counts,
        "overlap": overlap,
        "inputs": made_from,
        "remarks": findings.remarks.as_dict(),
        "endOfTurn": answers.end_of_turn(chat, split.first),
        "warmupCountsFrom": 1,  # the rule of the run that this prepares; rows of 0.1.0 do not say it
    }
    store.write_description(chat.template, stats, folder)
    return counts


def _pipeline(
    job: JobFile,
    objective: Objective,
    files: dataset.DatasetFiles,
    chat: Chat,
    scratch: Path,
    report: Report,
    note: Note,
) -> Pipeline:
    data, training = job.spec.dataset, job.spec.training
    return Pipeline(
        work=BatchWork(objective.renderer(chat, data), objective, training.max_length, training.truncate),
        wanted=data.format,
        most_rows=data.max_samples,
        split_fraction=data.split_fraction,
        seed=training.seed,
        pace=Pace(files.size, data.max_samples, report, note),
        scratch=scratch / "tokens",
        report=report,
    )


def _question(chat: Chat, row: Conversation) -> store.Question:
    question = row.messages[-2].content if len(row.messages) > 1 else ""
    return store.Question(answers.prompt(chat, row), question, expected=row.messages[-1].content)


def _counts(split: Split) -> dict[str, int]:
    train, held_out, findings = split.train, split.held_out, split.findings
    return {
        "trainRows": len(train.lengths),
        "evaluationRows": len(held_out.lengths),
        "tokens": int(train.lengths.sum()),
        "supervisedTokens": int(train.learned.sum()),
        "longestRow": int(max(lengths.max(initial=0) for lengths in (train.lengths, held_out.lengths))),
        "truncatedRows": findings.limit.truncated,
        "droppedRows": findings.limit.dropped,
        "conversations": findings.expansion.conversations,
        "tokensOnce": findings.expansion.tokens_once,
    }


def _report_counts(counts: dict[str, int], overlap: int, report: Report) -> None:
    report(
        f"rows: {counts['trainRows']:,} to train on, {counts['evaluationRows']:,} held out; "
        f"{counts['tokens']:,} tokens, {counts['supervisedTokens']:,} of them learned; "
        f"the longest row has {counts['longestRow']:,} tokens"
    )
    if overlap:
        report(f"warning: {overlap:,} held-out rows are also among the training rows: their score will be too good")
