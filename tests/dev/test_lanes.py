"""`make test` ends with what failed and the command that runs it alone."""

from __future__ import annotations

import sys

import pytest

from dev import lanes
from dev.lanes import Result, Step, Terminal

PASSES = Step("the quick ones", (sys.executable, "-c", "print('3 passed')"))
FAILS = Step(
    "the slow ones",
    (sys.executable, "-c", "print('FAILED tests/a.py::test_b - AssertionError: no'); raise SystemExit(1)"),
    environment={"OMP_NUM_THREADS": "1"},
)


def test_a_lane_runs_all_its_steps_and_shows_every_line_under_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    results = lanes.run_lane(Terminal(), "local", [FAILS, PASSES])
    assert [result.passed for result in results] == [False, True]
    assert results[0].failures == ("FAILED tests/a.py::test_b - AssertionError: no",)
    shown = capsys.readouterr().out.splitlines()
    assert "  local │ 3 passed" in shown
    assert all(line.startswith("  local │ ") for line in shown)


def test_the_summary_names_the_failed_step_its_tests_and_the_command_that_runs_it_alone() -> None:
    results = [Result(PASSES, 0, 12.3), Result(FAILS, 1, 45.6, ("FAILED tests/a.py::test_b - AssertionError: no",))]
    assert lanes.summary([*results, *(Result(step, 0, 1) for step in lanes.ON_CLUSTER)]).splitlines()[:5] == [
        "✓ the quick ones: passed after 12 s",
        "✗ the slow ones: failed with exit code 1 after 46 s",
        "    FAILED tests/a.py::test_b - AssertionError: no",
        f"    alone: {FAILS.command}",
        "✓ on the API server: passed after 1 s",
    ]


def test_the_last_words_of_a_failure_come_last() -> None:
    program = """
print("_____ test_b[ZeRO-3, qlora] _____")
print("E   AssertionError: rank 1 ended with -6:")
for number in range(20):
    print(f"E   line {number}")
print("tests/a.py:3: AssertionError")
raise SystemExit(1)
"""
    [result] = lanes.run_lane(Terminal(), "local", [Step("tests", (sys.executable, "-c", program))])
    said = lanes.summary([result, *(Result(step, 0, 1) for step in lanes.ON_CLUSTER)])
    assert said.endswith("\n\ntest_b[ZeRO-3, qlora]\n" + "\n".join(f"    line {number}" for number in range(8, 20)))


def test_the_command_of_a_step_can_be_typed() -> None:
    [step] = [step for step in lanes.ON_CLUSTER if step.title == "on nodes, one by one"]
    assert step.command == "uv run python -m pytest -q tests/localcluster tests/e2e -m 'serial and not nightly'"
    assert lanes.ALONE[0].command.startswith("OMP_NUM_THREADS=1 uv run python -m pytest -q tests/unit ")


def test_steps_that_found_no_cluster_are_named() -> None:
    said = lanes.summary([Result(lanes.CLUSTER[1], 1, 2)])
    steps = "on the API server, upgrades on the API server, on nodes, on nodes, one by one"
    assert said.endswith(f"- not run, for want of a cluster: {steps}")


def test_after_ctrl_c_no_further_step_starts() -> None:
    terminal = Terminal()
    terminal.stopped.set()
    assert lanes.run_lane(terminal, "local", [PASSES]) == []


def test_every_folder_of_tests_is_in_a_lane() -> None:
    known = {folder for group in (lanes.WITHOUT_CLUSTER, lanes.ON_API_SERVER, lanes.ON_NODES) for folder in group}
    holds_tests = {f"tests/{path.parent.relative_to(lanes.ROOT / 'tests').parts[0]}"
                   for path in (lanes.ROOT / "tests").rglob("test_*.py")}  # fmt: skip
    assert holds_tests == known
