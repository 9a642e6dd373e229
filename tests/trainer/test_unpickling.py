"""Checkpoints come from a bucket: whatever lies there, nothing in it is run, and nothing of another run is taken."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune_trainer.artifacts import manifests, restoring, unpickling
from finetune_trainer.artifacts.checkpoints import Owner, checkpoint_uri
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.errors import NoValidCheckpoint
from tests.trainer.conftest import S3

OWNER = Owner("u", 1)


class Attack:
    """What a pickle may do to whoever loads it."""

    def __init__(self, witness: Path) -> None:
        self._witness = witness

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._witness),)


def by_torch(file: Path, witness: Path) -> None:
    torch.save({"state": Attack(witness)}, file)


def by_torch_before_1_6(file: Path, witness: Path) -> None:
    torch.save({"state": Attack(witness)}, file, _use_new_zipfile_serialization=False)


def by_pickle(file: Path, witness: Path) -> None:
    file.write_bytes(pickle.dumps(Attack(witness)))


def in_a_newer_protocol(file: Path, witness: Path) -> None:
    torch.save({"state": Attack(witness)}, file, pickle_protocol=4)


def hidden_in_an_allowed_class(file: Path, witness: Path) -> None:
    state = {"numpy": np.array([Attack(witness)], dtype=object)}
    torch.save(state, file)


ATTACKS = [by_torch, by_torch_before_1_6, by_pickle, in_a_newer_protocol, hidden_in_an_allowed_class]
FILES = ["optimizer.pt", "scheduler.pt", "rng_state_1.pth", "global_step3/zero_pp_rank_0_mp_rank_00_optim_states.pt"]


def save(storage: Storage, uri: str, folder: Path, step: int, **meta: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    written = {"uid": "u", "run": 1, "step": step, "fencing_token": 1, **meta}
    kind = written.pop("kind", "checkpoint")
    manifests.commit(storage, folder, checkpoint_uri(uri, step, 1), kind=kind, **written)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__.replace("_", " "))
@pytest.mark.parametrize("name", FILES)
def test_code_in_a_checkpoint_is_refused_and_never_run(
    s3: S3, storage: Storage, tmp_path: Path, name: str, attack: Callable[[Path, Path], None]
) -> None:
    uri, witness, lines = s3.prefix(), tmp_path / "witness", list[str]()
    save(storage, uri, tmp_path / "good", 3)
    bad = tmp_path / "bad"
    (bad / name).parent.mkdir(parents=True)
    attack(bad / name, witness)
    save(storage, uri, bad, 6)
    restored = restoring.restore(storage, uri, tmp_path / "in", lines.append, OWNER)
    assert restored is not None
    assert restored.step == 3
    assert restored.damaged_uris == (checkpoint_uri(uri, 6, 1),)
    assert not witness.exists()
    assert [line for line in lines if "step 6 is damaged" in line and name in line]


def test_when_there_is_nothing_else_the_start_ends_with_4(s3: S3, storage: Storage, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    by_torch(bad / "optimizer.pt", tmp_path / "witness")
    uri = s3.prefix()
    save(storage, uri, bad, 6)
    with pytest.raises(NoValidCheckpoint, match=r"optimizer\.pt is refused: it names posix\.mkdir, which may run code"):
        restoring.restore(storage, uri, tmp_path / "in", lambda line: None, OWNER)
    assert not (tmp_path / "witness").exists()


def test_whatever_a_library_asks_for_torch_unpickles_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed asks for `weights_only=False`."""
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    by_torch(tmp_path / "shard.pt", tmp_path / "witness")
    unpickling.restrict()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "shard.pt", weights_only=False)
    assert not (tmp_path / "witness").exists()


def test_what_the_trainer_itself_writes_may_be_loaded(tmp_path: Path) -> None:
    state = {"python": (3, (1, 2), None), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}
    torch.save(state, tmp_path / "rng_state.pth")
    torch.save({"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1.0}]}, tmp_path / "optimizer.pt")
    assert unpickling.problems(tmp_path) == []
    assert torch.load(tmp_path / "rng_state.pth")["cpu"].equal(state["cpu"])


def test_what_nobody_reads_is_not_kept(tmp_path: Path) -> None:
    """The Trainer writes its arguments as a pickle of its classes."""
    by_torch(tmp_path / "training_args.bin", tmp_path / "witness")
    assert unpickling.problems(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_broken_archive_is_damage(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "optimizer.pt", "w") as archive:
        archive.writestr("x", "y")
    assert "optimizer.pt" in unpickling.problems(tmp_path)[0]


# --- whose it is -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("meta", "want"),
    [
        pytest.param({"uid": "another"}, "uid another, not u", id="of another job"),
        pytest.param({"run": 2}, "run 2, not 1", id="of another run"),
        pytest.param({"uid": ""}, "uid , not u", id="of nobody"),
        pytest.param({"kind": "adapter"}, "kind adapter, not checkpoint", id="a result"),
        pytest.param({"fencing_token": 7}, "fencing token 7, not 1", id="of another start"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    s3: S3, storage: Storage, tmp_path: Path, meta: dict[str, Any], want: str
) -> None:
    """Copied into this run's folder by whoever may write there."""
    uri = s3.prefix()
    save(storage, uri, tmp_path / "foreign", 6, **meta)
    with pytest.raises(NoValidCheckpoint, match=want):
        restoring.restore(storage, uri, tmp_path / "in", lambda line: None, OWNER)
    assert list((tmp_path / "in").iterdir()) == []


def test_a_checkpoint_of_another_step_is_refused(s3: S3, storage: Storage, tmp_path: Path) -> None:
    uri, folder = s3.prefix(), tmp_path / "moved"
    folder.mkdir()
    (folder / "a").write_bytes(b"a")
    manifests.commit(
        storage, folder, checkpoint_uri(uri, 9, 1), kind="checkpoint", uid="u", run=1, step=3, fencing_token=1
    )
    with pytest.raises(NoValidCheckpoint, match="step 3, not 9"):
        restoring.restore(storage, uri, tmp_path / "in", lambda line: None, OWNER)
