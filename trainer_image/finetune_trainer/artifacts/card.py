"""The model card: README.md next to the weights, with the numbers of this run and nothing that was not measured."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_contract.jobspec import JobFile
from finetune_contract.termination import EvaluationResult


def write_card(
    folder: Path,
    job: JobFile,
    *,
    settings: Mapping[str, str],
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
    evaluation: EvaluationResult | None,
) -> None:
    sections = [
        _head(job),
        _table("Result", {name: _shown(value) for name, value in metrics.items() if not isinstance(value, list)}),
        _evaluation(evaluation),
        _table("Settings", dict(settings)),
        f"## Provenance\n\n```json\n{json.dumps(provenance, indent=1, default=str)}\n```\n",
    ]
    (folder / "README.md").write_text("\n".join(filter(None, sections)), encoding="utf-8")


def _head(job: JobFile) -> str:
    kind = "adapter" if job.spec.method.lora else "model"
    base, name = job.spec.model.source.removeprefix("hf://"), job.identity.name
    library = "peft" if kind == "adapter" else "transformers"
    front = f"---\nbase_model: {json.dumps(base)}\nlibrary_name: {library}\npipeline_tag: text-generation\n---\n"
    usage = (
        "Serve it with the chat template next to it (`chat_template.jinja`): the answers were learned with this one.\n"
    )
    return f"{front}\n# {name}, run {job.identity.run}\n\nA {job.spec.method.type} {kind} of `{base}`.\n{usage}"


def _table(title: str, rows: Mapping[str, str]) -> str:
    lines = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
    return f"## {title}\n\n| | |\n|---|---|\n{lines}" if rows else ""


def _evaluation(evaluation: EvaluationResult | None) -> str:
    if evaluation is None:
        return ""
    head = (
        f"## Held-out rows\n\nLoss on {evaluation.rows:,} rows: {evaluation.loss_before:.4f} before, "
        f"{evaluation.loss_after:.4f} after (nats per token).\n"
    )
    return head + "".join(
        f"\n**{_line(sample.question)}**\n\n- expected: {_line(sample.expected)}\n- before: {_line(sample.before)}\n"
        f"- after: {_line(sample.after)}\n"
        for sample in evaluation.samples
    )


def _line(text: str) -> str:
    return " ".join(text.split())


def _shown(value: object) -> str:
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return json.dumps(value, default=str)
