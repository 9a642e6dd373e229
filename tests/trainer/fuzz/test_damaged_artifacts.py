"""A checkpoint or a result that is damaged in whatever way is never taken for a good one, and is named."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from finetune_contract.manifest import MANIFEST_NAME
from finetune_trainer.artifacts import manifests, restoring
from finetune_trainer.artifacts.checkpoints import Owner, checkpoint_uri
from finetune_trainer.errors import NoValidCheckpoint, TrainerError
from tests.trainer.folders import FolderStorage
from tests.trainer.fuzz import broken

CHECKPOINTS = "s3://bucket/out/checkpoints"
URI = checkpoint_uri(CHECKPOINTS, 7, 1)


def _saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


FILES = {
    "adapter_model.safetensors": b"weights " * 40,
    "optimizer.pt": _saved({"state": {0: {"exp_avg": torch.ones(8)}}}),
    "trainer_state.json": b'{"global_step": 7}',
}


@pytest.fixture
def storage(tmp_path: Path) -> FolderStorage:
    """With one good checkpoint."""
    storage, folder = FolderStorage(tmp_path / "s3"), tmp_path / "checkpoint"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    manifests.commit(storage, folder, URI, kind="checkpoint", uid="u", run=1, attempt=1, step=7, fencing_token=1)
    return storage


def test_a_broken_manifest_is_damage(
    storage: FolderStorage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = storage.get_bytes(f"{URI}/{MANIFEST_NAME}")
    assert good is not None
    assert _taken(storage, tmp_path / "good") is None
    problems, count = [], 0
    for count, (name, data) in enumerate(broken.broken_manifests(good), start=1):
        storage.put_bytes(f"{URI}/{MANIFEST_NAME}", data)
        if problem := _taken(storage, tmp_path / str(count), wanted="refused"):
            problems.append(f"{name}: {problem}")
    with capsys.disabled():
        print(f"\nbroken manifests: {count} tried, {count - len(problems)} refused", end="")
    assert not problems, "\n".join(problems)


def test_a_damaged_file_is_damage(storage: FolderStorage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problems, count = [], 0
    for name, good in FILES.items():
        for what, data in broken.damaged_files(good, name):
            count += 1
            storage.put_bytes(f"{URI}/{name}", data or b"")
            if data is None:
                (storage._path(f"{URI}/{name}")).unlink()
            if problem := _taken(storage, tmp_path / str(count), wanted="refused"):
                problems.append(f"{what}: {problem}")
        storage.put_bytes(f"{URI}/{name}", good)
    with capsys.disabled():
        print(f"\ndamaged files: {count} tried, {count - len(problems)} refused", end="")
    assert not problems, "\n".join(problems)


def _taken(storage: FolderStorage, into: Path, *, wanted: str = "taken") -> str | None:
    """What is wrong with how a start reacts to the checkpoint, and a reader to the folder."""
    readers: dict[str, Callable[[], object]] = {
        "restore": lambda: restoring.restore(storage, CHECKPOINTS, into, lambda line: None, Owner(uid="u", run=1)),
        "fetch": lambda: manifests.fetch(storage, URI, into / "fetched"),
    }
    for name, read in readers.items():
        try:
            read()
        except (NoValidCheckpoint, manifests.Damaged) as error:
            if wanted == "taken" or "step-00000007" not in str(error):
                return f"{name} says {error}"
        except TrainerError as error:
            return f"{name} blames another cause: {error}"
        except Exception as error:  # noqa: BLE001 - would be code 1
            return f"{name} crashes: {type(error).__name__}: {error}"
        else:
            if wanted == "refused":
                return f"{name} takes it"
    return None
