"""Fetches the model to local disk: a folder in the transformers format, or one .gguf file.

`fetch` brings all of it (training), `fetch_without_weights` only what describes it (preparation).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_contract.jobspec import Model
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.errors import ConfigurationError, Transient

FIELD = "spec.model.source"
FIELD_CODE = "spec.model.trustRemoteCode"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".pdf")
_WANTED_FROM_HUB = ["*.json", "*.txt", "*.model", "*.jinja", "*.py", "*.tiktoken"]


@dataclass(frozen=True)
class ModelFiles:
    """A model on local disk."""

    folder: Path
    gguf: str | None
    """Name of the one .gguf file in `folder`, None for the transformers format."""
    trust_remote_code: bool

    @property
    def from_pretrained(self) -> dict[str, Any]:
        """Arguments for any `from_pretrained` of transformers."""
        arguments: dict[str, Any] = {"pretrained_model_name_or_path": str(self.folder)}
        if self.gguf:
            return {**arguments, "gguf_file": self.gguf}
        return {**arguments, "trust_remote_code": self.trust_remote_code}


def fetch(model: Model, storage: Storage, into: Path) -> ModelFiles:
    """The whole model. Downloads go to `into`; pvc:// and file:// are used in place."""
    if model.source.startswith("hf://"):
        return _checked(model, _from_hub(model, into, patterns=[*_WANTED_FROM_HUB, "*.safetensors", "*.bin"]))
    return _checked(model, storage.fetch(model.source, into, field=FIELD))


def fetch_without_weights(model: Model, storage: Storage, into: Path) -> ModelFiles:
    """Configuration, tokenizer and code. A .gguf file holds these and the weights, so all of it is fetched.

    Raises:
        ConfigurationError: the model does not exist, has no weights, or needs code that the job does not allow.
    """
    if model.source.startswith("hf://"):
        return _checked(model, _from_hub(model, into, patterns=_WANTED_FROM_HUB))
    if not model.source.startswith("s3://") or model.source.endswith(".gguf"):
        files = _checked(model, storage.fetch(model.source, into, field=FIELD))
        if files.gguf is None:
            _require_weights(model.source, [path.name for path in files.folder.iterdir()])
        return files
    objects = storage.list(model.source, field=FIELD)
    if not objects:
        raise ConfigurationError(f"{model.source} does not exist: no object has this prefix", field=FIELD)
    _require_weights(model.source, [item.path for item in objects])
    into.mkdir(parents=True, exist_ok=True)
    for item in objects:
        if not item.path.endswith(_WEIGHTS):
            (into / item.path).parent.mkdir(parents=True, exist_ok=True)
            storage.download(item.uri, into / item.path, field=FIELD)
    return _checked(model, into)


def local(model: Model, path: Path) -> ModelFiles:
    """What `fetch` brought to this node, for a process that did not fetch it itself."""
    return _checked(model, path)


def _require_weights(source: str, names: list[str]) -> None:
    if not any(name.endswith((".safetensors", ".bin")) for name in names):
        raise ConfigurationError(f"{source} has no weights (*.safetensors or *.bin)", field=FIELD)


def _checked(model: Model, path: Path) -> ModelFiles:
    if path.is_file():
        if path.suffix != ".gguf":
            raise ConfigurationError(f"{model.source} is a file; name a folder or a .gguf file", field=FIELD)
        return ModelFiles(path.parent, path.name, model.trust_remote_code)
    config_file = path / "config.json"
    if not config_file.is_file():
        raise ConfigurationError(
            f"{model.source} has no config.json, so it is not a model in the transformers format", field=FIELD
        )
    try:
        config = json.loads(config_file.read_bytes())
    except ValueError as error:
        raise ConfigurationError(f"config.json of {model.source} is broken: {error}", field=FIELD) from None
    if needs_remote_code(config) and not model.trust_remote_code:
        code = ", ".join(
            sorted({str(value).split(".")[0].split("--")[-1] + ".py" for value in config["auto_map"].values()})
        )
        message = f"{model.source} brings its own Python code ({code}); review it, then set this to true to run it"
        raise ConfigurationError(message, field=FIELD_CODE, reason="RemoteCodeNotAllowed")
    return ModelFiles(path, None, model.trust_remote_code)


def needs_remote_code(config: dict[str, Any]) -> bool:
    """True when transformers does not know the architecture, so that only the model's own code can load it."""
    from transformers import CONFIG_MAPPING

    return bool(config.get("auto_map")) and config.get("model_type") not in CONFIG_MAPPING


def _from_hub(model: Model, into: Path, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    name, _, pinned = model.source.removeprefix("hf://").partition("@")
    revision = model.revision or pinned or None
    download = _with_our_errors(model.source, snapshot_download)
    return Path(download(name, revision=revision, local_dir=str(into), allow_patterns=patterns))


def _with_our_errors(source: str, download: Callable[..., str]) -> Callable[..., str]:
    import httpx
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def call(*args: Any, **kwargs: Any) -> str:
        try:
            return download(*args, **kwargs)
        except GatedRepoError:
            raise ConfigurationError(
                f"{source} is gated: accept its terms on the hub, and give the pod a token", field=FIELD
            ) from None
        except RevisionNotFoundError:
            message = f"{source} has no revision {kwargs['revision']!r}"
            raise ConfigurationError(message, field="spec.model.revision") from None
        except RepositoryNotFoundError:
            raise ConfigurationError(
                f"{source} is not on the hub, or is private: check the name, or give the pod a token", field=FIELD
            ) from None
        except (HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
            raise Transient(f"{source} cannot be downloaded: {error}", reason="DownloadFailed") from error

    return call
