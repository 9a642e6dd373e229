"""Checkpoints: what is damaged is passed over and named, what is kept is what verifies."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_contract.manifest import MANIFEST_NAME
from finetune_trainer.artifacts import restoring
from finetune_trainer.artifacts.checkpoints import Owner, list_checkpoints
from finetune_trainer.artifacts.fence import Fence
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.artifacts.uploads import Uploads
from finetune_trainer.errors import NoValidCheckpoint, Superseded
from finetune_trainer.rank.collectives import Nodes, Ranks
from tests.trainer.conftest import S3
from tests.trainer.starts import Runner

FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
Damage = Callable[[bytes], bytes | None]
DAMAGE: dict[str, Damage] = {
    "truncated": lambda data: data[: len(data) // 2],
    "one bit flipped": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "missing": lambda data: None,
}


class Bench:
    """Uploads of one start, and a disk that the Trainer writes to."""

    def __init__(self, storage: Storage, uri: str, disk: Path, *, keep: int = 2, attempt: int = 1) -> None:
        self.storage, self.uri, self.disk = storage, uri, disk
        self.lines: list[str] = []
        self.verified: list[int] = []
        self.fence = Fence.take(storage, f"{uri}-epochs", attempt=attempt, pod="p")
        self.uploads = Uploads(
            storage,
            uri,
            keep=keep,
            token=self.fence.token,
            fence=self.fence,
            nodes=Nodes(Ranks()),
            meta={"uid": "u", "run": 1, "attempt": attempt},
            on_verified=lambda step, uri, seconds: self.verified.append(step),
            report=self.lines.append,
        )

    def write(self, step: int) -> Path:
        folder = self.disk / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        for name in FILES:
            said = f"{name} of step {step}"
            torch.save({"said": said}, folder / name) if ".pt" in name else (folder / name).write_text(said)
        return folder

    def save(self, step: int) -> None:
        self.uploads.begin(self.write(step), step)
        self.uploads.wait()

    def restore(self, into: Path) -> restoring.RestoredCheckpoint | None:
        return restoring.restore(self.storage, self.uri, into, self.lines.append, Owner("u", 1))

    def damage(self, step: int, name: str, how: Damage) -> None:
        place = next(item.uri for item in list_checkpoints(self.storage, self.uri) if item.step == step)
        data = how(self.storage.get_bytes(f"{place}/{name}") or b"")
        if data is None:
            self.storage.delete(f"{place}/{name}")
        else:
            self.storage.put_bytes(f"{place}/{name}", data)

    def steps(self) -> list[int]:
        return [item.step for item in list_checkpoints(self.storage, self.uri)]


@pytest.fixture
def bench(s3: S3, storage: Storage, tmp_path: Path) -> Bench:
    return Bench(storage, s3.prefix(), tmp_path / "disk")


# --- F18 -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [*FILES, MANIFEST_NAME])
def test_a_damaged_checkpoint_is_passed_over_and_named(bench: Bench, tmp_path: Path, name: str, damage: str) -> None:
    bench.save(3)
    bench.save(6)
    bench.damage(6, name, DAMAGE[damage])
    restored = bench.restore(tmp_path / "in")
    assert restored is not None
    assert restored.step == 3
    assert torch.load(restored.folder / "optimizer.pt") == {"said": "optimizer.pt of step 3"}
    said = [line for line in bench.lines if "step 6" in line and "skipped" in line]
    assert len(said) == 1
    assert name in said[0]


def test_when_none_verifies_the_start_ends_with_4(bench: Bench, tmp_path: Path) -> None:
    bench.save(3)
    bench.save(6)
    bench.damage(3, "scheduler.pt", DAMAGE["truncated"])
    bench.damage(6, "optimizer.pt", DAMAGE["one bit flipped"])
    with pytest.raises(NoValidCheckpoint, match=r"none of the 2 .*optimizer\.pt") as caught:
        bench.restore(tmp_path / "in")
    assert caught.value.code == 4
    assert "start a new run" in str(caught.value)


def test_a_run_without_manifests_starts_at_step_0(bench: Bench, tmp_path: Path) -> None:
    assert bench.restore(tmp_path / "in") is None
    bench.save(3)
    bench.damage(3, MANIFEST_NAME, DAMAGE["missing"])
    assert bench.restore(tmp_path / "in") is None


def test_the_newest_step_wins_and_at_equal_steps_the_newer_start(s3: S3, storage: Storage, tmp_path: Path) -> None:
    uri = s3.prefix()
    first = Bench(storage, uri, tmp_path / "a", keep=5)
    first.save(12)
    first.save(9)  # written later, older by step
    second = Bench(storage, uri, tmp_path / "b", keep=5)
    second.save(12)
    restored = second.restore(tmp_path / "in")
    assert restored is not None
    assert (restored.step, restored.uri[-9:]) == (12, "e00000002")


# --- retention -------------------------------------------------------------------------------------------------------
def test_the_newest_are_kept_in_s3_and_one_on_disk(bench: Bench) -> None:
    for step in (3, 6, 9, 12):
        bench.save(step)
    assert bench.steps() == [12, 9]
    assert [path.name for path in bench.disk.iterdir()] == ["checkpoint-12"]
    assert bench.verified == [3, 6, 9, 12]


def test_a_checkpoint_that_does_not_verify_does_not_count_as_kept(bench: Bench) -> None:
    bench.save(3)
    bench.save(6)
    bench.damage(6, "optimizer.pt", DAMAGE["truncated"])
    bench.save(9)
    assert bench.steps() == [9, 6, 3], "3 is the second newest that verifies"


def test_a_checkpoint_that_a_restore_found_damaged_does_not_count_as_kept(bench: Bench, tmp_path: Path) -> None:
    bench.save(3)
    bench.save(6)
    bench.damage(6, "optimizer.pt", DAMAGE["one bit flipped"])  # sizes are right: only a download shows it
    restored = bench.restore(tmp_path / "in")
    assert restored is not None
    bench.uploads.resume(restored.step, restored.damaged_uris)
    bench.save(9)
    assert bench.steps() == [9, 6, 3]


def test_an_interrupted_upload_is_removed_with_what_is_older(bench: Bench) -> None:
    bench.save(3)
    bench.damage(3, MANIFEST_NAME, DAMAGE["missing"])
    bench.save(6)
    bench.save(9)
    assert bench.steps() == [9, 6]


def test_a_half_deleted_checkpoint_is_not_damaged(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while retention removes step 3: a later start must not take what is left for a damaged checkpoint."""
    for step in (3, 6):
        bench.save(step)
    monkeypatch.setattr(bench.storage, "delete_prefix", lambda uri, **_: None)
    bench.save(9)
    assert [item.has_manifest for item in list_checkpoints(bench.storage, bench.uri)] == [True, True, False]


# --- uploading -------------------------------------------------------------------------------------------------------
@pytest.mark.races
def test_training_continues_while_one_upload_is_running(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end, put = threading.Event(), bench.storage.put_file

    def slow(*args: Any, **kwargs: Any) -> None:
        assert may_end.wait(300)
        put(*args, **kwargs)

    monkeypatch.setattr(bench.storage, "put_file", slow)
    bench.uploads.begin(bench.write(3), 3)  # returns though nothing is uploaded
    assert bench.verified == []
    second = threading.Thread(target=bench.uploads.begin, args=(bench.write(6), 6))
    second.start()
    assert bench.steps() == []
    may_end.set()
    second.join()
    bench.uploads.wait()
    assert bench.verified == [3, 6]


def test_an_error_that_nobody_foresaw_fails_the_training_not_its_thread(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(bench.storage, "put_file", fail)
    bench.uploads.begin(bench.write(3), 3)
    with pytest.raises(RuntimeError, match="a bug"):
        bench.uploads.wait()
    assert bench.verified == []


def test_a_superseded_start_commits_nothing(bench: Bench, tmp_path: Path) -> None:
    bench.save(3)
    Fence.take(bench.storage, f"{bench.uri}-epochs", attempt=1, pod="newer")
    with pytest.raises(Superseded):
        bench.save(6)
    restored = bench.restore(tmp_path / "in")
    assert restored is not None
    assert restored.step == 3


# --- a whole start ---------------------------------------------------------------------------------------------------
def test_a_start_with_only_damaged_checkpoints_ends_with_4(runner: Runner) -> None:
    job = runner.job({"training": {"maxSteps": 6}})
    first = runner.start(job).end()
    assert first.status == 0, first.log
    storage = runner.s3.storage()
    storage.delete_prefix(job.spec.output.uri + "/faq-r1-" + job.identity.uid[:8])
    for stored in runner.checkpoints(job):
        storage.put_bytes(f"{stored.uri}/optimizer.pt", b"short")
    end = runner.start(job).end()
    assert end.status == 4
    assert end.record is not None
    assert "optimizer.pt" in end.record.message
