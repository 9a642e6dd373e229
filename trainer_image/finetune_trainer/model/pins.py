"""What a run was made from: the files of its base model and of its data, by digest.

The preparation records it in the folder of the run; every start of the training compares the base with it before it
loads: a checkpoint of an adapter belongs to the weights that it was trained on. A run that was begun by an older
version has no such record, and goes on without.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from finetune_contract import layout
from finetune_contract.jobspec import JobFile
from finetune_trainer.artifacts import manifests
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model.places import FIELD, HubPlace, Place
from finetune_trainer.rank.reporting import Report

_DESCRIBES = (".json", ".model", ".jinja", ".py", ".tiktoken")
_SHOWN = 3
_THREADS = 4


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


class PinnedFile(_Part):
    name: str
    size: int
    digest: str
    """`sha256:…`; where nobody has read the whole file, the mark of the store that changes with it: `etag:…`,
    `git:…`."""


class PinnedBase(_Part):
    source: str
    commit: str | None = None
    """Of the hub, whose branches move on."""
    files: tuple[PinnedFile, ...]


class PinnedData(_Part):
    source: str
    """As the job names it, or a file in the folder that it names."""
    sha256: str


class RunInputs(_Part):
    version: Literal[1] = 1
    uid: str
    run: int
    base: PinnedBase
    data: tuple[PinnedData, ...] = ()


def pinned_base(place: Place, weights: Sequence[str]) -> PinnedBase:
    """The files that matter: weights, configuration, tokenizer and code; no pictures and no model card.

    Args:
        weights: names of the files that hold them.
    """
    return _pinned(place, sorted({*weights, *(name for name in place.sizes() if name.endswith(_DESCRIBES))}))


def _pinned(place: Place, names: Sequence[str]) -> PinnedBase:
    sizes = place.sizes()
    with ThreadPoolExecutor(_THREADS) as threads:
        digests = list(threads.map(place.digest, names))
    files = tuple(
        PinnedFile(name=name, size=sizes[name], digest=mark) for name, mark in zip(names, digests, strict=True)
    )
    commit = place.snapshot.commit if isinstance(place, HubPlace) else None
    return PinnedBase(source=place.source, commit=commit, files=files)


def record(storage: Storage, job: JobFile, base: PinnedBase, data: Iterable[PinnedData]) -> None:
    """Written by the preparation, before anything is trained.

    Raises:
        ConfigurationError: something was trained already, on a base that differs.
    """
    identity, uri = job.identity, layout.run_inputs_uri(job.spec.output.uri, job.identity)
    before = read(storage, job)
    if before and storage.list(layout.checkpoints_uri(job.spec.output.uri, identity)):
        _compare(before.base, base)
    inputs = RunInputs(uid=identity.uid, run=identity.run, base=base, data=tuple(data))
    storage.put_bytes(uri, inputs.model_dump_json(by_alias=True, indent=1).encode())


def read(storage: Storage, job: JobFile) -> RunInputs | None:
    """None for a run that was begun by a version without this record.

    Raises:
        Damaged: there is one, and it cannot be read, or is that of another run.
    """
    uri = layout.run_inputs_uri(job.spec.output.uri, job.identity)
    data = storage.get_bytes(uri)
    if data is None:
        return None
    try:
        inputs = RunInputs.model_validate_json(data)
    except ValidationError as error:
        raise manifests.Damaged(uri, ["it cannot be read"]) from error
    if (inputs.uid, inputs.run) != (job.identity.uid, job.identity.run):
        raise manifests.Damaged(uri, [f"it belongs to run {inputs.run} of {inputs.uid}"])
    return inputs


def check(base: PinnedBase, place: Place, report: Report) -> None:
    """Is the base still the one that the run began with? Reads all of a folder.

    Raises:
        ConfigurationError: it is not; names what changed.
    """
    sizes = place.sizes()
    report(f"comparing {len(base.files)} files of the base model with those that the run began with")
    pinned = [file.name for file in base.files]
    _compare(base, _pinned(place, [name for name in pinned if name in sizes]))


def _compare(began_with: PinnedBase, found: PinnedBase) -> None:
    now = {file.name: file for file in found.files}
    changed = [file.name for file in began_with.files if now.get(file.name) not in (file, None)]
    lost = [file.name for file in began_with.files if file.name not in now]
    if changed or lost:
        facts = [
            f"{len(changed)} changed ({_some(changed)})" if changed else "",
            f"{len(lost)} gone ({_some(lost)})" if lost else "",
        ]
        message = (
            f"the base model {began_with.source} is not the one that this run began with: of its "
            f"{len(began_with.files)} files {' and '.join(filter(None, facts))}. Put the files back as they were, or "
            "start a new run on the new ones"
        )
        raise ConfigurationError(message, field=FIELD, reason="BaseChanged")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
