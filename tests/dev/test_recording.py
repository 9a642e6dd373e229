"""Pictures for the README, from a synthetic recording and a synthetic run."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console
from typer.testing import CliRunner

from dev.demo import recorder
from dev.recording import card, cast, loss, terminal
from dev.recording.__main__ import app
from finetune_trainer.artifacts import loss_curve

SVG = "{http://www.w3.org/2000/svg}"


def write_cast(file: Path, *lines: tuple[float, str], columns: int = 110) -> Path:
    header = {"version": 2, "width": columns, "height": 30, "timestamp": 0, "title": "make demo"}
    events = [[at, "o", f"{text}\r\n"] for at, text in lines]
    file.write_text("".join(json.dumps(item) + "\n" for item in (header, *events)))
    return file


def coloured(markup: str) -> str:
    output = io.StringIO()
    Console(file=output, force_terminal=True, color_system="truecolor", width=200).print(markup, end="")
    return output.getvalue()


def demo_like(steps: int = 60) -> list[tuple[float, str]]:
    """A stage, many lines of progress, the end."""
    head = [(0.0, coloured("[bold]finetune-operator demo[/] on a Kubernetes of our own, two nodes"))]
    head += [(405.0, coloured("[green]✓[/] cluster: API server, nodes, DNS, S3 [dim]405 s[/]"))]
    training = [(420.0 + 5 * n, f"  Training   step {n}/{steps} · loss 2.1 · 300 tokens/s") for n in range(steps)]
    return [*head, *training, (900.0, coloured("[green]✓[/] done in 900 s"))]


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


# --- recording ---------------------------------------------------------------------------------------------------
def test_a_command_is_shown_and_recorded_line_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = "import sys; print('one'); print('two', file=sys.stderr); raise SystemExit(3)"
    file = tmp_path / "new" / "demo.cast"
    assert recorder.record([sys.executable, "-c", script], file, title="make demo") == 3
    assert capsys.readouterr().out == "one\ntwo\n"
    recorded = cast.read(file)
    assert (recorded.title, [line.text for line in recorded.lines]) == ("make demo", ["one", "two"])


def test_rich_is_asked_for_colours_and_for_no_line_that_is_drawn_again(tmp_path: Path) -> None:
    script = """
from rich.console import Console
from typer.testing import CliRunner
from rich.progress import Progress
console = Console()
with Progress(console=console, transient=True) as progress:
    task = progress.add_task("moves", total=2)
    progress.advance(task)
with console.status("turns"):
    console.print("[green]ok[/]")
"""
    recorder.record([sys.executable, "-c", script], tmp_path / "cast", title="")
    lines = [line.text for line in cast.read(tmp_path / "cast").lines if line.text]
    assert lines == ["\x1b[32mok\x1b[0m"]


# --- the pace ----------------------------------------------------------------------------------------------------
PACES = {
    "short pauses stay": ([0, 0.5, 1.0], [0, 0.5, 1.0]),
    "a long pause is cut": ([0, 405, 405.5], [0, 1.0, 1.5]),
    "too long a recording is sped up": ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [n / 2 for n in range(13)]),
    "nothing is nothing": ([], []),
}


@pytest.mark.parametrize("sentence", PACES)
def test_pace(sentence: str) -> None:
    times, want = PACES[sentence]
    assert cast.paced(times, longest_pause=1.0, total=6.0) == want


def test_lines_that_arrive_in_pieces_are_put_together(tmp_path: Path) -> None:
    file = tmp_path / "cast"
    header = {"version": 2, "width": 80}
    events = [[0.1, "o", "ha"], [0.2, "i", "x"], [0.3, "o", "lf\r\nnext\r\n"]]
    file.write_text("\n".join(map(json.dumps, (header, *events))))
    assert [(line.seconds, line.text) for line in cast.read(file).lines] == [(0.3, "half"), (0.3, "next")]


# --- the terminal ------------------------------------------------------------------------------------------------
def test_a_recording_is_a_small_animated_svg_with_every_line(tmp_path: Path) -> None:
    recorded = cast.read(write_cast(tmp_path / "cast", *demo_like()))
    svg = terminal.render(recorded)
    assert len(svg.encode()) < 150_000
    shown = texts(svg)
    assert shown[0] == "make demo · 15 min 0 s, shown in 30 s"
    assert shown[1] == "finetune-operator demo on a Kubernetes of our own, two nodes"
    assert shown[-1] == "✓ done in 900 s"
    assert len(shown) == 1 + len(recorded.lines)


def test_each_line_appears_at_its_moment_and_the_window_scrolls_to_the_last_one(tmp_path: Path) -> None:
    recorded = cast.read(write_cast(tmp_path / "cast", *((float(n), f"line {n}") for n in range(10))))
    root = ElementTree.fromstring(terminal.render(recorded, rows=4))
    starts = [float(item.attrib["keyTimes"].split(";")[1]) for item in root.iter(f"{SVG}animate")]
    assert starts == sorted(starts)
    assert len(starts) == 9, "the first line is there from the start"
    [scroll] = root.iter(f"{SVG}animateTransform")
    assert scroll.attrib["values"].split(";")[-1] == "0 -108", "six lines of 18 are above the window"
    times = [float(time) for time in scroll.attrib["keyTimes"].split(";")]
    assert times == sorted(times)
    assert times[0] == 0
    assert len(times) == len(scroll.attrib["values"].split(";"))


def test_colours_become_fills_and_long_lines_are_folded(tmp_path: Path) -> None:
    file = write_cast(tmp_path / "cast", (0.0, coloured("[green]✓[/] good")), (1.0, "x" * 100), columns=40)
    svg = terminal.render(cast.read(file))
    assert [len(text) for text in texts(svg)[2:]] == [40, 40, 20]
    [tick] = [span for span in ElementTree.fromstring(svg).iter(f"{SVG}tspan") if span.text == "✓"]
    assert tick.attrib["fill"].startswith("#")


def test_text_of_the_run_cannot_break_the_picture(tmp_path: Path) -> None:
    svg = terminal.render(cast.read(write_cast(tmp_path / "cast", (0.0, "<script>&</script>"))))
    assert texts(svg)[1] == "<script>&</script>"


# --- loss curve and card -----------------------------------------------------------------------------------------
def metrics(file: Path) -> Path:
    entries = [{"step": step, "loss": 3.0 / step} for step in range(1, 33)]
    file.write_text(json.dumps({"metrics": {"lossHistory": entries}}))
    return file


def test_the_loss_curve_names_its_axes_and_is_the_same_each_time(tmp_path: Path) -> None:
    points = loss.history(metrics(tmp_path / "manifest.json"))
    assert points[0] == (1, 3.0)
    svg = loss_curve.render(points, title="quickstart")
    assert {"quickstart", "step", "training loss (nats per token)"} <= set(texts(svg))
    assert svg == loss_curve.render(points, title="quickstart")
    assert len(svg.encode()) < 150_000


CARD = """---
base_model: smol/smol
---

# quickstart

A LoRA adapter for smol.

## Results

| | |
|---|---|
| Steps | 32 |

## Sample answers

Held-out questions, answered by greedy decoding.

**Question:** one?

- *After:* yes

**Question:** two?

- *After:* yes

**Question:** three?

- *After:* yes

## Training

| | |
|---|---|
| seed | 7 |

## Provenance

"""


def test_a_sample_of_the_card_has_its_result_and_two_answers() -> None:
    sample = card.sample(CARD)
    assert "base_model" in sample
    assert "| Steps | 32 |" in sample
    assert "**Question:** two?" in sample
    assert not {"**Question:** three?", "## Training", "## Provenance"} & set(sample.splitlines())


# --- the command -------------------------------------------------------------------------------------------------
def test_the_command_writes_the_picture(tmp_path: Path) -> None:
    words = ["terminal", str(write_cast(tmp_path / "cast", *demo_like())), str(tmp_path / "docs" / "demo.svg")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert ElementTree.parse(tmp_path / "docs" / "demo.svg").getroot().tag == f"{SVG}svg"


def test_a_file_that_is_no_recording_is_named_without_a_traceback(tmp_path: Path) -> None:
    words = ["terminal", str(metrics(tmp_path / "manifest.json")), str(tmp_path / "demo.svg")]
    done = subprocess.run([sys.executable, "-m", "dev.recording", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "manifest.json is no asciicast of version 2" in done.stderr
    assert "Traceback" not in done.stderr
