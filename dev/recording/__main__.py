"""Render pictures of a run: `python -m dev.recording --help`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dev.kit import entrypoint
from dev.localcluster.errors import CurableError
from dev.recording import card, loss, terminal
from dev.recording import cast as casts
from finetune_trainer.artifacts import loss_curve

LARGEST_BYTES = 150_000
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

Source = Annotated[Path, typer.Argument(exists=True, dir_okay=False)]
Target = Annotated[Path, typer.Argument(dir_okay=False)]


@app.command("terminal")
def terminal_svg(cast: Source, svg: Target) -> None:
    """An asciicast, as `python -m dev.demo --record` writes it, as an animated SVG."""
    _write(svg, terminal.render(casts.read(cast)))


@app.command("loss")
def loss_svg(
    metrics: Source, svg: Target, title: Annotated[str, typer.Option()] = "quickstart: loss of each step"
) -> None:
    """The loss curve out of a training.json or manifest.json, as an SVG."""
    _write(svg, loss_curve.render(loss.history(metrics), title=title))


@app.command("card")
def card_sample(readme: Source, sample: Target) -> None:
    """A sample of a model card."""
    _write(sample, card.sample(readme.read_text(encoding="utf-8")))


@app.command()
def fetch(folder: Annotated[Path, typer.Argument(file_okay=False)]) -> None:
    """manifest.json and README.md of the adapter that the demo published last."""
    from dev.recording import artifact  # loads the whole demo

    artifact.fetch(folder)


def _write(file: Path, text: str) -> None:
    size = len(text.encode())
    if size > LARGEST_BYTES:
        raise CurableError(
            f"{file} would have {size:,} bytes; a README loads {LARGEST_BYTES:,} at most.",
            "Record a shorter run, or cut lines from the recording.",
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    print(f"{file}: {size:,} bytes")


def main() -> int:
    """Ends by SystemExit, but for what exit_code prints."""
    try:
        app(prog_name="python -m dev.recording")
    except (ValueError, OSError) as error:
        raise CurableError(str(error), "`python -m dev.recording --help` says which files it takes.") from error
    return 0


if __name__ == "__main__":
    sys.exit(entrypoint.exit_code(main, Console(stderr=True), cure="Run it again.", interrupted="Stopped."))
