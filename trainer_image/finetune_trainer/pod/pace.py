"""How fast a training advances: measured from what the Trainer reports, for the record, the metrics and the log."""

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from finetune_contract.jobspec import JobFile
from finetune_trainer.pod.metrics import Metrics
from finetune_trainer.pod.record_keeper import RecordKeeper
from finetune_trainer.pod.utilization import flops_per_token, peak_flops
from finetune_trainer.rank.device import peak_memory_bytes


class PaceCallback(TrainerCallback):  # type: ignore[misc]
    """Updates record and metrics, and logs one line, each time the Trainer reports.

    Args:
        prints: whether to log a line per report; on rank 0 only.
        measure_peak: FLOP/s that the device can reach; called once, before the first step.
    """

    def __init__(
        self,
        job: JobFile,
        keeper: RecordKeeper,
        metrics: Metrics,
        *,
        prints: bool,
        measure_peak: Callable[[], float | None] = peak_flops,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job, self._keeper, self._metrics, self._prints = job, keeper, metrics, prints
        self._measure_peak, self._clock = measure_peak, clock
        self._idle_since: float | None = None
        self._reported = (0.0, 0, 0)  # time, step, tokens
        self._peak: float | None = None
        self._flops_per_token = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self._prints:
            self._peak = self._measure_peak()
            self._flops_per_token = flops_per_token(model, self._job.spec.method.type) if model is not None else 0.0
        self._reported = (self._clock(), state.global_step, int(state.num_input_tokens_seen))
        self._metrics.steps_planned.set(state.max_steps)
        self._keeper.update(step=state.global_step, total_steps=state.max_steps, epoch=float(state.epoch or 0))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._idle_since is not None:
            self._metrics.data_wait_seconds.add(self._clock() - self._idle_since)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._idle_since = self._clock()
        self._metrics.step.set(state.global_step)
        self._metrics.last_step_timestamp_seconds.set_to_current_time()
        self._metrics.samples.raise_to(state.global_step * self._rows_per_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._idle_since = None  # the time since then was not spent waiting for rows

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._idle_since = None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return  # the summary at the end, or an evaluation
        rate, eta = self._since_last_report(state)
        epoch, loss = float(state.epoch or 0), float(logs["loss"])
        self._keeper.update(
            step=state.global_step,
            total_steps=state.max_steps,
            epoch=epoch,
            loss=loss,
            tokens_per_second=round(rate, 1),
            tokens_total=int(state.num_input_tokens_seen),
            eta_seconds=eta,
        )
        self._set_metrics(state, logs, rate, eta)
        if self._prints:
            progress = f"step {state.global_step}/{state.max_steps}  epoch {epoch:.2f}  loss {loss:.4f}"
            print(f"{progress}  {rate:,.0f} tok/s  ETA {_duration(eta)}", flush=True)

    def _since_last_report(self, state: Any) -> tuple[float, int]:
        """Tokens per second since then, and the seconds left at that pace."""
        now, step, tokens = self._clock(), state.global_step, int(state.num_input_tokens_seen)
        then, step_then, tokens_then = self._reported
        self._reported = (now, step, tokens)
        elapsed = max(now - then, 1e-9)
        seconds_per_step = elapsed / max(step - step_then, 1)
        return (tokens - tokens_then) / elapsed, round((state.max_steps - step) * seconds_per_step)

    def _set_metrics(self, state: Any, logs: dict[str, Any], rate: float, eta: int) -> None:
        metrics = self._metrics
        metrics.loss.set(float(logs["loss"]))
        metrics.epoch.set(float(state.epoch or 0))
        metrics.tokens_per_second.set(rate)
        metrics.tokens.raise_to(int(state.num_input_tokens_seen))
        metrics.eta_seconds.set(eta)
        metrics.peak_memory_bytes.set(peak_memory_bytes())
        if "learning_rate" in logs:
            metrics.learning_rate.set(float(logs["learning_rate"]))
        if "grad_norm" in logs:
            metrics.grad_norm.set(float(logs["grad_norm"]))
        if self._peak:
            metrics.mfu_ratio.set(rate * self._flops_per_token / (self._peak * self._devices))

    @property
    def _rows_per_step(self) -> int:
        training = self._job.spec.training
        return self._job.world.size * training.per_device_batch_size * training.gradient_accumulation_steps

    @property
    def _devices(self) -> int:
        """The ranks of a CPU node share the peak that was measured on it."""
        world = self._job.world
        return world.size if world.gpus_per_node else world.nodes


def _duration(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
