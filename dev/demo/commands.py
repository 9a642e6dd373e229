"""Commands as a person types them next: for this cluster, from any shell."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from dev.localcluster.kubectl import Kubectl

AGAIN = "make demo     # again; a job that still runs is followed, a finished one gets a new run"
DOWN = "make down     # stop the cluster"


@dataclass(frozen=True)
class Shell:
    """kubectl in a shell that knows nothing of the cluster yet."""

    setup: str
    """To be typed once."""
    kubectl: str

    @classmethod
    def of(cls, kubectl: Kubectl) -> Shell:
        path = "" if shutil.which("kubectl") else f" PATH={Path(kubectl.argv[0]).parent}:$PATH"
        context = f" --context={kubectl.context}" if os.environ.get("KUBE_CONTEXT") else ""
        return cls(f"export KUBECONFIG={_from_home(kubectl.kubeconfig)}{path}", f"kubectl{context}")

    def lines(self, *commands: str) -> str:
        """The setup and these commands, indented; `kubectl` at the start of a command is replaced by ours."""
        typed = [self.kubectl + command.removeprefix("kubectl") if command.startswith("kubectl ") else command
                 for command in commands]  # fmt: skip
        return "\n".join(f"  {line}" for line in (self.setup, *typed))


def _from_home(path: Path) -> str:
    """Shorter to read, and the same in everybody's recording."""
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)
