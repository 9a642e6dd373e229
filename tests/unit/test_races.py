"""Repetitions of tests that wait: what is counted, what is resumed, what is said."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from dev.races import Pytest, Races, Result, State, Tally, busy_loops, lines_of, modules_of, read_report

SIGNALS, PODS = "tests/test_signals.py", "tests/test_pods.py"
MODULES = modules_of([f"{SIGNALS}::test_stops", f"{SIGNALS}::test_saves[a b]", f"{PODS}::test_runs"])
A_SUITE = """
import os, pytest
def test_quiet(): pass
@pytest.mark.races
def test_waits(): pass
@pytest.mark.races
def test_breaks(): assert False, "it had passed"
@pytest.mark.races
def test_is_elsewhere(): pytest.skip("not here")
@pytest.fixture
def leaky():
    yield
    raise RuntimeError("left something behind")
@pytest.mark.races
def test_leaks(leaky): pass
"""


class Modules:
    """Runs of modules that only say what became of their tests."""

    def __init__(self, **outcomes: str) -> None:
        self.outcomes = outcomes
        self.runs: list[str] = []
        self.interrupted_after = 99

    def run(self, module: str, log: Path) -> dict[str, Result]:
        if len(self.runs) == self.interrupted_after:
            raise KeyboardInterrupt
        self.runs.append(module)
        log.write_text("output")
        return {
            name: Result(self.outcomes[test], 1.5)
            for name in MODULES[module]
            if (test := name.partition("::")[2].partition("[")[0]) in self.outcomes
        }


ALL_PASS: Mapping[str, str] = {"test_stops": "passed", "test_saves": "passed", "test_runs": "passed"}


def races(folder: Path, modules: Modules, *, times: int = 3, digest: str = "code") -> Races:
    file = folder / "races.json"
    return Races(MODULES, State.load(file, digest), file, times, modules.run)


def run(these: Races) -> str:
    said = io.StringIO()
    these.run(Console(file=said, width=200))
    return said.getvalue()


def test_every_module_comes_once_before_any_comes_twice(tmp_path: Path) -> None:
    modules = Modules(**ALL_PASS)
    run(races(tmp_path, modules, times=2))
    assert modules.runs == [SIGNALS, PODS, SIGNALS, PODS]


def test_an_interrupted_run_resumes_where_it_was(tmp_path: Path) -> None:
    first, second = Modules(**ALL_PASS), Modules(**ALL_PASS)
    first.interrupted_after = 3
    with pytest.raises(KeyboardInterrupt):
        run(races(tmp_path, first))
    these = races(tmp_path, second)
    run(these)
    assert [*first.runs, *second.runs] == [SIGNALS, PODS] * 3
    assert {tally.passed for tally in these.state.tests.values()} == {3}
    assert these.left() == []


def test_more_repetitions_add_to_those_that_are_done(tmp_path: Path) -> None:
    run(races(tmp_path, Modules(**ALL_PASS), times=1))
    modules = Modules(**ALL_PASS)
    run(races(tmp_path, modules, times=2))
    assert modules.runs == [SIGNALS, PODS]


@pytest.mark.parametrize(
    ("digest", "is_cut_short", "want"),
    [
        pytest.param("code", False, {SIGNALS: 3, PODS: 3}, id="the same code resumes"),
        pytest.param("other code", False, {}, id="other code starts over"),
        pytest.param("code", True, {}, id="a state cut short starts over"),
    ],
)
def test_what_was_done_counts_for_the_same_code_only(
    tmp_path: Path, digest: str, is_cut_short: bool, want: dict[str, int]
) -> None:
    run(races(tmp_path, Modules(**ALL_PASS)))
    if is_cut_short:
        (tmp_path / "races.json").write_text("{")
    assert races(tmp_path, Modules(), digest=digest).state.repetitions == want


def test_the_log_of_a_failure_is_kept_and_that_of_a_pass_is_not(tmp_path: Path) -> None:
    these = races(tmp_path, Modules(**{**ALL_PASS, "test_stops": "failed"}), times=2)
    said = run(these)
    logs = sorted(path.name for path in (tmp_path / "races").iterdir())
    assert logs == ["tests-test-signals-py-1.log", "tests-test-signals-py-2.log"]
    assert these.state.tests[f"{SIGNALS}::test_stops"].log.endswith("tests-test-signals-py-1.log")
    assert "1 FAILED" in said
    assert these.state.has_failures


def test_a_test_whose_process_ended_before_it_failed(tmp_path: Path) -> None:
    these = races(tmp_path, Modules(test_stops="passed", test_runs="passed"), times=1)
    run(these)
    assert these.state.tests[f"{SIGNALS}::test_saves[a b]"].failed == 1


def test_a_line_per_test() -> None:
    tests = {
        "m::test_b": Tally(passed=2, failed=1, longest=12.34, log="build/races/m-2.log"),
        "m::test_a": Tally(passed=3, longest=1),
        "m::test_c": Tally(skipped=3),
        "m::test_d": Tally(passed=1, longest=2),
    }
    assert lines_of(State("digest", {"m": 3}, tests), times=3) == [
        "✓   3/3  longest    1.0 s  m::test_a",
        "✗   2/3  longest   12.3 s  m::test_b → build/races/m-2.log",
        "·   0/3  longest    0.0 s  m::test_c, skipped 3 times",
        "·   1/3  longest    2.0 s  m::test_d",
    ]


def test_a_phase_that_fails_decides() -> None:
    text = '["m::t", "passed", 1.0]\n["m::t", "failed", 2.0]\n["m::t", "passed", 0.5]\n'
    assert read_report(text) == {"m::t": Result("failed", 3.5)}


@pytest.mark.races
def test_each_marked_test_of_a_real_module_is_reported_beside_busy_loops(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(A_SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = races\npythonpath = " + str(Path(__file__).parents[2]))
    selection = Pytest("races", ("test_suite.py",), tmp_path)
    assert [name.partition("::")[2] for name in selection.collect()] == [
        "test_waits",
        "test_breaks",
        "test_is_elsewhere",
        "test_leaks",
    ]
    with busy_loops(1):
        results = selection.run_module("test_suite.py", tmp_path / "log")
    assert {name.partition("::")[2]: result.outcome for name, result in results.items()} == {
        "test_waits": "passed",
        "test_breaks": "failed",
        "test_is_elsewhere": "skipped",
        "test_leaks": "failed",
    }
    assert "it had passed" in (tmp_path / "log").read_text()
