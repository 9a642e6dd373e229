"""Shows a FineTuneJob while it runs, from nothing but its status."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from dev.kit.jobs import Jobs, Object, condition, is_finished, is_observed


class Watch:
    """One line that is drawn again on a terminal, a line for each change elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""

    def until_finished(self, jobs: Jobs, name: str, *, run: int, seconds: float = 1200) -> Object:
        """Returns the object once the given run (or a later one) has ended.

        Raises:
            AssertionError: it did not end in time; with its status, pods and logs.
        """
        columns = (TextColumn("  {task.fields[phase]:<10}"), BarColumn(30), TextColumn("{task.description}"))
        with Progress(*columns, console=self._console, transient=True, refresh_per_second=4) as progress:
            task = progress.add_task("", total=None, phase="Pending")

            def seen(job: Object) -> bool:
                current = job.get("status", {}).get("run", 0) >= run and is_observed(job)
                if current:
                    self._show(progress, task, job)
                return current and is_finished(job)

            return jobs.wait(name, seen, what="finished", seconds=seconds)

    def _show(self, progress: Progress, task: TaskID, job: Object) -> None:
        phase = job["status"].get("phase", "")
        text = line(job)
        state = job["status"].get("progress", {})
        progress.update(
            task, phase=phase, description=text, completed=state.get("step", 0), total=state.get("totalSteps") or None
        )
        if not self._console.is_terminal and text != self._last:
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
