"""Keys of real identities: what they lack is said before work begins, and a change of them is survived."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from dev.localcluster.s3 import Keys
from finetune_trainer.artifacts import manifests
from finetune_trainer.errors import ConfigurationError, Transient
from tests.trainer.conftest import S3
from tests.trainer.starts import Runner

_numbers = itertools.count()


def some_keys() -> Keys:
    number = next(_numbers)
    return Keys(f"key-{number}", f"secret-{number}")


def mounted(folder: Path, keys: Keys) -> Path:
    """As the kubelet mounts a Secret, which it may replace."""
    folder.mkdir(exist_ok=True)
    (folder / "AWS_ACCESS_KEY_ID").write_text(keys.access_key)
    (folder / "AWS_SECRET_ACCESS_KEY").write_text(keys.secret_key)
    return folder


@pytest.mark.parametrize(
    ("actions", "want"),
    [
        pytest.param(("Read", "List"), "may not write", id="read only"),
        pytest.param(("Write", "List"), "may not read", id="write only"),
        pytest.param(("Read", "Write"), "may not list", id="no listing"),
    ],
)
def test_a_missing_right_is_found_by_the_probe_and_named(
    s3: S3, tmp_path: Path, actions: tuple[str, ...], want: str
) -> None:
    keys = some_keys()
    s3.identify(f"identity-{want}", keys, *actions)
    with pytest.raises(ConfigurationError, match=want) as caught:
        s3.storage(credentials_dir=mounted(tmp_path / "keys", keys)).probe(s3.prefix())
    assert (caught.value.code, caught.value.reason) == (2, "StorageAccessDenied")
    assert caught.value.field == "spec.output.uri"
    assert "spec.storage.secretName" in str(caught.value)


def test_keys_that_may_not_delete_pass_the_probe_and_are_warned_of_once(s3: S3) -> None:
    lines: list[str] = []
    storage, uri = s3.storage(report=lines.append), s3.prefix()
    with s3.denied(uri, ["s3:DeleteObject"]):
        storage.probe(uri)
        storage.put_bytes(f"{uri}/x", b"")
        assert not storage.delete_if_allowed(f"{uri}/x")
    assert [line for line in lines if "may not delete" in line] == lines
    assert len(lines) == 1
    assert storage.delete_if_allowed(f"{uri}/x")


def test_keys_that_were_replaced_are_read_again(s3: S3, tmp_path: Path) -> None:
    """For every kind of request, whichever meets them first."""
    uri, folder = s3.prefix(), tmp_path / "keys"
    file = tmp_path / "file"
    file.write_bytes(b"data")
    first = some_keys()
    s3.identify("rotated", first, "Read", "Write", "List")
    storage = s3.storage(credentials_dir=mounted(folder, first))
    storage.put_bytes(f"{uri}/x", b"1")
    requests: list[Any] = [
        lambda: storage.get_bytes(f"{uri}/x") == b"1",
        lambda: storage.size(f"{uri}/x") == 1,
        lambda: len(storage.list(uri)) == 1,
        lambda: storage.put_bytes(f"{uri}/x", b"2"),
        lambda: storage.put_file(file, f"{uri}/x") is None,
        lambda: storage.fetch(f"{uri}/x", tmp_path / "in", field="f").read_bytes() == b"data",
        lambda: storage.delete(f"{uri}/x") is None,
    ]
    for request in requests:
        keys = some_keys()
        s3.identify("rotated", keys, "Read", "Write", "List")  # the keys before are refused from here on
        mounted(folder, keys)
        assert request()


def test_keys_that_worked_are_waited_for(s3: S3, tmp_path: Path) -> None:
    """The server has new ones at once, the pod's files a minute later."""
    uri, folder = s3.prefix(), tmp_path / "keys"
    first, second = some_keys(), some_keys()
    s3.identify("late", first, "Read", "Write", "List")

    def bring(line: str) -> None:
        assert "rejects the keys" in line
        mounted(folder, second)

    storage = s3.storage(credentials_dir=mounted(folder, first), report=bring, budget_seconds=60)
    storage.put_bytes(f"{uri}/x", b"1")
    s3.identify("late", second, "Read", "Write", "List")
    assert storage.get_bytes(f"{uri}/x") == b"1"


def test_keys_that_worked_and_stay_refused_name_the_secret(s3: S3, tmp_path: Path) -> None:
    uri, keys = s3.prefix(), some_keys()
    s3.identify("expired", keys, "Read", "Write", "List")
    storage = s3.storage(credentials_dir=mounted(tmp_path / "keys", keys), budget_seconds=0.1)
    storage.put_bytes(f"{uri}/x", b"1")
    s3.identify("expired", some_keys(), "Read", "Write", "List")
    with pytest.raises(ConfigurationError) as caught:
        storage.get_bytes(f"{uri}/x")
    assert (caught.value.reason, caught.value.field) == ("StorageKeysRefused", "spec.storage.secretName")


# --- objects that change while they are read -------------------------------------------------------------------------
def test_an_object_that_vanishes_during_a_read_is_named_and_worth_another_try(s3: S3, tmp_path: Path) -> None:
    storage, uri = s3.storage(), f"{s3.prefix()}/rows.jsonl"
    storage.put_bytes(uri, b"{}")
    storage._client.meta.events.register("before-call.s3.GetObject", lambda **_: s3.storage().delete(uri))
    with pytest.raises(Transient, match=r"rows\.jsonl was deleted or replaced while it was read") as caught:
        storage.fetch(uri, tmp_path, field="spec.dataset.train[0].source")
    assert (caught.value.code, caught.value.reason) == (75, "SourceChanged")
    assert "spec.dataset.train[0].source" in str(caught.value)


def test_a_large_object_that_is_replaced_during_a_read_is_not_mixed(s3: S3, tmp_path: Path) -> None:
    """It is read in ranges."""
    storage, uri = s3.storage(), f"{s3.prefix()}/model.safetensors"
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"o" * (40 << 20))
    new.write_bytes(b"n" * (40 << 20))
    storage.put_file(old, uri)
    replacing = iter([True])

    def replace(**_: Any) -> None:
        if next(replacing, False):
            s3.storage().put_file(new, uri)

    storage._client.meta.events.register("before-call.s3.GetObject", replace)
    with pytest.raises(Transient) as caught:
        storage.fetch(uri, tmp_path / "in", field="spec.model.source")
    assert caught.value.reason == "SourceChanged"


# --- whole starts ----------------------------------------------------------------------------------------------------
def test_a_training_survives_a_rotation_of_its_keys(runner: Runner, tmp_path: Path) -> None:
    job, folder = runner.job(), tmp_path / "keys"
    first, second = some_keys(), some_keys()
    runner.s3.identify("team", first, "Read", "Write", "List")
    credentials = {"FINETUNE_CREDENTIALS_DIR": str(mounted(folder, first))}
    start = runner.start(job, gates=[{"step": 4}], env=credentials)
    with start.held():
        runner.s3.identify("team", second, "Read", "Write", "List")
        mounted(folder, second)
    end = start.end()
    assert end.status == 0, end.log
    runner.verify_artifact(job)


def test_a_training_without_the_right_to_delete_finishes_and_keeps_everything(runner: Runner) -> None:
    job = runner.job({"checkpoint": {"everySteps": 3, "keep": 1}})
    with runner.s3.denied(job.spec.output.uri, ["s3:DeleteObject"]):
        end = runner.start(job).end()
    assert end.status == 0, end.log
    assert end.log.count("may not delete") == 1
    assert [saved.step for saved in runner.checkpoints(job)] == [12, 9, 6, 3]


def test_a_start_whose_checkpoint_vanishes_while_it_is_read_takes_the_one_before(s3: S3, tmp_path: Path) -> None:
    storage, uri = s3.storage(), s3.prefix()
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(b"a")
    manifests.commit(storage, folder, uri, kind="checkpoint")
    storage._client.meta.events.register(
        "before-call.s3.HeadObject", lambda **_: s3.storage().delete(f"{uri}/a.safetensors")
    )
    with pytest.raises(manifests.Damaged, match=r"a\.safetensors"):
        manifests.fetch(storage, uri, tmp_path / "in")
