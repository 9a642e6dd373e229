"""The Hugging Face hub: what a repository holds at one commit, parts of its files, all of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_contract.jobspec import Model
from finetune_trainer.errors import ConfigurationError, Transient

_FIELD = "spec.model.source"


@dataclass(frozen=True)
class HubFile:
    size: int
    digest: str
    """`sha256:…` for large files, `git:…` (the blob) for the others."""


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit: a branch that moves on does not change it."""

    name: str
    commit: str
    files: Mapping[str, HubFile]
    """Those at the top: no library reads what lies in folders."""


def snapshot(model: Model) -> Snapshot:
    """What the repository holds now.

    Raises:
        ConfigurationError: there is no such repository or revision, or it may not be read.
        Transient: the hub does not answer.
    """
    from huggingface_hub import HfApi

    name, revision = _name_and_revision(model)
    info = _call(model.source, HfApi().model_info, name, revision=revision, files_metadata=True)
    files = {
        file.rfilename: HubFile(file.size or 0, f"sha256:{file.lfs.sha256}" if file.lfs else f"git:{file.blob_id}")
        for file in info.siblings or ()
        if "/" not in file.rfilename
    }
    return Snapshot(name, info.sha, files)


def read(snapshot: Snapshot, name: str, start: int, length: int) -> bytes:
    from huggingface_hub import HfFileSystem

    path = f"{snapshot.name}@{snapshot.commit}/{name}"
    data: bytes = _call(f"hf://{snapshot.name}", HfFileSystem().cat_file, path, start=start, end=start + length)
    return data


def download(model: Model, into: Path, *, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    name, revision = _name_and_revision(model)
    folder = _call(
        model.source,
        snapshot_download,
        name,
        revision=revision,
        local_dir=str(into),
        allow_patterns=list(patterns),
    )
    return Path(folder)


def _name_and_revision(model: Model) -> tuple[str, str | None]:
    name, _, pinned = model.source.removeprefix("hf://").partition("@")
    return name, model.revision or pinned or None


def _call(source: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The hub's errors as ours."""
    import httpx
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return function(*args, **kwargs)
    except GatedRepoError:
        raise ConfigurationError(
            f"{source} is gated: accept its terms on the hub, and give the pod a token", field=_FIELD
        ) from None
    except RevisionNotFoundError:
        message = f"{source} has no revision {kwargs.get('revision')!r}"
        raise ConfigurationError(message, field="spec.model.revision") from None
    except RepositoryNotFoundError:
        raise ConfigurationError(
            f"{source} is not on the hub, or is private: check the name, or give the pod a token", field=_FIELD
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        raise Transient(f"{source} cannot be downloaded: {error}", reason="DownloadFailed") from error
