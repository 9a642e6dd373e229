"""The choices that a job leaves open, made by device and data, each with its reason.

`Settings` holds what the job does not say itself; `describe` lists the whole configuration once, with the source of
each value.
"""

from dataclasses import dataclass
from typing import Literal

from finetune_contract.jobspec import JobFile
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.rank.device import Device

Precision = Literal["bf16", "fp16", "fp32"]
Attention = Literal["eager", "sdpa"]

EAGER_UP_TO = 512
"""Tokens of the longest row up to which eager attention is faster on a CPU: SDPA's backward takes 16 % of a step at 100
tokens (docs/performance.md)."""


@dataclass(frozen=True)
class Choice:
    value: str
    reason: str


@dataclass(frozen=True)
class Settings:
    precision: Precision
    attention: Attention
    compile: bool
    gradient_checkpointing: bool
    zero_stage: int | None
    """None without DeepSpeed."""
    total_steps: int
    choices: dict[str, Choice]
    """What was decided here, for the log and the model card."""

    @property
    def autocasts(self) -> bool:
        """fp16 needs autocast over fp32 weights and a gradient scaler; bf16 and fp32 train as they are."""
        return self.precision == "fp16"


def resolve(job: JobFile, device: Device, rows: int, longest_row: int, *, model_has_sdpa: bool = True) -> Settings:
    """Decides what the job leaves open.

    Args:
        rows: training rows.
        longest_row: in tokens.
        model_has_sdpa: whether its architecture can use PyTorch's fused attention.

    Raises:
        ConfigurationError: the device cannot do what the job asks for.
    """
    training = job.spec.training
    global_batch = job.world.size * training.per_device_batch_size * training.gradient_accumulation_steps
    steps_per_epoch = -(-rows // global_batch)
    total = max(1, -int(-training.epochs * steps_per_epoch // 1))
    precision, why_precision = _precision(job, device)
    attention, why_attention = _attention(job, device, longest_row, model_has_sdpa)
    return Settings(
        precision=precision,
        attention=attention,
        compile=training.compile,
        gradient_checkpointing=training.gradient_checkpointing,
        zero_stage=training.deepspeed.stage if training.deepspeed else None,
        total_steps=min(total, training.max_steps or total),
        choices={
            "precision": Choice(precision, why_precision),
            "attention": Choice(attention, why_attention),
            "global batch": Choice(
                f"{global_batch} rows",
                f"{job.world.size} processes × {training.per_device_batch_size} × "
                f"{training.gradient_accumulation_steps} accumulated",
            ),
            "optimizer steps": Choice(
                str(min(total, training.max_steps or total)),
                f"{rows:,} rows, {steps_per_epoch:,} steps per epoch, {training.epochs:g} epochs"
                + (f", at most {training.max_steps}" if training.max_steps else ""),
            ),
        },
    )


def _precision(job: JobFile, device: Device) -> tuple[Precision, str]:
    wanted, field = job.spec.training.precision, "spec.training.precision"
    if wanted == "auto":
        if device.computes_bf16:
            return "bf16", f"auto: {device.name} computes in bf16"
        if device.is_gpu:
            return "fp16", f"auto: {device.name} has no bf16"
        return "fp32", f"auto: {device.name} has no AVX512-BF16 or AMX"
    if wanted == "fp16" and not device.is_gpu:
        raise ConfigurationError("fp16 does not train on a CPU; use auto, bf16 or fp32", field=field)
    if wanted == "bf16" and device.is_gpu and not device.computes_bf16:
        raise ConfigurationError(f"{device.name} does not compute in bf16; use auto or fp16", field=field)
    return wanted, "job"


def _attention(job: JobFile, device: Device, longest_row: int, model_has_sdpa: bool) -> tuple[Attention, str]:
    wanted = job.spec.training.attention
    if wanted != "auto":
        return wanted, "job"
    if not model_has_sdpa:
        return "eager", "auto: the model has no SDPA"
    if device.is_gpu:
        return "sdpa", "auto: fused on a GPU"
    if longest_row <= EAGER_UP_TO:
        return "eager", f"auto: rows of at most {EAGER_UP_TO} tokens are faster without SDPA on a CPU"
    return (
        "sdpa",
        f"auto: the longest row has {longest_row:,} tokens, and eager attention would need memory for their square",
    )


def describe(job: JobFile, settings: Settings, device: Device) -> list[str]:
    """The resolved configuration, one line per value, with its source."""
    lines = [f"device: {device.name} ({device.kind})"]
    lines += [f"{name}: {choice.value}  ({choice.reason})" for name, choice in settings.choices.items()]
    spec = job.spec.model_dump(by_alias=True, exclude_none=True)
    decided = set(settings.choices)
    for block in ("method", "training", "checkpoint", "evaluation"):
        lines += [f"{block}.{line}  (job)" for line in _flat(spec[block]) if line.split(":")[0] not in decided]
    return lines


def _flat(block: dict[str, object], prefix: str = "") -> list[str]:
    lines: list[str] = []
    for name, value in block.items():
        lines += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}: {_shown(value)}"]
    return lines


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
