"""Talk to one cluster by kubectl."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dev.localcluster.commands import CommandError, output_of
from dev.localcluster.layout import KUBERNETES_VERSION

Manifest = dict[str, Any]


_MINOR = int(KUBERNETES_VERSION.split(".")[1])


def find_kubectl() -> str | None:
    """kubectl from the PATH, when it is near enough to the version that we use."""
    found = shutil.which("kubectl")
    if not found:
        return None
    try:
        version = json.loads(output_of(found, "version", "--client", "--output=json"))
    except (CommandError, OSError, ValueError):
        return None
    return found if is_near(str(version.get("clientVersion", {}).get("minor", ""))) else None


def is_near(minor: str) -> bool:
    """Kubernetes supports one minor version of difference."""
    digits = "".join(itertools.takewhile(str.isdigit, minor))
    return bool(digits) and abs(int(digits) - _MINOR) <= 1


class Kubectl:
    """kubectl bound to a kubeconfig and a context."""

    def __init__(self, program: Path | str, kubeconfig: Path, context: str) -> None:
        self.kubeconfig, self.context = kubeconfig, context
        self.argv = (str(program), f"--kubeconfig={kubeconfig}", f"--context={context}")

    def __call__(self, *words: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Its output; CommandError when it fails."""
        return output_of(*self.argv, *words, stdin=stdin, timeout=timeout)

    def get(self, *words: str) -> Any:
        """Objects as JSON."""
        return json.loads(self("get", "-o", "json", *words))

    def apply(self, *manifests: Manifest) -> None:
        """Create or update."""
        self("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=as_list(manifests))

    def succeeds(self, *words: str) -> bool:
        try:
            self(*words, timeout=10)
        except (CommandError, subprocess.TimeoutExpired):
            return False
        return True


def as_list(manifests: Sequence[Manifest]) -> str:
    """Manifests as one document."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
