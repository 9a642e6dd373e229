"""The chart as people install it: `helm upgrade --install`, uninstall."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dev.kit import namespaces
from dev.localcluster.commands import CommandError, output_of
from dev.localcluster.errors import CurableError
from dev.localcluster.kubectl import Kubectl

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "finetune-operator"
NAMESPACE = "finetune-system"
RELEASE = "finetune-operator"
DEPLOYMENT = "finetune-operator"


class Chart:
    """One release on one cluster.

    Args:
        helm: path of the program.
        kubeconfig, context: which cluster.
    """

    def __init__(self, helm: Path | str, kubeconfig: Path, context: str) -> None:
        self._argv = (str(helm), f"--kubeconfig={kubeconfig}", f"--kube-context={context}")

    def install(self, values: dict[str, Any], *, chart: Path = CHART, wait: bool = True) -> str:
        """Install or upgrade, with these values over the chart's own. CurableError when Helm refuses or gives up."""
        words = ["--wait", "--timeout=5m"] if wait else []
        try:
            return output_of(
                *self._argv, "upgrade", "--install", RELEASE, str(chart), "--namespace", NAMESPACE,
                "--create-namespace", "--values", "-", *words, stdin=json.dumps(values), timeout=330,
            )  # fmt: skip
        except CommandError as error:
            raise CurableError(
                f"Helm did not install the chart: {error.output.strip()[-1000:]}",
                f"Look at its pods: kubectl -n {NAMESPACE} describe pods",
            ) from error

    def uninstall(self) -> str:
        return output_of(*self._argv, "uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", timeout=120)


def prepare_cluster(kubectl: Kubectl) -> None:
    """What comes before the chart: its namespace, enforcing `restricted`, and the CRDs, which Helm never upgrades."""
    kubectl.apply(namespaces.restricted(NAMESPACE))
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))


def image_values(operator: str, trainer: str) -> dict[str, Any]:
    """Values for images named `repository:tag`."""

    def split(reference: str) -> dict[str, str]:
        repository, _, tag = reference.rpartition(":")
        return {"repository": repository, "tag": tag}

    return {"image": split(operator), "trainerImage": split(trainer)}
