"""The Hugging Face hub: what a repository holds at one commit, parts of its files, all of them."""

import http
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
    """Part of a file; less where it ends."""
    from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public by its documentation

    if length <= 0:
        return b""
    url = hf_hub_url(snapshot.name, name, revision=snapshot.commit)
    headers = {**build_hf_headers(), "Range": f"bytes={start}-{start + length - 1}"}

    def get() -> bytes:
        answer = get_session().get(url, headers=headers, follow_redirects=True)
        if answer.status_code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # the file ends before `start`
            return b""
        hf_raise_for_status(answer)
        whole = answer.status_code == http.HTTPStatus.OK  # of a server that does not know ranges
        return bytes(answer.content[start : start + length] if whole else answer.content)

    data: bytes = _call(f"hf://{snapshot.name}", get)
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
