"""What the children of a job have in common: which one it is, its labels, its owner, its place in the run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_contract import names
from finetune_contract.jobspec import Attempt, World
from finetune_operator.core.objects import LABEL_JOB_UID, FineTuneJob, GpuClass, Raw
from finetune_operator.core.options import Options
from finetune_operator.core.stages import Stage


@dataclass(frozen=True)
class Child:
    """One attempt of one stage, with all that its rendering needs."""

    job: FineTuneJob
    stage: Stage
    run: int
    config_hash: str
    world: World
    options: Options
    gpu_class: GpuClass
    attempt: Attempt
    """status.currentAttempt, as the trainer reads it."""
    prepared: Raw
    """status.prepared; empty for a preparation."""

    @property
    def number(self) -> int:
        return self.attempt.number

    @property
    def name(self) -> str:
        return self.stage.child_name(self.job.name, self.run, self.number)

    @property
    def service(self) -> str | None:
        """Name of the headless Service that the ranks meet behind; None on one node."""
        return names.service_name(self.job.name, self.run) if self.pod_count > 1 else None

    @property
    def pod_count(self) -> int:
        return self.world.nodes if self.stage.shape.is_gang else 1

    @property
    def gpus(self) -> int:
        """In each pod."""
        return self.world.gpus_per_node if self.stage.shape.needs_class else 0


def labels(child: Child) -> dict[str, str]:
    """Ours alone: a copy of the parent's would make Argo CD claim and prune the children."""
    return {
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        names.LABEL_JOB_NAME: child.job.name,
        LABEL_JOB_UID: child.job.uid,
        names.LABEL_RUN: str(child.run),
        names.LABEL_ATTEMPT: str(child.number),
        names.LABEL_ROLE: child.stage.role,
    }


def metadata(child: Child, name: str, with_labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": child.job.namespace,
        "labels": dict(with_labels),
        "annotations": {names.ANNOTATION_CONFIG_HASH: child.config_hash},
        "ownerReferences": [
            {
                "apiVersion": f"{names.GROUP}/{names.VERSION}",
                "kind": "FineTuneJob",
                "name": child.job.name,
                "uid": child.job.uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    }
