"""What the demo shows at its end."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dev.demo.commands import AGAIN, DOWN, Shell
from dev.kit.specs import Object


def show(console: Console, job: Object, verified: dict[str, Any], namespace: str, shell: Shell) -> None:
    status = job["status"]
    artifact, evaluation = status["artifact"], status.get("evaluation", {})
    facts = Table.grid(padding=(0, 2))
    facts.add_row("adapter", Text(artifact["uri"], style="bold"))
    facts.add_row("digest", f"{artifact['digest']}")
    files = verified["manifest"]["files"]
    size = sum(file["size"] for file in files)
    facts.add_row("verified", f"{len(files)} files, {size:,} bytes downloaded, every SHA-256 holds")
    if evaluation:
        before, after = float(evaluation["lossBefore"]), float(evaluation["lossAfter"])
        facts.add_row(
            "held-out loss", f"{before:.3f} → {after:.3f}  ({evaluation['rows']} rows, {after - before:+.3f})"
        )
    console.print(Panel(facts, title=f"FineTuneJob {job['metadata']['name']}, run {status['run']}", title_align="left"))
    for answer in verified.get("answers", []):
        console.print(_answer(answer))
    console.print(_next_commands(job["metadata"]["name"], namespace, shell), highlight=False, soft_wrap=True)


def _answer(answer: dict[str, Any]) -> Table:
    table = Table(title=answer["question"], title_justify="left", title_style="bold", expand=True)
    table.add_column("base model", ratio=1)
    table.add_column("with the adapter", ratio=1)
    table.add_row(Text(answer["before"].strip()), Text(answer["after"].strip()))
    return table


def _next_commands(name: str, namespace: str, shell: Shell) -> str:
    lines = shell.lines(
        f"kubectl -n {namespace} get ftj",
        f"kubectl -n {namespace} describe ftj {name}",
        "kubectl get gpuclass",
        "kubectl -n finetune-system port-forward deployment/finetune-operator 8080  # curl localhost:8080/metrics",
        AGAIN,
        DOWN,
    )
    return f"Next:\n{lines}"
