"""The model card: README.md beside the weights, with the figures of this run and nothing that was not measured."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from finetune_contract.jobspec import JobFile
from finetune_contract.termination import EvaluationResult
from finetune_trainer.artifacts import loss_curve, units, usage
from finetune_trainer.artifacts.markdown import code, facts, plain, table

CURVE = "loss.svg"
_WEIGHTS = (".safetensors", ".bin", ".gguf")
_SHOWN = 4
"""Files in a row of the card; training.json has all."""
_METHODS = {
    "lora": "A LoRA adapter for {base}, trained",
    "qlora": "A QLoRA adapter for {base}, trained",
    "full": "{base} with all weights fine-tuned",
    "freeze": "{base} with its last layers fine-tuned",
}


@dataclass(frozen=True)
class Facts:
    """What a card tells. Absent figures are left out: results of older versions have fewer."""

    job: JobFile
    hyperparameters: Mapping[str, str]
    """By the names of peft and transformers."""
    counts: Mapping[str, int]
    """Of the prepared rows: trainRows, evaluationRows, tokens, supervisedTokens, longestRow, truncatedRows."""
    metrics: Mapping[str, Any]
    provenance: Mapping[str, Any]
    evaluation: EvaluationResult | None
    end_of_turn: str = ""
    """The token that ends an answer."""
    base: usage.Base = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", usage.Base(self.job.spec.model))

    @property
    def is_adapter(self) -> bool:
        return self.job.spec.method.lora is not None


def write_card(folder: Path, known: Facts) -> None:
    """README.md, and the loss curve beside it."""
    has_curve = _draw(folder / CURVE, known)
    sections = [
        _metadata(known),
        _head(known),
        _how_to_use(known),
        _results(known, has_curve),
        _samples(known.evaluation),
        _data(known),
        "## Training\n\n" + facts({name: code(value) for name, value in known.hyperparameters.items()}),
        _provenance(known),
    ]
    (folder / "README.md").write_text("\n".join(filter(None, sections)), encoding="utf-8")


def _draw(file: Path, known: Facts) -> bool:
    history = [(entry["step"], entry["loss"]) for entry in known.metrics.get("lossHistory", [])]
    if not any(math.isfinite(loss) for _, loss in history):
        return False
    evaluation, last = known.evaluation, known.metrics.get("steps", history[-1][0])
    held_out = [(0, evaluation.loss_before), (last, evaluation.loss_after)] if evaluation else []
    title = f"{known.job.identity.name}: training loss"
    file.write_text(loss_curve.render(history, title=title, held_out=held_out), encoding="utf-8")
    return True


def _metadata(known: Facts) -> str:
    """Hugging Face's. A base that is not on the hub and a licence that we do not know are left out."""
    from huggingface_hub import ModelCardData

    method = known.job.spec.method.type
    relation: dict[str, Any] = {"base_model_relation": "adapter" if known.is_adapter else "finetune"}
    data = ModelCardData(
        base_model=known.base.hub_id,
        library_name="peft" if known.is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=[*([method] if known.is_adapter else []), known.job.spec.stage, "transformers", "finetune-operator"],
        **(relation if known.base.hub_id else {}),
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _head(known: Facts) -> str:
    base = known.base
    name = f"[{plain(base.hub_id)}](https://huggingface.co/{quote(base.hub_id)})" if base.hub_id else code(base.source)
    what = _METHODS[known.job.spec.method.type].format(base=name)
    rows = known.counts.get("trainRows")
    on = f" on {rows:,} conversations" if rows else ""
    outcome = ""
    if known.evaluation:
        before, after = units.loss(known.evaluation.loss_before), units.loss(known.evaluation.loss_after)
        outcome = f" The loss on held-out conversations went from {before} to {after}."
    return f"# {plain(known.job.identity.name)}\n\n{what}{on} (supervised fine-tuning).{outcome}\n"


def _how_to_use(known: Facts) -> str:
    spec, base = known.job.spec, known.base
    copied = ""
    if known.is_adapter and base.is_copied:
        what = "a folder with a local copy" if base.gguf else "a local copy"
        copied = f" {code(base.folder)} is {what} of {code(base.source)}."
    end = f" An answer ends with {code(known.end_of_turn)}." if known.end_of_turn else ""
    library = "transformers and peft" if known.is_adapter else "transformers"
    return (
        f"## How to use it\n\nRun these in the folder of this file.{copied} Tokenizer, chat template and generation "
        f"config are the ones of the training; use them and not those of the base.{end}\n\n"
        f"With {library}:\n\n{usage.with_transformers(spec.model, spec.method)}\n"
        f"With vLLM:\n\n{usage.with_vllm(spec.model, spec.method, known.job.identity.name)}"
    )


def _results(known: Facts, has_curve: bool) -> str:
    picture = f"![Training loss over the steps]({CURVE})\n\n" if has_curve else ""
    return "## Results\n\n" + picture + _losses(known.evaluation) + facts(_measured(known.metrics))


def _losses(evaluation: EvaluationResult | None) -> str:
    if evaluation is None:
        return ""
    rows = [
        (when, units.loss(loss), f"{math.exp(min(loss, 700.0)):.4g}")
        for when, loss in (("before training", evaluation.loss_before), ("after training", evaluation.loss_after))
    ]
    head = (f"{evaluation.rows:,} held-out conversations", "loss (nats per token)", "perplexity")
    return table(head, rows) + "\n"


def _measured(metrics: Mapping[str, Any]) -> dict[str, str]:
    def shown(name: str, show: Any) -> str:
        return show(metrics[name]) if metrics.get(name) is not None else ""

    trained, total = metrics.get("trainedParameters"), metrics.get("totalParameters")
    share = f" of {units.amount(total)} ({100 * trained / total:.2g} %)" if trained and total else ""
    return {
        "Steps": shown("steps", "{:,}".format),
        "Epochs": shown("epochs", units.number),
        "Tokens seen": shown("tokens", units.amount),
        "Training time": shown("trainSeconds", units.duration),
        "Tokens per second": shown("tokensPerSecond", "{:,.0f}".format),
        "Peak memory per process": shown("peakMemoryBytes", units.size),
        "Trained parameters": shown("trainedParameters", units.amount) + share,
    }


def _samples(evaluation: EvaluationResult | None) -> str:
    """Only what the job asks for: the texts of the held-out rows may be nobody else's business."""
    if evaluation is None or not evaluation.samples:
        return ""
    return "## Sample answers\n\nHeld-out questions, answered by greedy decoding.\n" + "".join(
        f"\n**Question:** {plain(sample.question)}\n\n- *Expected:* {_said(sample.expected)}\n"
        f"- *Before:* {_said(sample.before)}\n- *After:* {_said(sample.after)}\n"
        for sample in evaluation.samples
    )


def _said(text: str) -> str:
    return plain(text) or "(nothing)"


def _data(known: Facts) -> str:
    dataset, counts = known.job.spec.dataset, known.counts
    held_out = dataset.evaluation.source if dataset.evaluation else f"split off ({dataset.split_fraction:.0%})"
    rows = [(" ".join(code(source.source) for source in dataset.train), "trainRows", "tokens", "supervisedTokens")]
    if counts.get("evaluationRows"):
        shown = code(held_out) if dataset.evaluation else held_out
        rows.append((shown, "evaluationRows", "", ""))
    figures = [
        (use, name, *(f"{counts[key]:,}" if counts.get(key) else "" for key in keys))
        for use, (name, *keys) in zip(("training", "held out"), rows, strict=False)
    ]
    notes = []
    if counts.get("longestRow"):
        notes.append(f"The longest conversation has {counts['longestRow']:,} tokens.")
    if counts.get("truncatedRows"):
        notes.append(f"{counts['truncatedRows']:,} were cut to {known.job.spec.training.max_length:,}.")
    head = ("", "source", "conversations", "tokens", "of these learned")
    return f"## Data\n\n{table(head, figures)}" + (f"\n{' '.join(notes)}\n" if notes else "")


def _provenance(known: Facts) -> str:
    """In words; training.json has the same for programs."""
    job, provenance = known.job, known.provenance
    identity, data = job.identity, provenance.get("data")
    versions: Mapping[str, str] = provenance.get("versions") or {}
    revision = provenance.get("modelRevision") or known.base.revision
    files = provenance.get("dataFiles") or (data.get("train") if isinstance(data, Mapping) else None)
    return "## Provenance\n\n" + facts(
        {
            "Base model": code(known.base.source),
            "Revision": code(revision) if revision else "",
            "Base files": _digests(provenance.get("base")),
            "Data files": _digests(files),
            "Prepared rows": code(job.prepared.digest) if job.prepared else "",
            "Job": code(f"{identity.namespace}/{identity.name}") + f", run {identity.run}, uid {code(identity.uid)}",
            "Configuration": code(identity.config_hash),
            "Trainer image": code(identity.image),
            "Device": plain(str(provenance.get("device", ""))),
            "Libraries": plain(", ".join(f"{name} {version}" for name, version in versions.items())),
        }
    )


def _digests(described: Any) -> str:
    """Files with their digests, or digests alone; those of weights before those of what surrounds them."""
    if isinstance(described, Mapping):
        names = sorted(described, key=lambda name: (not str(name).endswith(_WEIGHTS), str(name)))
        shown = [f"{code(name)} {code(described[name])}" for name in names]
    else:
        shown = [code(digest) for digest in described or ()]
    more = f" and {len(shown) - _SHOWN:,} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
