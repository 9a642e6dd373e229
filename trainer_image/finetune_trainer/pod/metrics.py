"""What Prometheus sees of a rank. No label ever takes a value that grows with time or comes from data."""

import resource
import sys
import time
from typing import Any, get_args

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Info

from finetune_contract.jobspec import JobFile
from finetune_contract.progress import Stage
from finetune_trainer.rank import device

_PREFIX = "finetune_trainer"
_PEAK_BF16 = {
    # Dense bf16 (Volta and Turing: fp16), FLOP/s, from the makers' data sheets. First match by name.
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "V100": 125e12,
    "T4": 65e12,
}


class Metrics:
    """Every series of ours, in a registry of its own."""

    def __init__(self, job: JobFile) -> None:
        self.registry = CollectorRegistry()
        self.step = self._gauge("step", "Optimizer steps done")
        self.steps_planned = self._gauge("steps_planned", "Optimizer steps of the whole run")
        self.epoch = self._gauge("epoch", "Passes over the training rows")
        self.loss = self._gauge("loss", "Training loss, mean since the last report")
        self.learning_rate = self._gauge("learning_rate", "Learning rate")
        self.grad_norm = self._gauge("grad_norm", "Norm of the gradients before clipping")
        self.tokens_per_second = self._gauge("tokens_per_second", "Tokens without padding, all ranks")
        self.mfu_ratio = self._gauge("mfu_ratio", "Share of the devices' peak matmul rate (CPU: measured)")
        self.eta_seconds = self._gauge("eta_seconds", "Time to the last step at the present pace")
        self.peak_memory_bytes = self._gauge("peak_memory_bytes", "Most memory used: of the GPU, else of the process")
        self.last_step_timestamp_seconds = self._gauge("last_step_timestamp_seconds", "When the last step ended")
        self.last_checkpoint_step = self._gauge("last_checkpoint_step", "Step of the newest verified checkpoint")
        self.last_checkpoint_timestamp_seconds = self._gauge(
            "last_checkpoint_timestamp_seconds", "When it was verified"
        )
        self.checkpoint_save_seconds = self._gauge("checkpoint_save_seconds", "How long training stood for it")
        self.checkpoint_upload_seconds = self._gauge("checkpoint_upload_seconds", "Last upload, beside the training")
        self.data_wait_seconds = self._counter("data_wait_seconds", "Time between steps, waiting for rows")
        self.tokens = self._counter("tokens", "Tokens without padding, all ranks, restored steps included")
        self.samples = self._counter("samples", "Rows, all ranks, restored steps included")
        self._stage = Gauge(f"{_PREFIX}_stage", "1 for what is going on", ["stage"], registry=self.registry)
        identity = job.identity
        Info(_PREFIX, "Which start this is", registry=self.registry).info(
            {
                "namespace": identity.namespace,
                "name": identity.name,
                "run": str(identity.run),
                "attempt": str(job.attempt.number),
                "method": job.spec.method.type,
                "gpu_class": job.world.gpu_class,
            }
        )

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"{_PREFIX}_{name}", text, registry=self.registry)

    def _counter(self, name: str, text: str) -> "Total":
        return Total(Counter(f"{_PREFIX}_{name}", text, registry=self.registry))

    def enter(self, stage: Stage) -> None:
        for known in get_args(Stage):
            self._stage.labels(known).set(known == stage)


class Total:
    """A counter that is told the total, not the growth."""

    def __init__(self, counter: Counter) -> None:
        self._counter, self._value = counter, 0.0

    def reach(self, value: float) -> None:
        self.add(max(0.0, value - self._value))

    def add(self, growth: float) -> None:
        self._value += growth
        self._counter.inc(growth)


# --- how much of the machine is used ---------------------------------------------------------------------------------
def flops_per_token(model: Any, method: str) -> float:
    """Forward 2 per weight, backward 2 for activations, and 2 more where the weights themselves are trained."""
    return (6.0 if method in {"full", "freeze"} else 4.0) * sum(_elements(weight) for weight in model.parameters())


def _elements(weight: Any) -> int:
    """Of the weight as it is meant: neither a ZeRO-3 shard nor two 4-bit weights in a byte."""
    if hasattr(weight, "ds_numel"):
        return int(weight.ds_numel)
    if (state := getattr(weight, "quant_state", None)) is not None:
        return int(state.shape.numel())
    return int(weight.numel())


def peak_flops(*, seconds: float = 0.3) -> float | None:
    """Of one rank's device. A GPU's is on record; a CPU's is measured, since no name tells it."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        return next((peak for part, peak in _PEAK_BF16.items() if part in name), None)
    # Where bf16 is emulated, one product would take seconds, and never be the faster one.
    kinds = (torch.bfloat16, torch.float32) if device.cpu().computes_bf16 else (torch.float32,)
    return max(_matmul_rate(kind, seconds / len(kinds)) for kind in kinds)


def _matmul_rate(kind: torch.dtype, seconds: float, size: int = 1024) -> float:
    """Best of several, on constant numbers: the random generators of the training stay untouched."""
    left, right = torch.full((size, size), 0.5, dtype=kind), torch.full((size, size), 0.5, dtype=kind)
    end = time.monotonic() + seconds
    best = 0.0
    while time.monotonic() < end:
        start = time.perf_counter()
        left @ right
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def peak_memory_bytes() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
