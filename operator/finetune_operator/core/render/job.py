"""The batch/v1 Job of one attempt: it runs once, and its end is classified by us and by nobody else."""

from typing import Any

from finetune_operator.core.objects import CONTAINER
from finetune_operator.core.render.child import Child, labels, metadata
from finetune_operator.core.render.jobfile import ANNOTATION_JOB_FILE, render_job_file
from finetune_operator.core.render.pod import render_pod_spec


def render_job(child: Child) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(child, child.name, labels(child)),
        "spec": {
            **_completions(child),
            "backoffLimit": 0,
            # The default starts the new pod beside the terminating one.
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": _pod_failure_policy(),
            "template": {
                "metadata": {"labels": labels(child), "annotations": {ANNOTATION_JOB_FILE: render_job_file(child)}},
                "spec": render_pod_spec(child),
            },
        },
    }


def _completions(child: Child) -> dict[str, Any]:
    count = {"completions": child.pod_count, "parallelism": child.pod_count}
    return {**count, "completionMode": "Indexed"} if child.stage.shape.is_gang else count


def _pod_failure_policy() -> dict[str, Any]:
    """FailJob keeps the cause in the Job's message when the pods are gone. `Ignore` would recreate one rank inside the
    attempt, in spite of backoffLimit 0. The disruption comes first: a pod that is killed while it is being drained did
    not fail by itself."""
    return {
        "rules": [
            {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {
                "action": "FailJob",
                "onExitCodes": {"containerName": CONTAINER, "operator": "NotIn", "values": [0]},
            },
        ]
    }
