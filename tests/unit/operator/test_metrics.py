"""What is counted from the changes of FineTuneJobs."""

from __future__ import annotations

from finetune_operator.metrics import EndedAttempts, phase_counts
from finetune_operator.ports import FINETUNEJOBS, PODS, Change, Json
from tests.builders.jobs import make_job


def with_history(*reasons: str) -> Json:
    history = [
        {"run": 1, "role": "train", "attempt": index, "reason": reason} for index, reason in enumerate(reasons, start=1)
    ]
    return make_job().with_status(history=history).build()


def test_an_attempt_is_counted_once_when_it_ends() -> None:
    counted: list[str] = []
    follow = EndedAttempts(counted.append)
    for history in (("Evicted",), ("Evicted",), ("Evicted", "OOMKilled")):
        follow(Change(FINETUNEJOBS, None, with_history(*history)))
    assert counted == ["OOMKilled"], "what happened before this process is not its count"


def test_a_job_that_was_deleted_and_created_again_is_another() -> None:
    counted: list[str] = []
    follow = EndedAttempts(counted.append)
    follow(Change(FINETUNEJOBS, None, with_history("Evicted")))
    follow(Change(FINETUNEJOBS, with_history("Evicted"), None))
    follow(Change(FINETUNEJOBS, None, with_history("Evicted", "OOMKilled")))
    follow(Change(PODS, None, {"metadata": {"namespace": "ns", "name": "p"}}))
    assert counted == []


def test_jobs_are_counted_by_phase_and_one_without_status_is_pending() -> None:
    jobs = [make_job().build(), make_job().with_status(phase="Training").build()]
    assert phase_counts(jobs) == {"Pending": 1, "Training": 1}
