"""Downloads the adapter in a pod of the trainer image, checks every digest, and asks base and adapter the same."""

from __future__ import annotations

import json
from typing import Any

from dev.kit.specs import Object
from dev.localcluster.kubectl import Kubectl
from finetune_contract import names

POD = "verify-adapter"


def verify_in_pod(kubectl: Kubectl, namespace: str, image: str, job: Object, questions: list[str]) -> dict[str, Any]:
    """What `finetune-trainer verify --json` printed for the job's artefact.

    Raises:
        CommandError: the pod failed; with its log.
    """
    kubectl("-n", namespace, "delete", "pod", POD, "--ignore-not-found", "--wait=true", timeout=120)
    kubectl.apply(_pod(namespace, image, job, questions))
    try:
        kubectl(
            "-n",
            namespace,
            "wait",
            "pod",
            POD,
            "--for=jsonpath={.status.phase}=Succeeded",
            "--timeout=240s",
            timeout=250,
        )
    except Exception as error:
        log = kubectl("-n", namespace, "logs", POD, "--tail=40")
        raise RuntimeError(f"the adapter did not verify:\n{log}") from error
    log = kubectl("-n", namespace, "logs", POD)
    kubectl("-n", namespace, "delete", "pod", POD, "--wait=false")
    return _document(log)


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
