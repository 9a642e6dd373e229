"""What Prometheus sees of a rank. No label takes values that grow in number with time or come from data."""

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Info

from finetune_contract.jobspec import JobFile
from finetune_contract.progress import Activity

_PREFIX = "finetune_trainer"


class Metrics:
    """All series of the trainer, in a registry of their own."""

    def __init__(self, job: JobFile) -> None:
        self.registry = CollectorRegistry()
        self.step = self._gauge("step", "Optimizer steps done")
        self.steps_planned = self._gauge("steps_planned", "Optimizer steps of the whole run")
        self.epoch = self._gauge("epoch", "Passes over the training rows")
        self.loss = self._gauge("loss", "Training loss, mean since the last report")
        self.learning_rate = self._gauge("learning_rate", "Learning rate")
        self.grad_norm = self._gauge("grad_norm", "Norm of the gradients before clipping")
        self.tokens_per_second = self._gauge("tokens_per_second", "Tokens without padding, all ranks")
        self.mfu_ratio = self._gauge("mfu_ratio", "Share of the devices' peak matmul rate (measured on a CPU)")
        self.eta_seconds = self._gauge("eta_seconds", "Time to the last step at the current pace")
        self.peak_memory_bytes = self._gauge("peak_memory_bytes", "Peak memory: of the GPU, else of the process")
        self.last_step_timestamp_seconds = self._gauge("last_step_timestamp_seconds", "When the last step ended")
        self.last_checkpoint_step = self._gauge("last_checkpoint_step", "Step of the newest verified checkpoint")
        self.last_checkpoint_timestamp_seconds = self._gauge(
            "last_checkpoint_timestamp_seconds", "When it was verified"
        )
        self.checkpoint_save_seconds = self._gauge(
            "checkpoint_save_seconds", "How long the last save paused the training"
        )
        self.checkpoint_upload_seconds = self._gauge(
            "checkpoint_upload_seconds", "How long the last upload took, in the background"
        )
        self.data_wait_seconds = self._counter("data_wait_seconds", "Time between steps, waiting for rows")
        self.tokens = self._counter("tokens", "Tokens without padding, all ranks, restored steps included")
        self.samples = self._counter("samples", "Rows, all ranks, restored steps included")
        self._activity = Gauge(f"{_PREFIX}_stage", "1 for what the start is doing", ["stage"], registry=self.registry)
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

    def _counter(self, name: str, text: str) -> "RunningTotal":
        return RunningTotal(Counter(f"{_PREFIX}_{name}", text, registry=self.registry))

    def enter(self, activity: Activity) -> None:
        for known in get_args(Activity):
            self._activity.labels(known).set(known == activity)


class RunningTotal:
    """A counter that is given totals as well as increments."""

    def __init__(self, counter: Counter) -> None:
        self._counter, self._value = counter, 0.0

    def raise_to(self, value: float) -> None:
        self.add(max(0.0, value - self._value))

    def add(self, increment: float) -> None:
        self._value += increment
        self._counter.inc(increment)
