"""P7 with several processes and nodes: stopped, and resumed from what every one of them left in S3."""

import signal
from typing import Any

import pytest

from tests.trainer.starts import Runner, digests, losses

pytestmark = pytest.mark.races

LORA = {"type": "lora", "lora": {"rank": 4}}
QLORA = {"type": "qlora", "lora": {"rank": 4}, "quantization": {"bits": 4}}
FULL = {"type": "full"}
STEPS = 8


@pytest.mark.parametrize(
    ("method", "stage", "nodes", "want_files"),
    [
        pytest.param(
            FULL, 2, 1, ("zero_pp_rank_0_mp_rank_00_optim", "zero_pp_rank_1_mp_rank_00_optim"), id="ZeRO-2, full"
        ),
        pytest.param(
            QLORA, 3, 1, ("zero_pp_rank_0_mp_rank_00_model", "zero_pp_rank_1_mp_rank_00_model"), id="ZeRO-3, qlora"
        ),
        pytest.param(LORA, None, 2, ("rng_state_0.pth", "rng_state_1.pth"), id="two nodes, DDP"),
        pytest.param(
            FULL,
            3,
            2,
            ("zero_pp_rank_0_mp_rank_00_optim", "zero_pp_rank_1_mp_rank_00_optim"),
            id="two nodes, ZeRO-3, each with shards that the other has not",
        ),
    ],
)
def test_a_training_stopped_on_request_resumes_as_if_never_interrupted(
    method: dict[str, Any], stage: int | None, nodes: int, want_files: tuple[str, ...], runner: Runner
) -> None:
    spec = {
        "method": method,
        "training": {"perDeviceBatchSize": 1, "maxSteps": STEPS, **({"deepspeed": {"stage": stage}} if stage else {})},
        "checkpoint": {"everySteps": 100},
    }
    places = {"nodes": nodes, "processes": 2 // nodes}
    whole = runner.job(spec, **places)
    reference = runner.start(whole).end()
    assert reference.statuses == [0, 0], reference.log

    job = runner.job(spec, **places)
    first = runner.start(job, gates=[{"step": 2}])
    with first.held():
        first.signal(signal.SIGTERM, ranks=slice(1, 2))
    end = first.end()
    assert end.statuses == [85, 85], end.log
    (saved,) = runner.checkpoints(job)
    assert saved.step == 3, "the step that was under way is finished"
    files = [item.path for item in runner.s3.storage().list(saved.uri)]
    assert [want for want in want_files if not any(want in path for path in files)] == []

    second = runner.start(job).end()
    assert second.statuses == [0, 0], second.log
    assert f"resuming from step {saved.step}" in second.log
    want, got = runner.verify_artifact(whole), runner.verify_artifact(job)
    assert dict(losses(got)) == pytest.approx(dict(losses(want)), abs=1e-6)
    assert len(losses(got)) == STEPS
    assert digests(got) == digests(want), "the weights differ in at least one bit"
