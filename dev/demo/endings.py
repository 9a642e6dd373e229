"""How the demo ends when there is no adapter: the object's own condition, and the command to type next."""

from __future__ import annotations

from dev.demo.commands import AGAIN, Shell
from dev.kit.jobs import condition
from dev.kit.specs import Object
from dev.localcluster.errors import CurableError


def failed(job: Object, namespace: str, shell: Shell) -> CurableError:
    """The run has ended without success."""
    return CurableError(f"{_named(job)} has failed.\n{conditions(job)}", _next(job, namespace, shell))


def stuck(job: Object, namespace: str, shell: Shell, *, seconds: float) -> CurableError:
    """Nothing has moved for so long."""
    what = f"{_named(job)} has made no progress for {seconds / 60:g} minutes: no new step, phase, condition or event."
    return CurableError(f"{what}\n{conditions(job)}", _next(job, namespace, shell))


def deleted(name: str) -> CurableError:
    """Somebody deleted the object while the demo followed it."""
    return CurableError(f"FineTuneJob {name} was deleted while the demo followed it.", f"Start it again:\n  {AGAIN}")


def conditions(job: Object) -> str:
    """Type, status, reason and message of the summary, and of Stalled where the operator set it."""
    shown = [item for item in (condition(job, "Succeeded"), condition(job, "Stalled")) if item]
    lines = [f"  {item['type']}={item['status']} {item['reason']}: {item['message']}" for item in shown]
    return "\n".join(lines) or "  It has no condition yet: the operator has not seen it."


def _named(job: Object) -> str:
    return f"FineTuneJob {job['metadata']['name']}"


def _next(job: Object, namespace: str, shell: Shell) -> str:
    name = job["metadata"]["name"]
    lines = shell.lines(
        f"kubectl -n {namespace} describe ftj {name}",
        f"kubectl -n {namespace} logs -l finetune.dev/job-name={name} --tail=40",
        AGAIN,
    )
    return f"Next:\n{lines}"
