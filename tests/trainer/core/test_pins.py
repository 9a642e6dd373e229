"""A run goes on with the base model that it began with, or not at all."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_contract import layout
from finetune_contract.jobspec import JobFile, Prepared
from finetune_trainer.artifacts import manifests
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model import pins
from finetune_trainer.prepare import preparation
from finetune_trainer.training.setup import Setup, set_up
from tests.trainer.builders import make_job
from tests.trainer.cases import weights_models
from tests.trainer.runs import Bench, write_rows


class Place:
    """A model of its own, which may change, and a job on it."""

    def __init__(self, root: Path, model: Path, scheme: str) -> None:
        self.bench = Bench(root, root / "s3" / "bucket" / "model", write_rows(root / "rows.jsonl"))
        shutil.copytree(model, self.model)
        source: str | Path = "s3://bucket/model" if scheme == "s3" else self.model
        self.job = make_job({"dataset": {"splitFraction": 0}}, model=source, train=self.bench.rows)
        self.inputs = self.bench.storage._path(layout.run_inputs_uri(self.job.spec.output.uri, self.job.identity))

    @property
    def model(self) -> Path:
        return self.bench.model

    def prepare(self) -> JobFile:
        lines: list[str] = []
        result = preparation.run(self.job, self.bench.storage, self.bench.root / "prepare", lines.append)
        shutil.rmtree(self.bench.root / "prepare")
        return self.job.model_copy(update={"prepared": Prepared(uri=result.uri, digest=result.digest)})

    def begin(self, job: JobFile, attempt: str = "one") -> Setup:
        """As far as the model is on the disk of the node."""
        return set_up(job, self.bench.storage, self.bench.root / attempt)


@pytest.fixture(params=["s3", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path, tiny_model: Path) -> Place:
    return Place(tmp_path, tiny_model, request.param)


def _other_weights(model: Path) -> None:
    weights_models.rewrite(model, lambda tensors: {name: tensor + 1 for name, tensor in tensors.items()})


def _other_tokenizer(model: Path) -> None:
    file = model / "tokenizer_config.json"
    file.write_text(file.read_text() + " ")


def _without_generation_config(model: Path) -> None:
    (model / "generation_config.json").unlink()


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "other weights of the same size": (_other_weights, "1 changed (model.safetensors)"),
    "another tokenizer": (_other_tokenizer, "1 changed (tokenizer_config.json)"),
    "a file less": (_without_generation_config, "1 gone (generation_config.json)"),
}


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_a_base_that_changed_under_a_run_ends_it(change: Callable[[Path], None], words: str, place: Place) -> None:
    job = place.prepare()
    place.begin(job, "before")
    change(place.model)
    with pytest.raises(ConfigurationError) as refused:
        place.begin(job, "after")
    assert (refused.value.reason, refused.value.field) == ("BaseChanged", "spec.model.source")
    assert words in str(refused.value)


def test_what_is_not_part_of_the_model_may_change(place: Place) -> None:
    job = place.prepare()
    (place.model / "README.md").write_text("Now with a picture.")
    (place.model / "more.json").write_text("{}")
    assert place.begin(job).inputs is not None


def test_a_run_of_an_older_version_goes_on(place: Place) -> None:
    job = place.prepare()
    place.inputs.unlink()
    _other_weights(place.model)
    assert place.begin(job).inputs is None


def test_the_record_of_another_run_is_not_taken(place: Place) -> None:
    job = place.prepare()
    place.inputs.write_text(json.dumps({**json.loads(place.inputs.read_text()), "uid": "another"}))
    with pytest.raises(manifests.Damaged, match="belongs to run 1 of another"):
        place.begin(job)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"uid": 1}', b"\xff\xfe"])
def test_a_damaged_record_is_said_to_be_one(content: bytes, place: Place) -> None:
    job = place.prepare()
    place.inputs.write_bytes(content)
    with pytest.raises(manifests.Damaged, match=r"inputs\.json: it cannot be read"):
        place.begin(job)


def test_a_new_preparation_of_the_run_takes_the_new_base_until_something_is_trained_on_the_old(place: Place) -> None:
    place.prepare()
    _other_weights(place.model)
    job = place.prepare()
    assert place.begin(job).inputs is not None
    checkpoints = layout.checkpoints_uri(job.spec.output.uri, job.identity)
    place.bench.storage.put_bytes(f"{checkpoints}/step-00000001.e00000001/adapter.safetensors", b"trained")
    assert place.prepare() == job
    _other_weights(place.model)
    with pytest.raises(ConfigurationError) as refused:
        place.prepare()
    assert refused.value.reason == "BaseChanged"


def test_the_record_names_every_file_by_digest(tmp_path: Path, tiny_model: Path) -> None:
    place = Place(tmp_path, tiny_model, "file")
    job = place.prepare()
    inputs = pins.read(place.bench.storage, job)
    assert inputs is not None
    assert {file.name: file.digest for file in inputs.base.files} == {
        path.name: f"sha256:{manifests.sha256(path)}" for path in tiny_model.iterdir()
    }
    assert [(data.source, data.sha256) for data in inputs.data] == [
        (f"file://{place.bench.rows}", manifests.sha256(place.bench.rows))
    ]
