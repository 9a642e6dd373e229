"""Shows a FineTuneJob while it runs, from nothing but its status."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from dev.kit.jobs import QUIET_SECONDS, condition, is_finished, is_observed
from dev.kit.specs import Object
from dev.localcluster.waiting import until


class Observable(Protocol):
    """What the watch asks of a cluster; `Jobs` is one."""

    def get(self, name: str) -> Object: ...

    def signs(self, name: str) -> Hashable:
        """Differs from one look to the next while the job makes progress."""
        ...


class Watch:
    """One line that is drawn again on an interactive terminal, a line for each change elsewhere."""

    def __init__(
        self,
        console: Console,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._console = console
        self._clock, self._sleep = clock, sleep
        self._last = ""

    def until_finished(self, jobs: Observable, name: str, *, run: int, quiet_seconds: float = QUIET_SECONDS) -> Object:
        """The object, once the given run (or a later one) has ended, however long it takes.

        Raises:
            GaveUpError: there was no sign of progress for `quiet_seconds`.
        """
        columns = (TextColumn("  {task.fields[phase]:<10}"), BarColumn(30), TextColumn("{task.description}"))
        with Progress(*columns, console=self._console, transient=True, refresh_per_second=4) as progress:
            task = progress.add_task("", total=None, phase="Pending")

            def look() -> Object | None:
                job = jobs.get(name)
                if job.get("status", {}).get("run", 0) < run or not is_observed(job):
                    return None
                self._show(progress, task, job)
                return job if is_finished(job) else None

            return until(
                f"{name} is finished",
                look,
                seconds=quiet_seconds,
                pause=0.5,
                progress=lambda: jobs.signs(name),
                clock=self._clock,
                sleep=self._sleep,
            )

    def _show(self, progress: Progress, task: TaskID, job: Object) -> None:
        phase = job["status"].get("phase", "")
        text = line(job)
        state = job["status"].get("progress", {})
        progress.update(
            task, phase=phase, description=text, completed=state.get("step", 0), total=state.get("totalSteps") or None
        )
        if not self._console.is_interactive and text != self._last:
            self._console.print(f"  {phase:<10} {text}", highlight=False)
        self._last = text


def line(job: Object) -> str:
    """Step, loss, tokens/s and ETA; or why there is none of these yet."""
    state: dict[str, Any] = job["status"].get("progress", {})
    if not state.get("totalSteps"):
        return str(condition(job, "Succeeded").get("message", ""))[:100]
    parts = [f"step {state.get('display', '')}"]
    for label, key, unit in (("loss", "loss", ""), ("", "tokensPerSecond", " tokens/s"), ("ETA", "eta", "")):
        if state.get(key):
            parts.append(f"{label} {state[key]}{unit}".strip())
    if state.get("stage") not in {None, "training"}:
        parts.append(state["stage"])
    return " · ".join(parts)
