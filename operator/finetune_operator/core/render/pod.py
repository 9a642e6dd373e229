"""The pod of an attempt: the restricted Pod Security Standard, no token, and nothing writable but what is ours."""

from posixpath import basename, dirname
from typing import Any

from finetune_contract import names
from finetune_operator.core.objects import CONTAINER
from finetune_operator.core.quantity import parse_quantity
from finetune_operator.core.render.child import Child, labels
from finetune_operator.core.render.jobfile import ANNOTATION_JOB_FILE
from finetune_operator.core.spec import Spec

USER = 65532
_NODE_GONE_SECONDS = 30
"""Instead of 300: a lost node ends the attempt within half a minute."""
_FOLDERS = {
    "HOME": names.SCRATCH_DIR,
    "TMPDIR": names.SCRATCH_DIR,
    "HF_HOME": f"{names.SCRATCH_DIR}/huggingface",
    "TRITON_CACHE_DIR": f"{names.SCRATCH_DIR}/triton",
    "TORCHINDUCTOR_CACHE_DIR": f"{names.SCRATCH_DIR}/inductor",
}
"""HOME and TMPDIR have to exist before the first process starts (tempfile skips a TMPDIR that does not); the others
are made by the libraries that use them."""


def render_pod_spec(child: Child) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": child.options.termination_grace_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": _tolerations(child),
        "containers": [_container(child)],
        "volumes": _volumes(child),
    }
    affinity = _affinity(child)
    if affinity:
        spec["affinity"] = affinity
    if child.service:
        spec["subdomain"] = child.service
    if child.options.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in child.options.image_pull_secrets]
    return spec


# --- where -----------------------------------------------------------------------------------------------------
def _tolerations(child: Child) -> list[dict[str, Any]]:
    gone = [
        {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute"}
        | {"tolerationSeconds": _NODE_GONE_SECONDS}
        for what in ("not-ready", "unreachable")
    ]
    of_class = child.gpu_class.tolerations if child.stage.shape.needs_class else ()
    return gone + [dict(toleration) for toleration in of_class]


def _affinity(child: Child) -> dict[str, Any]:
    """A stage without devices runs anywhere."""
    affinity: dict[str, Any] = {}
    if child.stage.shape.needs_class and child.gpu_class.terms:
        terms = [{"matchExpressions": list(term["matchExpressions"])} for term in child.gpu_class.terms]
        affinity["nodeAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    if child.pod_count > 1:
        of_attempt = {"labelSelector": {"matchLabels": labels(child)}, "topologyKey": "kubernetes.io/hostname"}
        affinity["podAntiAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": [of_attempt]}
    return affinity


# --- the container ---------------------------------------------------------------------------------------------
def _container(child: Child) -> dict[str, Any]:
    return {
        "name": CONTAINER,
        "image": child.options.trainer_image,
        "imagePullPolicy": child.options.image_pull_policy,
        "args": [child.stage.role],
        "env": _environment(child),
        "ports": [{"name": names.PORT_NAME_METRICS, "containerPort": names.PORT_METRICS, "protocol": "TCP"}],
        "resources": _resources(child),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": names.TERMINATION_LOG,
        "terminationMessagePolicy": "File",
        "volumeMounts": _mounts(child),
    }


def _environment(child: Child) -> list[dict[str, str]]:
    values = {
        names.ENV_JOB_FILE: names.JOB_FILE,
        names.ENV_CREDENTIALS_DIR: names.CREDENTIALS_DIR,
        names.ENV_SCRATCH_DIR: names.SCRATCH_DIR,
        names.ENV_TERMINATION_LOG: names.TERMINATION_LOG,
        names.ENV_METRICS_PORT: str(names.PORT_METRICS),
        **_FOLDERS,
    }
    if child.service:
        values[names.ENV_MASTER_ADDR] = f"{child.name}-0.{child.service}"
    if parse_quantity(child.job.spec.resources.cpu) < 1:
        # A thread for each CPU of the node would spin while it waits for its fraction of one, and take it from others.
        values["OMP_NUM_THREADS"] = "1"
    return [{"name": name, "value": value} for name, value in values.items()]


def _resources(child: Child) -> dict[str, Any]:
    requests = child.stage.requests(child.job.spec)
    devices = {child.gpu_class.resource_name: str(child.gpus)} if child.gpus else {}
    return {
        "requests": {**requests, **devices},
        "limits": {"memory": requests["memory"], **devices},
    }


# --- volumes ---------------------------------------------------------------------------------------------------
def _mounts(child: Child) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": "job-file", "mountPath": dirname(names.JOB_FILE), "readOnly": True},
        {"name": "scratch", "mountPath": names.SCRATCH_DIR},
        {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108 - the mount point itself
    ]
    if child.job.spec.storage.secret_name:
        mounts.append({"name": "credentials", "mountPath": names.CREDENTIALS_DIR, "readOnly": True})
    for index, claim in enumerate(claims(child.job.spec)):
        mounts.append({"name": f"claim-{index}", "mountPath": f"{names.CLAIMS_DIR}/{claim}", "readOnly": True})
    return mounts


def _volumes(child: Child) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [
        {"name": "job-file", "downwardAPI": {"defaultMode": 0o444, "items": [_job_file_item()]}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
    ]
    secret = child.job.spec.storage.secret_name
    if secret:
        volumes.append({"name": "credentials", "secret": {"secretName": secret, "defaultMode": 0o440}})
    for index, claim in enumerate(claims(child.job.spec)):
        # By number: the name of a claim may have dots, and more characters than the name of a volume.
        volumes.append({"name": f"claim-{index}", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    return volumes


def _job_file_item() -> dict[str, Any]:
    field = {"fieldPath": f"metadata.annotations['{ANNOTATION_JOB_FILE}']"}
    return {"path": basename(names.JOB_FILE), "fieldRef": field}


def claims(spec: Spec) -> list[str]:
    """Names of the PersistentVolumeClaims that pvc:// sources read from, each once."""
    sources = [spec.model.source, *(data.source for data in spec.dataset.train)]
    if spec.dataset.evaluation:
        sources.append(spec.dataset.evaluation.source)
    return sorted({source.removeprefix("pvc://").split("/")[0] for source in sources if source.startswith("pvc://")})
