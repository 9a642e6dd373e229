"""The result: there as a whole or not at all, and never twice."""

import json
from pathlib import Path

import pytest

from finetune_contract import layout
from finetune_contract.jobspec import JobFile
from finetune_contract.manifest import MANIFEST_NAME, digest
from finetune_trainer import verify
from finetune_trainer.artifacts import publish
from finetune_trainer.artifacts.fence import Fence
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.errors import ConfigurationError, Superseded, Transient
from tests.trainer.conftest import S3
from tests.trainer.starts import Runner, digests


@pytest.fixture
def result(tmp_path: Path) -> publish.Result:
    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights" * 100)
    (folder / "README.md").write_text("# card")
    return publish.Result(folder, "adapter", 12, {"versions": {"torch": "2"}}, {"evaluation": None})


def fence_of(storage: Storage, job: JobFile) -> Fence:
    return Fence.take(storage, layout.fencing_tokens_uri(job.spec.output.uri, job.identity), attempt=1, pod="p")


def uri_of(job: JobFile) -> str:
    return layout.artifact_uri(job.spec.output.uri, job.identity)


def test_a_result_says_where_it_comes_from(s3: S3, storage: Storage, result: publish.Result, tmp_path: Path) -> None:
    job = s3.job()
    artifact = publish.publish(storage, job, result, fence_of(storage, job), tmp_path)
    data = storage.get_bytes(f"{artifact.uri}/{MANIFEST_NAME}") or b""
    manifest = json.loads(data)
    assert artifact.digest == digest(data)
    assert (artifact.files, artifact.bytes) == (2, 706)
    assert (manifest["run"], manifest["attempt"], manifest["epoch"], manifest["step"]) == (1, 1, 1, 12)
    assert manifest["provenance"]["configHash"] == "c0ffee"
    assert manifest["provenance"]["modelSource"] == job.spec.model.source
    assert manifest["provenance"]["versions"] == {"torch": "2"}
    latest = json.loads(storage.get_bytes(layout.latest_uri(job.spec.output.uri)) or b"{}")
    assert (latest["uri"], latest["digest"]) == (artifact.uri, artifact.digest)


def test_a_superseded_start_writes_nothing(s3: S3, storage: Storage, result: publish.Result, tmp_path: Path) -> None:
    job = s3.job()
    late = fence_of(storage, job)
    fence_of(storage, job)
    with pytest.raises(Superseded):
        publish.publish(storage, job, result, late, tmp_path)
    assert storage.list(uri_of(job)) == ()
    assert storage.get_bytes(layout.latest_uri(job.spec.output.uri)) is None


def test_a_start_superseded_while_uploading_commits_nothing(
    s3: S3, storage: Storage, result: publish.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = s3.job()
    late, put = fence_of(storage, job), storage.put_file

    def put_and_lose(path: Path, uri: str, **options: str) -> None:
        put(path, uri, **options)
        if path.suffix == ".safetensors":  # the last file
            fence_of(storage, job)

    monkeypatch.setattr(storage, "put_file", put_and_lose)
    with pytest.raises(Superseded):
        publish.publish(storage, job, result, late, tmp_path)
    assert publish.published(storage, job) is None


def test_what_reads_back_differently_is_not_published(
    s3: S3, storage: Storage, result: publish.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, put = s3.job(), storage.put_file

    def put_other(path: Path, uri: str, **options: str) -> None:
        put(path, uri, **options)
        if path.suffix == ".safetensors":
            storage.put_bytes(uri, b"Weights" + path.read_bytes()[7:])  # of the same size

    monkeypatch.setattr(storage, "put_file", put_other)
    with pytest.raises(Transient, match="SHA-256"):
        publish.publish(storage, job, result, fence_of(storage, job), tmp_path)
    assert publish.published(storage, job) is None


# --- whole starts ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def published(runner: Runner) -> JobFile:
    job = runner.job({"training": {"maxSteps": 2}, "dataset": {"splitFraction": 0.2}})
    end = runner.start(job).end()
    assert end.status == 0, end.log
    assert end.record is not None
    assert end.record.evaluation is not None
    return job


def test_a_run_that_is_already_published_ends_at_once(runner: Runner, published: JobFile) -> None:
    before = runner.verify_artifact(published)
    end = runner.start(published, attempt=2).end()
    assert end.status == 0, end.log
    assert "step 1/" not in end.log
    assert end.record is not None
    assert end.record.artifact is not None
    assert end.record.evaluation is not None, "what the first start measured"
    assert runner.verify_artifact(published) == before


def test_a_verified_result_answers_before_and_after(
    runner: Runner,
    published: JobFile,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FINETUNE_CREDENTIALS_DIR", str(runner.s3.credentials()))
    question = "What does an architect do?"
    record = verify.run(
        uri_of(published), questions=[question], as_json=True, endpoint=runner.s3.endpoint, region="r", scratch=tmp_path
    )
    document = json.loads(capsys.readouterr().out.strip())
    assert record.exit_code == 0
    assert document["verified"]
    assert document["answers"][0]["question"] == question
    assert set(document["answers"][0]) == {"question", "before", "after"}


def test_a_damaged_result_does_not_verify_and_is_withdrawn_and_published_again(
    runner: Runner, published: JobFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_CREDENTIALS_DIR", str(runner.s3.credentials()))
    want, storage, uri = digests(runner.verify_artifact(published)), runner.s3.storage(), uri_of(published)
    data = storage.get_bytes(f"{uri}/adapter_model.safetensors") or b""
    storage.put_bytes(f"{uri}/adapter_model.safetensors", data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(Transient, match=r"adapter_model\.safetensors has a different SHA-256"):
        verify.run(uri, questions=[], as_json=False, endpoint=runner.s3.endpoint, region="r", scratch=tmp_path)

    end = runner.start(published, attempt=3).end()
    assert end.status == 75
    assert end.record is not None
    assert end.record.reason == "ArtifactDamaged"
    assert runner.artifact(published) is None
    end = runner.start(published, attempt=4).end()
    assert end.status == 0, end.log
    assert digests(runner.verify_artifact(published)) == want


def test_a_folder_without_a_result_is_named(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_CREDENTIALS_DIR", str(s3.credentials()))
    with pytest.raises(ConfigurationError, match=r"no manifest\.json"):
        verify.run(s3.prefix(), questions=[], as_json=False, endpoint=s3.endpoint, region="r", scratch=tmp_path)
