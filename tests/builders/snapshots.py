"""Snapshots: a job somewhere in its life, and what is seen of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from finetune_contract.progress import ProgressRecord
from finetune_operator.core.fleet import Fleet
from finetune_operator.core.identity import first_rule_hash, run_hash
from finetune_operator.core.objects import FineTuneJob, GpuClass, Node
from finetune_operator.core.options import Options
from finetune_operator.core.plan import Trust
from finetune_operator.core.snapshot import Obstacle, Snapshot, Warning, parse_jobs, parse_pods
from finetune_operator.core.status import Status
from tests.builders.children import HASH, ChildBuilder, PodBuilder
from tests.builders.jobs import JobBuilder, Json, make_class, make_job, make_node

NOW = datetime(2026, 1, 1, 0, 5, tzinfo=UTC)
OPTIONS = Options(trainer_image="registry/finetune-trainer:1")
PREPARED: Json = {"uri": "s3://adapters/faq/.finetune/prepared/abc", "digest": "sha256:abc", "parameters": 135_000_000}


class SnapshotBuilder:
    def __init__(self, job: JobBuilder) -> None:
        self._job = job
        self._jobs: list[Json] = []
        self._pods: list[Json] = []
        self._departed: list[Json] = []
        self._classes: list[Json] = [make_class("cpu")]
        self._nodes: list[Json] = [make_node("node-1"), make_node("node-2")]
        self._more: dict[str, Any] = {}

    def build(self) -> Snapshot:
        raw = self._job.build()
        return Snapshot(
            job=FineTuneJob(raw),
            status=Status.parse(raw.get("status") or {}),
            jobs=parse_jobs(self._jobs),
            pods=parse_pods(self._pods, self._departed, raw["metadata"]["uid"]),
            fleet=Fleet.of(map(GpuClass.parse, self._classes), map(Node.parse, self._nodes)),
            **{"now": NOW, "options": OPTIONS, **self._more},
        )

    # --- where in its life -----------------------------------------------------------------------------------
    def preparing(self, attempt: int = 1, *, created: bool = True, **status: Any) -> SnapshotBuilder:
        """The number stands in status; with `created`, the child is known by its uid."""
        child = {"name": f"faq-r1-p{attempt}", "uid": f"uid-of-faq-r1-p{attempt}"} if created else {}
        current = {"role": "prepare", "number": attempt, "reason": "FirstAttempt", "resume": "none"}
        known = {"phase": "Preparing", "prepareAttempt": attempt, "currentAttempt": current, "child": child}
        return self.with_status(**{**known, **status})

    def training(self, attempt: int = 1, *, created: bool = True, **status: Any) -> SnapshotBuilder:
        child = {"name": f"faq-r1-a{attempt}", "uid": f"uid-of-faq-r1-a{attempt}"} if created else {}
        current = {"role": "train", "number": attempt, "reason": "FirstAttempt", "resume": "newest"}
        known = {"phase": "Training", "prepareAttempt": 1, "prepared": PREPARED, "attempt": attempt, "child": child}
        return self.with_status(**{**known, "currentAttempt": current, **status})

    def ended(self, status: str, reason: str) -> SnapshotBuilder:
        condition = {"type": "Succeeded", "status": status, "reason": reason, "message": "over"}
        return self.training(conditions=[condition], child={}, phase="Succeeded" if status == "True" else "Failed")

    def with_status(self, **status: Any) -> SnapshotBuilder:
        status = {"run": 1, "runHash": HASH, "observedGeneration": 1, **status}
        self._job.with_status(**{name: value for name, value in status.items() if value not in ({}, None)})
        return self

    def with_own_hash(self) -> SnapshotBuilder:
        """runHash as it is computed from the spec."""
        self._job.with_status(runHash=run_hash(self._job.build()["spec"]))
        return self

    def with_hash_of_0_1_0(self) -> SnapshotBuilder:
        """runHash by rule 1, as it stands in objects that 0.1.0 left."""
        self._job.with_status(runHash=first_rule_hash(self._job.build()["spec"]))
        return self

    def with_job(self, change: Callable[[JobBuilder], JobBuilder]) -> SnapshotBuilder:
        """An edit of the job: what was computed from the spec before stays as it is."""
        self._job = change(self._job)
        return self

    def storing(self, status: Mapping[str, Any]) -> SnapshotBuilder:
        """The status as it was written."""
        self._job.with_status(**status)
        return self

    # --- what is seen ----------------------------------------------------------------------------------------
    def seeing(self, *objects: ChildBuilder | PodBuilder) -> SnapshotBuilder:
        for builder in objects:
            (self._jobs if isinstance(builder, ChildBuilder) else self._pods).append(builder.build())
        return self

    def having_seen(self, *pods: PodBuilder) -> SnapshotBuilder:
        self._departed += [pod.build() for pod in pods]
        return self

    def with_classes(self, *classes: Json) -> SnapshotBuilder:
        self._classes = list(classes)
        return self

    def with_nodes(self, *nodes: Json) -> SnapshotBuilder:
        self._nodes = list(nodes)
        return self

    def with_progress(self, record: ProgressRecord) -> SnapshotBuilder:
        return self._with(progress=record)

    def with_obstacle(self, obstacle: Obstacle) -> SnapshotBuilder:
        return self._with(obstacle=obstacle)

    def with_warning(self, reason: str, message: str) -> SnapshotBuilder:
        return self._with(warning=Warning(reason, message))

    def at(self, now: datetime) -> SnapshotBuilder:
        return self._with(now=now)

    def trusting(self, trust: Trust) -> SnapshotBuilder:
        return self._with(trust=trust)

    def _with(self, **more: Any) -> SnapshotBuilder:
        self._more |= more
        return self


def make_snapshot(job: JobBuilder | None = None) -> SnapshotBuilder:
    return SnapshotBuilder(job or make_job())
