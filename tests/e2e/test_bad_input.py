"""Bad input ends before a training pod exists, with the file, row or field and the cure; nothing is half-published.

The full table runs in the trainer's process (tests/trainer); here are the ends that need a cluster.
"""

from __future__ import annotations

import pytest

from dev.kit.jobs import Jobs, condition

pytestmark = [pytest.mark.cluster, pytest.mark.races]

CASES = [
    pytest.param(
        {"dataset__train": [{"source": "s3://finetune/datasets/broken/line-3.jsonl"}]},
        "InvalidData", ["line-3.jsonl", "3"], id="broken JSON names the line",
    ),
    pytest.param(
        {"storage__secretName": "wrong-keys"}, None, ["spec.storage.secretName"], id="wrong S3 keys name the Secret",
    ),
    pytest.param(
        {"output__uri": "s3://no-such-bucket/x"}, None, ["spec.output.uri", "no-such-bucket"], id="a missing bucket is",
    ),
    pytest.param(
        {"model__source": "s3://finetune/models/nobody"}, None, ["spec.model.source"], id="a missing model is named",
    ),
    pytest.param(
        {"method__lora__targets": ["c_attn"]}, None, ["c_attn", "q_proj"], id="unknown targets list the real ones",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "reason", "words"), CASES)
def test_bad_input_is_final_and_no_training_pod_ever_exists(
    platform, jobs: Jobs, changes, reason: str | None, words: list[str]
) -> None:
    name = jobs.apply(platform.tiny_job("bad", **changes))
    job = jobs.wait_finished(name)
    end = condition(job, "Succeeded")
    assert end["status"] == "False"
    assert reason is None or end["reason"] == reason
    assert [word for word in words if word not in end["message"]] == [], end["message"]
    assert jobs.pods(name, "train") == []
    assert "artifact" not in job["status"]
    assert platform.published(job) == []
