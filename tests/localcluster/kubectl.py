"""Talk to one cluster by kubectl."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.localcluster.commands import CommandError, output_of

Manifest = dict[str, Any]


class Kubectl:
    """kubectl bound to a kubeconfig and a context."""

    def __init__(self, program: Path | str, kubeconfig: Path, context: str) -> None:
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
