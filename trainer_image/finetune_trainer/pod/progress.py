"""How far a start is: for the operator (`/progress`), for Prometheus (`/metrics`), for people (one line a report).

The first rank of each node serves `/metrics`; rank 0 serves `/progress` too, prints, and keeps the record in a file for
the supervisor. Nothing here can end a training: who asks, or does not, changes nothing.
"""

import os
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from transformers import TrainerCallback

from finetune_contract import names
from finetune_contract.jobspec import JobFile
from finetune_contract.progress import ProgressRecord
from finetune_trainer.pod import outcome
from finetune_trainer.pod.metrics import Metrics, flops_per_token, peak_flops, peak_memory_bytes


class Progress:
    """The record, changed by training and by the upload's thread, read by the server's."""

    def __init__(self, job: JobFile, *, file: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._file = file
        self._record = ProgressRecord(run=job.identity.run, attempt=job.attempt.number, stage="starting")

    @property
    def record(self) -> ProgressRecord:
        return self._record

    def update(self, **fields: Any) -> None:
        with self._lock:
            self._record = self._record.model_copy(update=fields)
            if self._file:
                outcome.write_atomically(self._file, self._record.model_dump_json(by_alias=True).encode())


class Server:
    """HTTP in a thread of its own, on `FINETUNE_METRICS_PORT` unless told otherwise."""

    def __init__(self, metrics: Metrics, progress: Progress | None, port: int | None = None) -> None:
        self.port = int(os.environ.get(names.ENV_METRICS_PORT, names.PORT_METRICS)) if port is None else port
        self._handler = _handler(metrics, progress)
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> "Server":
        try:
            self._server = ThreadingHTTPServer(("", self.port), self._handler)
        except OSError as error:
            print(f"no metrics: port {self.port} cannot be served ({error}); training goes on", flush=True)
            return self
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()


def _handler(metrics: Metrics, progress: Progress | None) -> type[BaseHTTPRequestHandler]:
    def answers(path: str) -> tuple[str, bytes] | None:
        if path == "/metrics":
            return CONTENT_TYPE_LATEST, generate_latest(metrics.registry)
        if path == "/progress" and progress is not None:
            return "application/json", progress.record.model_dump_json(by_alias=True, exclude_none=True).encode()
        return None

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # a client that never finishes its request holds a thread no longer

        def do_GET(self) -> None:
            answer = answers(self.path)
            kind, body = answer or ("text/plain", b"/metrics, and /progress on rank 0\n")
            self.send_response(200 if answer else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Scrapes are no news."""

    return Handler


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Fills record, metrics and the printed line from what the Trainer reports.

    Args:
        speaks: on rank 0.
        measure_peak: what the device could do at most; measured once, before the first step.
    """

    def __init__(
        self,
        job: JobFile,
        progress: Progress,
        metrics: Metrics,
        *,
        speaks: bool,
        measure_peak: Callable[[], float | None] = peak_flops,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job, self._progress, self._metrics, self._speaks = job, progress, metrics, speaks
        self._measure_peak, self._clock = measure_peak, clock
        self._idle_since: float | None = None
        self._reported = (0.0, 0, 0)  # time, step, tokens
        self._peak: float | None = None
        self._flops_per_token = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self._speaks:
            self._peak = self._measure_peak()
            self._flops_per_token = flops_per_token(model, self._job.spec.method.type) if model is not None else 0.0
        self._reported = (self._clock(), state.global_step, int(state.num_input_tokens_seen))
        self._metrics.steps_planned.set(state.max_steps)
        self._progress.update(step=state.global_step, total_steps=state.max_steps, epoch=float(state.epoch or 0))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._idle_since is not None:
            self._metrics.data_wait_seconds.add(self._clock() - self._idle_since)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._idle_since = self._clock()
        self._metrics.step.set(state.global_step)
        self._metrics.last_step_timestamp_seconds.set_to_current_time()
        self._metrics.samples.reach(state.global_step * self._rows_per_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._idle_since = None  # what passed was not waiting for rows

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._idle_since = None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return  # the summary at the end, or an evaluation
        now, step, tokens = self._clock(), state.global_step, int(state.num_input_tokens_seen)
        then, step_then, tokens_then = self._reported
        self._reported = (now, step, tokens)
        elapsed = max(now - then, 1e-9)
        rate = (tokens - tokens_then) / elapsed
        pace = elapsed / max(step - step_then, 1)
        eta = round((state.max_steps - step) * pace)
        self._progress.update(
            step=step,
            total_steps=state.max_steps,
            epoch=float(state.epoch or 0),
            loss=float(logs["loss"]),
            tokens_per_second=round(rate, 1),
            tokens_total=tokens,
            eta_seconds=eta,
        )
        self._measure(state, logs, rate, eta)
        if self._speaks:
            print(
                f"step {step}/{state.max_steps}  epoch {state.epoch or 0:.2f}  loss {float(logs['loss']):.4f}  "
                f"{rate:,.0f} tok/s  ETA {_duration(eta)}",
                flush=True,
            )

    def _measure(self, state: Any, logs: dict[str, Any], rate: float, eta: int) -> None:
        metrics = self._metrics
        metrics.loss.set(float(logs["loss"]))
        metrics.epoch.set(float(state.epoch or 0))
        metrics.tokens_per_second.set(rate)
        metrics.tokens.reach(int(state.num_input_tokens_seen))
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
        """CPU ranks of one node share what was measured on it."""
        world = self._job.world
        return world.size if world.gpus_per_node else world.nodes


def _duration(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
