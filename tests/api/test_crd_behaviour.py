"""What kubectl users see of the two CRDs: defaults, columns, short names, and that spec and status keep apart."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.kit.specs import Object, changed
from finetune_operator.core.spec import Spec
from tests.api.crds import CLASS, JOB, crd, install, schema, walk

pytestmark = pytest.mark.cluster

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


@dataclass(frozen=True)
class Place:
    """A namespace of one test's own."""

    kubectl: Any
    namespace: str

    def __call__(self, *words: str, stdin: str | None = None) -> str:
        return str(self.kubectl("-n", self.namespace, *words, stdin=stdin))

    def create(self, obj: Object) -> Object:
        return dict(yaml.safe_load(self("create", "-f", "-", "-o", "yaml", stdin=yaml.safe_dump(obj))))

    def get(self, *words: str) -> Object:
        return dict(self.kubectl.get("-n", self.namespace, *words))

    def set_status(self, name: str, status: Object) -> None:
        patch = yaml.safe_dump({"status": status})
        self("patch", "finetunejob", name, "--subresource=status", "--type=merge", "--patch", patch)


@pytest.fixture(scope="module")
def kubectl(control_plane: Any) -> Any:
    install(control_plane.kubectl)
    return control_plane.kubectl


@pytest.fixture
def place(kubectl: Any) -> Iterator[Place]:
    name = f"crd-{secrets.token_hex(3)}"
    kubectl("create", "namespace", name)
    yield Place(kubectl, name)
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def unattended(kubectl: Any) -> None:
    """Nobody else writes the status of a test's objects."""
    installed = ("get", "deployments", "--all-namespaces", "-l", "app.kubernetes.io/name=finetune-operator")
    if kubectl(*installed, "-o", "name").strip():
        pytest.skip("an operator is installed on this cluster: it would write the status that this test writes")


@pytest.fixture
def gpu_class(kubectl: Any) -> Iterator[str]:
    """The name of a class that is there for one test."""
    name = f"test-{secrets.token_hex(3)}"
    kubectl("create", "-f", "-", stdin=yaml.safe_dump(changed(CLASS, {"metadata.name": name})))
    yield name
    kubectl("delete", "gpuclass", name)


# --- defaults ----------------------------------------------------------------------------------------------------
def test_a_minimal_job_is_stored_with_every_default_filled_in(place: Place) -> None:
    spec = place.create(JOB)["spec"]
    assert spec == {
        "model": {"source": "s3://models/smol", "trustRemoteCode": False},
        "dataset": {
            "train": [{"source": "s3://data/faq.jsonl"}],
            "splitFraction": 0.1,
            "format": "auto",
            "template": "auto",
            "trainOnPrompt": False,
            "maskHistory": False,
        },
        "method": {"type": "lora", "lora": {"rank": 16, "alpha": 32, "dropout": 0, "targets": ["all-linear"]}},
        "stage": "sft",
        "training": {
            "epochs": 3,
            "learningRate": 2e-4,
            "perDeviceBatchSize": 4,
            "gradientAccumulationSteps": 4,
            "scheduler": "cosine",
            "warmupRatio": 0.03,
            "weightDecay": 0,
            "maxGradNorm": 1,
            "precision": "auto",
            "maxLength": 1024,
            "truncate": False,
            "groupByLength": True,
            "gradientCheckpointing": True,
            "attention": "auto",
            "compile": False,
            "seed": 42,
            "loggingSteps": 10,
        },
        "resources": {"gpuClass": "cpu", "nodes": 1, "cpu": "1", "memory": "4Gi"},
        "suspend": False,
        "retries": 3,
        "output": {"uri": "s3://adapters/faq"},
        "checkpoint": {"everySteps": 100, "keep": 2},
        "evaluation": {"sampleAnswers": 2, "maxNewTokens": 64},
        "storage": {"secretName": "s3-credentials", "region": "us-east-1"},
    }


def test_the_stored_spec_is_what_the_operator_reads(place: Place) -> None:
    spec = Spec.parse(place.create(JOB)["spec"])
    assert spec.method.lora is not None
    assert spec.training.learning_rate == pytest.approx(2e-4)


@pytest.mark.parametrize("text", ["2e-4", "2.0e-4", "0.0002"])
def test_a_learning_rate_is_a_number_however_it_is_written_in_yaml(place: Place, text: str) -> None:
    """YAML 1.1 readers take 2e-4 for a string; kubectl does not."""
    document = yaml.safe_dump(JOB).replace("learningRate: 0.0002", f"learningRate: {text}")
    assert f"learningRate: {text}" in document
    place("apply", "-f", "-", stdin=document)
    assert place.get("finetunejob", "faq")["spec"]["training"]["learningRate"] == pytest.approx(2e-4)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_accepted_as_it_stands(place: Place, path: Path) -> None:
    words = ("apply", "--dry-run=server", "--validate=strict", "-f", str(path), "-o", "yaml")
    stored = yaml.safe_load(place(*words))
    if stored["kind"] == "FineTuneJob":
        Spec.parse(stored["spec"])


# --- names and columns -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["ftj", "finetunejob", "finetunejobs", "finetunejobs.v1alpha1.finetune.dev"])
def test_jobs_answer_to_each_of_their_names(place: Place, name: str) -> None:
    place.create(JOB)
    assert place("get", name, "-o", "name").strip() == "finetunejob.finetune.dev/faq"


@pytest.mark.parametrize("name", ["gpuclass", "gpuclasses"])
def test_classes_answer_to_each_of_their_names(place: Place, gpu_class: str, name: str) -> None:
    assert place("get", name, gpu_class, "-o", "name").strip() == f"gpuclass.finetune.dev/{gpu_class}"


def test_the_category_lists_both_kinds(place: Place, gpu_class: str) -> None:
    place.create(JOB)
    listed = place("get", "finetune", "-o", "name").split()
    assert "finetunejob.finetune.dev/faq" in listed
    assert f"gpuclass.finetune.dev/{gpu_class}" in listed


@pytest.mark.usefixtures("unattended")
def test_a_new_job_is_printed_before_anybody_has_looked_at_it(place: Place) -> None:
    place.create(JOB)
    header, row = place("get", "ftj").splitlines()
    assert header.split() == ["NAME", "PHASE", "STEP", "LOSS", "ETA", "CLASS", "RUN", "AGE"]
    assert row.split()[:2] == ["faq", "cpu"]


@pytest.mark.usefixtures("unattended")
def test_the_columns_show_the_progress_and_wide_ones_the_reason_and_the_artifact(place: Place) -> None:
    place.create(JOB)
    place.set_status(
        "faq",
        {
            "phase": "Training",
            "run": 2,
            "attempt": 3,
            "progress": {"display": "412/1280 (32%)", "loss": "1.0841", "eta": "21m"},
            "conditions": [_condition("Succeeded", "Unknown", "Training"), _condition("Accepted", "True", "Valid")],
            "artifact": {"uri": "s3://adapters/faq/faq-r1-0b5a2f1e"},
        },
    )
    row = place("get", "ftj").splitlines()[1]
    assert row.split()[:8] == ["faq", "Training", "412/1280", "(32%)", "1.0841", "21m", "cpu", "2"]
    header, row = place("get", "ftj", "-o", "wide").splitlines()
    assert header.split()[-3:] == ["ATTEMPT", "REASON", "ARTIFACT"]
    assert row.split()[-3:] == ["3", "Training", "s3://adapters/faq/faq-r1-0b5a2f1e"]


def test_a_class_prints_what_it_offers(place: Place, gpu_class: str) -> None:
    """A watch prints every version: an operator that puts the status right again cannot hide ours."""
    watch = [*place.kubectl.argv, "get", "gpuclass", gpu_class, "--watch"]
    with subprocess.Popen(watch, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        header = process.stdout.readline()
        assert header.split() == ["NAME", "RESOURCE", "MEMORY", "CAPABILITY", "NODES", "DEVICES", "AGE"]
        patch = '{"status": {"nodes": 2, "devices": 8}}'
        place("patch", "gpuclass", gpu_class, "--subresource=status", "--type=merge", "--patch", patch)
        rows = (row.split() for row in process.stdout)
        row = next(row for row in rows if row[3:5] != ["0", "0"] and len(row) == 6)
        process.terminate()
    assert row[:5] == [gpu_class, "nvidia.com/gpu", "79Gi", "2", "8"]


def test_explain_describes_a_field(place: Place) -> None:
    assert "Peak learning rate" in place("explain", "finetunejob.spec.training.learningRate")


@pytest.mark.parametrize("kind", ["FineTuneJob", "GPUClass"])
def test_every_field_of_a_spec_is_explained(kind: str) -> None:
    silent = [
        node.path
        for node in walk(schema(kind)["properties"]["spec"], "spec")
        if "description" not in node.schema and not node.path.endswith(".0")
    ]
    assert not silent


# --- spec and status ---------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("unattended")
def test_a_status_that_a_user_sends_along_is_dropped(place: Place) -> None:
    created = place.create({**JOB, "status": {"phase": "Succeeded", "run": 7}})
    assert "status" not in created
    place("patch", "finetunejob", "faq", "--type=merge", "--patch", '{"status": {"phase": "Succeeded"}}')
    assert "status" not in place.get("finetunejob", "faq")


@pytest.mark.usefixtures("unattended")
def test_a_write_of_the_status_leaves_the_spec_and_its_generation_alone(place: Place) -> None:
    created = place.create(JOB)
    patch = yaml.safe_dump({"spec": {"suspend": True}, "status": {"phase": "Training"}})
    place("patch", "finetunejob", "faq", "--subresource=status", "--type=merge", "--patch", patch)
    stored = place.get("finetunejob", "faq")
    assert stored["spec"] == created["spec"]
    assert stored["metadata"]["generation"] == created["metadata"]["generation"] == 1
    assert stored["status"]["phase"] == "Training"


@pytest.mark.usefixtures("unattended")
def test_a_change_of_the_spec_moves_the_generation_and_keeps_the_status(place: Place) -> None:
    place.create(JOB)
    place.set_status("faq", {"phase": "Training", "observedGeneration": 1})
    place("patch", "finetunejob", "faq", "--type=merge", "--patch", '{"spec": {"suspend": true}}')
    stored = place.get("finetunejob", "faq")
    assert stored["metadata"]["generation"] == 2
    assert stored["status"] == {"phase": "Training", "observedGeneration": 1}


@pytest.mark.usefixtures("unattended")
def test_applying_the_same_file_again_changes_nothing(place: Place) -> None:
    """Defaults live in the schema alone, so a GitOps tool sees no difference."""
    document = yaml.safe_dump(JOB)
    place("apply", "-f", "-", stdin=document)
    before = place.get("finetunejob", "faq")["metadata"]["resourceVersion"]
    assert "unchanged" in place("apply", "-f", "-", stdin=document)
    assert place.get("finetunejob", "faq")["metadata"]["resourceVersion"] == before


@pytest.mark.usefixtures("unattended")
def test_there_is_one_condition_of_a_type(place: Place) -> None:
    place.create(JOB)
    same = [_condition("Succeeded", "Unknown", "Training"), _condition("Succeeded", "True", "Published")]
    with pytest.raises(Exception, match="Duplicate value"):
        place.set_status("faq", {"conditions": same})


@pytest.mark.usefixtures("unattended")
def test_kubectl_waits_for_the_summary(place: Place) -> None:
    place.create(JOB)
    place.set_status("faq", {"observedGeneration": 1, "conditions": [_condition("Succeeded", "True", "Published")]})
    assert "condition met" in place("wait", "ftj/faq", "--for=condition=Succeeded", "--timeout=5s")


@pytest.mark.parametrize("kind", ["FineTuneJob", "GPUClass"])
def test_the_crd_fits_an_annotation_so_that_a_plain_kubectl_apply_works(kind: str) -> None:
    assert len(json.dumps(crd(kind))) < 262_144 / 2


def _condition(kind: str, status: str, reason: str) -> Object:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
