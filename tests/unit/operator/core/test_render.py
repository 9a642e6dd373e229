"""Children as they are sent, against golden files that people read."""

import json

import pytest

from finetune_contract.jobspec import Attempt, JobFile, World
from finetune_operator.core.objects import FineTuneJob, GpuClass
from finetune_operator.core.options import Options
from finetune_operator.core.render.child import Child
from finetune_operator.core.render.job import render_job
from finetune_operator.core.render.jobfile import ANNOTATION_JOB_FILE
from finetune_operator.core.render.service import render_service
from finetune_operator.core.stages import PREPARE, STAGES, TRAIN, Stage
from finetune_operator.core.world import plan_world
from tests.builders.golden import assert_golden
from tests.builders.jobs import JobBuilder, Json, make_class, make_job, make_t4
from tests.builders.snapshots import OPTIONS, PREPARED


def child_of(
    job: JobBuilder, gpu_class: Json, stage: Stage = TRAIN, options: Options = OPTIONS, number: int = 1
) -> Child:
    view, parsed = FineTuneJob(job.build()), GpuClass.parse(gpu_class)
    return Child(
        job=view,
        stage=stage,
        run=1,
        config_hash="hash-of-run",
        world=plan_world(view.spec.resources, parsed, options.allow_cpu_for_gpu),
        options=options,
        gpu_class=parsed,
        attempt=Attempt(number=number, reason="FirstAttempt", resume="newest" if stage is TRAIN else "none"),
        prepared=PREPARED if stage is TRAIN else {},
    )


ON_CLAIMS = (
    make_job()
    .having("model.source", "pvc://models.v1/smol")
    .having("dataset.train", [{"source": "pvc://rows/a.jsonl"}, {"source": "pvc://rows/b.jsonl"}])
    .having("dataset.evaluation", {"source": "pvc://heldout/c.jsonl"})
)
PULLING = Options(trainer_image="private/trainer:2", image_pull_secrets=("registry",), termination_grace_seconds=300)


@pytest.mark.parametrize(
    ("name", "child"),
    [
        pytest.param("prepare-job", child_of(make_job().on_gpus(), make_t4(), PREPARE), id="prepare asks no GPU"),
        pytest.param("train-job-cpu", child_of(make_job(), make_class("cpu")), id="one node without a GPU"),
        pytest.param("train-job-gpus", child_of(make_job().on_gpus(gpus=2), make_t4(), number=3), id="two GPUs"),
        pytest.param("train-job-nodes", child_of(make_job().on_nodes(2), make_class("cpu")), id="two nodes"),
        pytest.param(
            "train-job-no-secret",
            child_of(make_job().having("storage.secretName", None), make_class("cpu")),
            id="no Secret",
        ),
        pytest.param("train-job-claims", child_of(ON_CLAIMS, make_class("cpu"), options=PULLING), id="claims"),
    ],
)
def test_a_job_is_rendered_as_somebody_has_read_it(name: str, child: Child) -> None:
    assert_golden(name, render_job(child))


def test_the_service_of_a_run_selects_all_its_attempts() -> None:
    child = child_of(make_job().on_nodes(2), make_class("cpu"))
    assert child.service is not None
    assert_golden("service", render_service(child, child.service))


def test_one_node_needs_no_service() -> None:
    assert child_of(make_job(), make_class("cpu")).service is None


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.role)
def test_the_job_file_is_read_back_by_the_trainer(stage: Stage) -> None:
    annotations = render_job(child_of(make_job(), make_class("cpu"), stage))["spec"]["template"]["metadata"][
        "annotations"
    ]
    file = JobFile.parse(annotations[ANNOTATION_JOB_FILE])
    assert (file.identity.name, file.identity.run, file.attempt.number) == ("faq", 1, 1)
    assert (file.prepared is None) == (stage is PREPARE)


@pytest.mark.parametrize(("cpu", "want"), [("200m", "1"), ("1", None), (8, None)])
def test_a_pod_that_asks_for_less_than_a_cpu_computes_with_one_thread(cpu: str | int, want: str | None) -> None:
    child = child_of(make_job().having("resources.cpu", cpu), make_class("cpu"))
    [container] = render_job(child)["spec"]["template"]["spec"]["containers"]
    assert {item["name"]: item["value"] for item in container["env"]}.get("OMP_NUM_THREADS") == want


def test_a_child_carries_nothing_of_its_parents_metadata() -> None:
    job = make_job()
    raw = job.build()
    raw["metadata"] |= {"labels": {"app.kubernetes.io/instance": "argo"}, "annotations": {"argocd": "x"}}
    child = child_of(job, make_class("cpu"))
    rendered = json.dumps(render_job(Child(**{**vars(child), "job": FineTuneJob(raw)})))
    assert "argo" not in rendered


@pytest.mark.parametrize(
    ("job", "gpu_class", "want"),
    [
        pytest.param(
            make_job(),
            make_class("cpu"),
            World(nodes=1, processes_per_node=1, gpus_per_node=0, gpu_class="cpu"),
            id="cpu",
        ),
        pytest.param(
            make_job().having("resources.processesPerNode", 2),
            make_class("cpu"),
            World(nodes=1, processes_per_node=2, gpus_per_node=0, gpu_class="cpu"),
            id="several processes on a CPU",
        ),
        pytest.param(
            make_job().having("resources.gpuClass", "t4-16gb"),
            make_t4(),
            World(nodes=1, processes_per_node=1, gpus_per_node=1, gpu_class="t4-16gb", allow_cpu_for_gpu=True),
            id="one GPU by default",
        ),
        pytest.param(
            make_job().on_gpus(gpus=4).on_nodes(2),
            make_t4(),
            World(nodes=2, processes_per_node=4, gpus_per_node=4, gpu_class="t4-16gb", allow_cpu_for_gpu=True),
            id="a process for each GPU",
        ),
    ],
)
def test_the_world_of_an_attempt(job: JobBuilder, gpu_class: Json, want: World) -> None:
    resources = FineTuneJob(job.build()).spec.resources
    assert plan_world(resources, GpuClass.parse(gpu_class), allow_cpu_for_gpu=True) == want
