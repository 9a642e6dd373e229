"""The operator's own metrics, with Prometheus names and units. Every label has a bounded set of values."""

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finetune_operator.ports import FINETUNEJOBS, Change, Json, Key

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PHASES = ("Pending", "Preparing", "Training", "Suspended", "Succeeded", "Failed")
"""Reported even when no job is in them; others are added as they occur."""
_REASONS_LIMIT = 64
_PREFIX = "finetune_operator"


disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter, which nobody reads


class Metrics:
    """All metrics of one process, in a registry of their own.

    Args:
        count_jobs: number of FineTuneJobs by phase, asked at each scrape.
        queue_depth: keys that wait for a worker, likewise.
    """

    def __init__(
        self,
        version: str,
        *,
        count_jobs: Callable[[], Mapping[str, int]] = dict,
        queue_depth: Callable[[], int] = int,
    ) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        registry.register(_AtScrape(count_jobs, queue_depth))
        self._reconcile_duration = Histogram(
            f"{_PREFIX}_reconcile_duration_seconds",
            "Time of one reconcile.",
            buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60),
            registry=registry,
        )
        self._reconcile_errors = Counter(
            f"{_PREFIX}_reconcile_errors", "Reconciles that failed and are retried.", ["kind"], registry=registry
        )
        for kind in ("Conflict", "Retryable"):  # start at 0: otherwise a rate would miss the first increase
            self._reconcile_errors.labels(kind)
        self._queue_latency = Histogram(
            f"{_PREFIX}_workqueue_latency_seconds",
            "Time that a key waited for a worker.",
            buckets=(0.001, 0.01, 0.1, 1, 10, 60),
            registry=registry,
        )
        self._requests = Counter(
            f"{_PREFIX}_kube_api_requests",
            "Requests to the API server, without watches.",
            ["verb", "resource", "code"],
            registry=registry,
        )
        self._attempts = Counter(
            f"{_PREFIX}_attempts", "Attempts that ended, by the reason of the end.", ["reason"], registry=registry
        )
        self._leader = Gauge(f"{_PREFIX}_leader", "1 in the replica that leads.", registry=registry)
        Gauge(f"{_PREFIX}_build_info", "Always 1.", ["version"], registry=registry).labels(version).set(1)
        self._reasons: set[str] = set()

    def render(self) -> bytes:
        return generate_latest(self.registry)

    def reconciled(self, seconds: float) -> None:
        self._reconcile_duration.observe(seconds)

    def failed(self, kind: str) -> None:
        """`kind` is the name of the exception's class."""
        self._reconcile_errors.labels(kind).inc()

    def waited(self, seconds: float) -> None:
        self._queue_latency.observe(seconds)

    def requested(self, verb: str, resource: str, code: str) -> None:
        self._requests.labels(verb, resource, code).inc()

    def leads(self, is_leader: bool) -> None:
        self._leader.set(is_leader)

    def attempt_ended(self, reason: str) -> None:
        """Reasons of a trainer's record are text from outside: beyond the limit they share one label value."""
        if reason not in self._reasons and len(self._reasons) >= _REASONS_LIMIT:
            reason = "Other"
        self._reasons.add(reason)
        self._attempts.labels(reason).inc()


class _AtScrape(Collector):
    """Figures that are known anyway and computed only when scraped."""

    def __init__(self, count_jobs: Callable[[], Mapping[str, int]], queue_depth: Callable[[], int]) -> None:
        self._count_jobs = count_jobs
        self._queue_depth = queue_depth

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        jobs = GaugeMetricFamily(f"{_PREFIX}_jobs", "FineTuneJobs by phase.", labels=["phase"])
        for phase, count in (dict.fromkeys(PHASES, 0) | dict(self._count_jobs())).items():
            jobs.add_metric([phase], count)
        yield jobs
        yield GaugeMetricFamily(
            f"{_PREFIX}_workqueue_depth", "Keys waiting for a worker.", value=float(self._queue_depth())
        )


def ended_attempts(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Reasons of the attempts that `status.history` of a FineTuneJob gained."""

    def identity(entry: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(entry.get(name) for name in ("run", "role", "attempt", "time"))

    known = {identity(entry) for entry in before.get("history") or ()}
    return [str(entry.get("reason")) for entry in after.get("history") or () if identity(entry) not in known]


class EndedAttempts:
    """Follows the history of each FineTuneJob, and reports the reasons of the attempts that end.

    Args:
        on_end: called with each reason.
    """

    def __init__(self, on_end: Callable[[str], None]) -> None:
        self._on_end = on_end
        self._histories: dict[Key, Json] = {}

    def __call__(self, change: Change) -> None:
        if change.resource != FINETUNEJOBS:
            return
        if change.after is None:
            self._histories.pop(change.key, None)
            return
        history = {"history": (change.after.get("status") or {}).get("history")}
        if change.key in self._histories:  # what happened before this process is not its count
            for reason in ended_attempts(self._histories[change.key], history):
                self._on_end(reason)
        self._histories[change.key] = history


def phase_counts(jobs: Iterable[Json]) -> dict[str, int]:
    """Of FineTuneJobs."""
    return dict(Counts(str((job.get("status") or {}).get("phase") or "Pending") for job in jobs))
