"""Downloads the adapter in a pod of the trainer image, checks every digest, and asks base and adapter the same."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

from dev.kit.jobs import QUIET_SECONDS
from dev.kit.specs import Object
from dev.localcluster.errors import CurableError
from dev.localcluster.kubectl import Kubectl
from dev.localcluster.waiting import GaveUpError, until
from finetune_contract import names

POD = "verify-adapter"


def verify_in_pod(kubectl: Kubectl, namespace: str, image: str, job: Object, questions: list[str]) -> dict[str, Any]:
    """What `finetune-trainer verify --json` printed for the job's artifact.

    Raises:
        CurableError: the pod failed, or nothing of it moved for five minutes; with the end of its log.
    """
    words = ("-n", namespace)
    kubectl(*words, "delete", "pod", POD, "--ignore-not-found", "--wait=true", timeout=120)
    kubectl.apply(_pod(namespace, image, job, questions))

    def status() -> Object:
        return dict(kubectl.get(*words, "pod", POD)["status"])

    def log(*more: str) -> str:
        return kubectl(*words, "logs", POD, *more) if kubectl.succeeds(*words, "logs", POD, "--tail=1") else ""

    def movement() -> Hashable:
        states = [tuple(item["state"]) for item in status().get("containerStatuses", [])]
        return status().get("phase"), *states, len(log())

    def ended() -> str | None:
        phase = str(status().get("phase"))
        return phase if phase in {"Succeeded", "Failed"} else None

    try:
        phase = until(f"pod {POD} has ended", ended, seconds=QUIET_SECONDS, pause=1, progress=movement)
    except GaveUpError as error:
        raise _unverified(f"Pod {POD} has made no progress", log("--tail=20"), namespace) from error
    if phase != "Succeeded":
        raise _unverified("The adapter did not verify", log("--tail=20"), namespace)
    document = _document(log())
    kubectl(*words, "delete", "pod", POD, "--wait=false")
    return document


def _unverified(what: str, log: str, namespace: str) -> CurableError:
    return CurableError(f"{what}; the end of its log:\n{log}", f"Next:\n  kubectl -n {namespace} describe pod {POD}")


def _document(log: str) -> dict[str, Any]:
    """The JSON document in a log that may have warnings of libraries around it."""
    start = log.index("\n{\n") + 1 if "\n{\n" in log else log.index("{")
    document: dict[str, Any] = json.JSONDecoder().raw_decode(log[start:])[0]
    return document


def _pod(namespace: str, image: str, job: Object, questions: list[str]) -> Object:
    storage = job["spec"]["storage"]
    args = ["verify", job["status"]["artifact"]["uri"], "--json", "--region", storage["region"]]
    if endpoint := storage.get("endpoint"):
        args += ["--endpoint", endpoint]
    for question in questions:
        args += ["--ask", question]
    scratch = names.SCRATCH_DIR
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD, "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumes": [
                {"name": "scratch", "emptyDir": {}},
                {"name": "s3", "secret": {"secretName": storage["secretName"], "defaultMode": 0o440}},
            ],
            "containers": [
                {
                    "name": "verify",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "args": args,
                    "env": [
                        {"name": "HOME", "value": scratch},
                        {"name": "TMPDIR", "value": scratch},
                        {"name": "HF_HOME", "value": f"{scratch}/hf"},
                    ],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        {"name": "scratch", "mountPath": scratch},
                        {"name": "s3", "mountPath": names.CREDENTIALS_DIR, "readOnly": True},
                    ],
                }
            ],
        },
    }
