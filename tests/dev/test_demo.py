"""The demo follows a job as long as it moves, and ends with the object's own words and the next command."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dev.demo import endings, story
from dev.demo.commands import Shell
from dev.demo.watch import Watch
from dev.kit import entrypoint
from dev.kit.apiserver import Missing
from dev.kit.jobs import signs_of_progress
from dev.kit.specs import Object, changed, minimal_job
from dev.localcluster.commands import CommandError
from dev.localcluster.errors import CurableError

SHELL = Shell("export KUBECONFIG=/home/me/kubeconfig", "kubectl")


def job_at(
    step: int = 0, *, status: str = "Unknown", reason: str = "Training", message: str = "step by step"
) -> Object:
    condition = {"type": "Succeeded", "status": status, "reason": reason, "message": message}
    progress = {"step": step, "totalSteps": 32, "display": f"{step}/32"}
    seen = {"observedGeneration": 1, "run": 1, "phase": "Training", "progress": progress, "conditions": [condition]}
    return changed(minimal_job("quickstart"), {"metadata.generation": 1, "metadata.uid": "uid-of-job", "status": seen})


@dataclass
class Script:
    """A cluster that shows what it is told for each second of a clock that only a sleep advances."""

    at: Callable[[float], Object]
    events_at: Callable[[float], list[Object]] = field(default=lambda now: [])
    now: float = 0.0

    def get(self, name: str) -> Object:
        return self.at(self.now)

    def signs(self, name: str) -> Hashable:
        return signs_of_progress(self.get(name), [], self.events_at(self.now))

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def follow(self) -> Object:
        self.output = io.StringIO()
        watch = Watch(Console(file=self.output, width=100), clock=lambda: self.now, sleep=self.sleep)
        return story.follow(self, "quickstart", 1, watch, SHELL)  # type: ignore[arg-type]


# --- how long it waits -------------------------------------------------------------------------------------------
def test_it_never_gives_up_while_steps_advance() -> None:
    script = Script(lambda now: job_at(int(now // 290)) if now < 7_200 else job_at(32, status="True"))
    assert script.follow()["status"]["conditions"][0]["status"] == "True"
    assert script.now >= 7_200


def test_it_gives_up_five_minutes_after_the_last_step_with_the_condition_and_the_next_command() -> None:
    script = Script(lambda now: job_at(min(int(now // 10), 12), message="pod quickstart-r1-a1-0: step 12 of 32"))
    with pytest.raises(CurableError) as caught:
        script.follow()
    assert 120 + 300 <= script.now <= 120 + 320
    assert caught.value.what == (
        "FineTuneJob quickstart has made no progress for 5 minutes: no new step, phase, condition or event.\n"
        "  Succeeded=Unknown Training: pod quickstart-r1-a1-0: step 12 of 32"
    )
    assert "kubectl -n finetune-demo describe ftj quickstart" in caught.value.cure
    assert "make demo" in caught.value.cure


def test_a_job_that_the_operator_never_sees_is_given_up_on() -> None:
    script = Script(lambda now: changed(minimal_job("quickstart"), {"metadata.generation": 1, "metadata.uid": "u"}))
    with pytest.raises(CurableError, match="no condition yet: the operator has not seen it"):
        script.follow()


def test_new_events_are_progress() -> None:
    def events(now: float) -> list[Object]:
        return [event(f"e{number}", "uid-of-job") for number in range(min(int(now // 200), 5))]

    script = Script(lambda now: job_at(), events)
    with pytest.raises(CurableError, match="no progress"):
        script.follow()
    assert script.now >= 1000 + 300


# --- what counts as progress -------------------------------------------------------------------------------------
def event(uid: str, about: str, count: int = 1) -> Object:
    return {"metadata": {"uid": uid}, "involvedObject": {"uid": about}, "count": count}


def pod(**status: Any) -> Object:
    return {"metadata": {"uid": "uid-of-pod"}, "spec": {}, "status": {"phase": "Pending", **status}}


RUNNING = {"containerStatuses": [{"name": "trainer", "state": {"running": {"startedAt": "now"}}}]}
MOVES = {
    "a new step": ((job_at(1), [], []), (job_at(2), [], [])),
    "a new phase": ((job_at(), [], []), (changed(job_at(), {"status.phase": "Saving"}), [], [])),
    "a new stage of the training": ((job_at(), [], []), (changed(job_at(), {"status.progress.stage": "s"}), [], [])),
    "a new attempt": ((job_at(), [], []), (changed(job_at(), {"status.attempt": 2}), [], [])),
    "a new reason": ((job_at(reason="Queued"), [], []), (job_at(reason="Training"), [], [])),
    "a new pod": ((job_at(), [], []), (job_at(), [pod()], [])),
    "a container that starts": ((job_at(), [pod()], []), (job_at(), [pod(**RUNNING)], [])),
    "an event of the pod": ((job_at(), [pod()], []), (job_at(), [pod()], [event("e", "uid-of-pod")])),
}
STILL = {
    "a message with another time in it": ((job_at(message="3 s"), [], []), (job_at(message="4 s"), [], [])),
    "an event of something else": ((job_at(), [], []), (job_at(), [], [event("e", "uid-of-another")])),
    "an event that repeats": (
        (job_at(), [pod()], [event("e", "uid-of-pod", 1)]),
        (job_at(), [pod()], [event("e", "uid-of-pod", 9)]),
    ),
}


@pytest.mark.parametrize("sentence", MOVES)
def test_is_progress(sentence: str) -> None:
    before, after = MOVES[sentence]
    assert signs_of_progress(*before) != signs_of_progress(*after)


@pytest.mark.parametrize("sentence", STILL)
def test_is_no_progress(sentence: str) -> None:
    before, after = STILL[sentence]
    assert signs_of_progress(*before) == signs_of_progress(*after)


# --- how it ends -------------------------------------------------------------------------------------------------
def test_a_failed_job_ends_with_its_condition() -> None:
    message = "spec.dataset.train[0]: line 3 of train.jsonl is no JSON. Correct the line."
    with pytest.raises(CurableError) as caught:
        Script(lambda now: job_at(status="False", reason="InvalidData", message=message)).follow()
    assert caught.value.what == f"FineTuneJob quickstart has failed.\n  Succeeded=False InvalidData: {message}"


def test_a_stalled_job_shows_both_conditions() -> None:
    stalled = {"type": "Stalled", "status": "True", "reason": "NoHeartbeat", "message": "no step for 10 minutes"}
    shown = endings.conditions(changed(job_at(), {"status.conditions": [*job_at()["status"]["conditions"], stalled]}))
    assert shown.splitlines()[1] == "  Stalled=True NoHeartbeat: no step for 10 minutes"


def test_a_job_that_somebody_deletes_is_named() -> None:
    def gone(now: float) -> Object:
        if now > 5:
            raise Missing("ftj")
        return job_at()

    with pytest.raises(CurableError, match="was deleted while the demo followed it"):
        Script(gone).follow()


def stop() -> int:
    raise KeyboardInterrupt


def fail(error: Exception) -> Callable[[], int]:
    def run() -> int:
        raise error

    return run


ENDS: dict[str, tuple[Callable[[], int], int, str]] = {
    "success says nothing more": (lambda: 0, 0, ""),
    "Ctrl-C says how to continue": (stop, 130, "\nmake demo continues\n"),
    "a curable error says what and how": (
        fail(CurableError("port 6443 is taken [by pid 7]", "stop it")), 1, "✗ port 6443 is taken [by pid 7]\nstop it\n",
    ),
    "a failed program shows its output": (
        fail(CommandError(["helm"], 1, "no such chart")), 1, "✗ `helm` ended with 1:\nno such chart\nlook there\n",
    ),
    "a program that takes too long is named": (
        fail(subprocess.TimeoutExpired("kubectl", 60)), 1,
        "✗ Command 'kubectl' timed out after 60 seconds\nlook there\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("sentence", ENDS)
def test_the_end(sentence: str) -> None:
    main, code, want = ENDS[sentence]
    output = io.StringIO()
    console = Console(file=output, width=200)
    assert entrypoint.exit_code(main, console, cure="look there", interrupted="make demo continues") == code
    assert output.getvalue() == want


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        entrypoint.exit_code(lambda: 1 // 0, Console(file=io.StringIO()), cure="", interrupted="")


def test_commands_are_typed_with_the_setup_of_a_fresh_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kubectl:
        argv, kubeconfig, context = ("/cache/bin/kubectl",), Path("/state/admin.kubeconfig"), "mine"

    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("KUBE_CONTEXT", raising=False)
    assert Shell.of(Kubectl()).lines("kubectl get ftj", "make down").splitlines() == [  # type: ignore[arg-type]
        "  export KUBECONFIG=/state/admin.kubeconfig PATH=/cache/bin:$PATH",
        "  kubectl get ftj",
        "  make down",
    ]
    monkeypatch.setenv("KUBE_CONTEXT", "mine")
    assert "  kubectl --context=mine get ftj" in Shell.of(Kubectl()).lines("kubectl get ftj")  # type: ignore[arg-type]


# --- which run it follows ----------------------------------------------------------------------------------------
@dataclass
class Stored:
    """The one job of a namespace."""

    job: Object | None

    def exists(self, name: str) -> bool:
        return self.job is not None

    def get(self, name: str) -> Object:
        assert self.job
        return self.job

    def apply(self, job: Object) -> str:
        self.applied = job
        return str(job["metadata"]["name"])


AT = "finetune.dev/restartedAt"
RESTARTED = changed(job_at(3), {"metadata.annotations": {AT: "2026-01-01"}})
STARTS: dict[str, tuple[Object | None, int, str | None]] = {
    "a first job has run 1": (None, 1, None),
    "a job that still runs is followed": (job_at(3), 1, None),
    "a job that was restarted and still runs keeps its annotation": (RESTARTED, 1, "2026-01-01"),
    "a finished job gets a new run": (job_at(32, status="True"), 2, "now"),
    "a failed job gets a new run": (job_at(3, status="False"), 2, "now"),
}


@pytest.mark.parametrize("sentence", STARTS)
def test_start(sentence: str) -> None:
    before, want_run, want_annotation = STARTS[sentence]
    jobs = Stored(before)
    name, run = story.start_run(jobs, minimal_job("quickstart"))  # type: ignore[arg-type]
    annotation = jobs.applied["metadata"]["annotations"].get(AT)
    assert (name, run) == ("quickstart", want_run)
    assert annotation == want_annotation or (want_annotation == "now" and annotation is not None)
