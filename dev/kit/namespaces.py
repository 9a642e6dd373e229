"""Namespaces that enforce the `restricted` Pod Security level."""

from __future__ import annotations

from dev.kit.specs import SECRET
from dev.localcluster.kubectl import Kubectl
from dev.localcluster.s3 import S3


def restricted(name: str) -> dict[str, object]:
    level = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": level}}


def create(kubectl: Kubectl, name: str, s3: S3) -> None:
    """The namespace, with the S3 keys as the Secret that the examples name."""
    kubectl.apply(restricted(name))
    kubectl.apply(s3.secret(name, SECRET))
