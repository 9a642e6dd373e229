"""What the README promises: apply the quickstart, get an adapter that helps."""

from __future__ import annotations

import pytest

from dev.demo.verifier import verify_in_pod
from dev.kit.jobs import Jobs, condition, load_example

pytestmark = [pytest.mark.cluster, pytest.mark.races]


@pytest.mark.serial  # it computes on both cores for minutes
@pytest.mark.timeout(1500)
def test_applying_the_quickstart_yields_a_verified_adapter_that_lowers_the_held_out_loss(platform, jobs: Jobs) -> None:
    [job] = load_example("quickstart.yaml")
    name = jobs.apply(job)
    done = jobs.wait_succeeded(name)

    evaluation, artifact = done["status"]["evaluation"], done["status"]["artifact"]
    assert float(evaluation["lossAfter"]) < float(evaluation["lossBefore"]) - 0.2
    assert condition(done, "Succeeded")["reason"] == "Succeeded"
    assert artifact["uri"].startswith(job["spec"]["output"]["uri"] + "/")

    questions = [sample["question"] for sample in evaluation["samples"]][:2]
    verified = verify_in_pod(jobs.kubectl, jobs.namespace, platform.trainer_image, done, questions)
    assert verified["digest"] == artifact["digest"]
    assert len(verified["answers"]) == 2
    assert all(answer["before"] != answer["after"] for answer in verified["answers"])


def test_no_pod_of_ours_has_a_token_or_more_rights_than_the_restricted_level(platform, jobs: Jobs) -> None:
    """The namespace enforces `restricted`: a pod above it would never have been created."""
    namespace = jobs.kubectl.get("namespace", jobs.namespace)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    system = jobs.kubectl.get("namespace", "finetune-system")
    assert system["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
