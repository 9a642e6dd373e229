"""Everything that was observed for one FineTuneJob at one instant: the one argument of `decide`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from functools import cached_property

from finetune_contract.progress import ProgressRecord
from finetune_operator.core.fleet import Fleet
from finetune_operator.core.objects import LABEL_JOB_UID, ChildJob, FineTuneJob, GpuClass, Pod, Raw
from finetune_operator.core.options import Options
from finetune_operator.core.plan import Trust
from finetune_operator.core.stages import STAGES, Stage, current_stage
from finetune_operator.core.status import Status


class ObstacleKind(Enum):
    FOREIGN = "foreign"
    """An object of the name is there, and it is not ours or was made from another configuration."""
    LEFT_OVER = "left over"
    """An object of the name is there and is going away: of a job that was deleted, or deleted itself."""
    REFUSED = "refused"
    """The API server refuses the object: a quota, a policy, an invalid field."""


@dataclass(frozen=True)
class Obstacle:
    """Why a child could not be created just now."""

    kind: ObstacleKind
    child: str
    """Kind and name."""
    detail: str


@dataclass(frozen=True)
class Warning:
    """The newest warning event about an object: some troubles (volumes, quota) are reported nowhere else."""

    reason: str
    message: str


@dataclass(frozen=True)
class Snapshot:
    job: FineTuneJob
    status: Status
    """As stored: what is decided in this reconcile is not in it."""
    now: datetime
    options: Options
    jobs: tuple[ChildJob, ...] = ()
    pods: tuple[Pod, ...] = ()
    fleet: Fleet = field(default_factory=Fleet)
    progress: ProgressRecord | None = None
    """Pulled from rank 0 of the current training attempt."""
    trust: Trust = Trust.CACHE
    obstacle: Obstacle | None = None
    warning: Warning | None = None
    """About the object that the previous plan asked for."""
    all_stages: Sequence[Stage] = STAGES

    # --- stages -------------------------------------------------------------------------------------------------
    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Those that this job has."""
        return tuple(stage for stage in self.all_stages if stage.is_wanted(self.job.raw_spec))

    @property
    def stage(self) -> Stage:
        """What this run is at, by the status as stored."""
        return current_stage(self.stages, self.status)

    # --- questions ----------------------------------------------------------------------------------------------
    def job_named(self, name: str) -> ChildJob | None:
        return next((job for job in self.jobs if job.name == name), None)

    def owns(self, job: ChildJob) -> bool:
        return job.owner_uid == self.job.uid

    def pods_of(self, stage: Stage, run: int, number: int) -> tuple[Pod, ...]:
        return tuple(pod for pod in self.pods if (pod.role, pod.run, pod.attempt) == (stage.role, run, number))

    def gpu_class(self, name: str) -> GpuClass | None:
        return self.fleet.gpu_class(name)

    def is_alive(self, pod: Pod) -> bool:
        """May still write: neither ended, nor about to be deleted on a node that is gone (S3 fences that one)."""
        if pod.is_finished or pod.is_departed:
            return False
        return not pod.is_terminating or self._has_ready_node(pod)

    def _has_ready_node(self, pod: Pod) -> bool:
        # A pod that was never scheduled has no node, and vanishes by itself.
        return not pod.node_name or self.fleet.is_ready(pod.node_name)

    # --- what actions changed -----------------------------------------------------------------------------------
    def with_created(self, job: ChildJob) -> "Snapshot":
        return replace(self, jobs=(*(other for other in self.jobs if other.name != job.name), job))

    def without_job(self, uid: str) -> "Snapshot":
        return replace(self, jobs=tuple(job for job in self.jobs if job.uid != uid))


def parse_jobs(raws: Iterable[Raw]) -> tuple[ChildJob, ...]:
    return tuple(sorted((ChildJob.parse(raw) for raw in raws), key=lambda job: job.name))


def parse_pods(present: Iterable[Raw], departed: Iterable[Raw], job_uid: str) -> tuple[Pod, ...]:
    """Pods of this very object: those of a deleted namesake carry another uid."""
    pods = {raw["metadata"]["name"]: Pod.parse(raw, is_departed=True) for raw in departed if _is_of(raw, job_uid)}
    pods |= {raw["metadata"]["name"]: Pod.parse(raw) for raw in present if _is_of(raw, job_uid)}
    return tuple(pods[name] for name in sorted(pods))


def _is_of(raw: Raw, job_uid: str) -> bool:
    return (raw["metadata"].get("labels") or {}).get(LABEL_JOB_UID) == job_uid
