"""Fetches the model to local disk: a folder in the transformers format, or one .gguf file.

`fetch` brings all of it (training), `fetch_without_weights` only what describes it (preparation).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_contract.jobspec import Model
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model import headers, hub
from finetune_trainer.model.places import FIELD, BucketPlace, FolderPlace, HubPlace, Place

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
        patterns = [*_WANTED_FROM_HUB, "*.safetensors", "*.bin"]
        return _checked(model, hub.download(model, into, patterns=patterns))
    return _checked(model, storage.fetch(model.source, into, field=FIELD))


def fetch_without_weights(model: Model, place: Place, storage: Storage, into: Path) -> ModelFiles:
    """Configuration, tokenizer and code. A .gguf file holds these and the weights, so all of it is fetched.

    Raises:
        ConfigurationError: the model does not exist, or needs code that the job does not allow.
    """
    if isinstance(place, HubPlace):
        at_commit = model.model_copy(update={"revision": place.snapshot.commit})
        return _checked(model, hub.download(at_commit, into, patterns=_WANTED_FROM_HUB))
    if isinstance(place, FolderPlace):
        return _checked(model, place.path)
    assert isinstance(place, BucketPlace)
    if not place.objects:
        raise ConfigurationError(f"{model.source} does not exist: no object has this prefix", field=FIELD)
    if model.source.endswith(".gguf"):
        return _checked(model, storage.fetch(model.source, into, field=FIELD))
    into.mkdir(parents=True, exist_ok=True)
    for name, item in place.objects.items():
        if not name.endswith(_WEIGHTS):
            storage.download(item.uri, into / name, field=FIELD)
    return _checked(model, into)


def local(model: Model, path: Path) -> ModelFiles:
    """What `fetch` brought to this node, for a process that did not fetch it itself."""
    return _checked(model, path)


def _checked(model: Model, path: Path) -> ModelFiles:
    if path.is_file():
        if path.suffix != ".gguf":
            raise ConfigurationError(f"{model.source} is a file; name a folder or a .gguf file", field=FIELD)
        return ModelFiles(path.parent, path.name, model.trust_remote_code)
    config = _config(model, path)
    if needs_remote_code(config) and not model.trust_remote_code:
        code = ", ".join(
            sorted({str(value).split(".")[0].split("--")[-1] + ".py" for value in config["auto_map"].values()})
        )
        message = f"{model.source} brings its own Python code ({code}); review it, then set this to true to run it"
        raise ConfigurationError(message, field=FIELD_CODE, reason="RemoteCodeNotAllowed")
    return ModelFiles(path, None, model.trust_remote_code)


def _config(model: Model, folder: Path) -> Mapping[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        message = f"{model.source} has no config.json, so it is not a model in the transformers format"
        if (folder / headers.ADAPTER).is_file():
            message = f"{model.source} is an adapter ({headers.ADAPTER}), not a model. {headers.MERGE_ADAPTER}"
        raise ConfigurationError(message, field=FIELD, reason="NotAModel")
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"config.json of {model.source} is broken: {error}", field=FIELD) from None
    if not isinstance(config, dict):
        raise ConfigurationError(f"config.json of {model.source} is broken: it is no JSON object", field=FIELD)
    return config


def needs_remote_code(config: Mapping[str, Any]) -> bool:
    """True when transformers does not know the architecture, so that only the model's own code can load it."""
    from transformers import CONFIG_MAPPING

    return isinstance(config.get("auto_map"), dict) and config.get("model_type") not in CONFIG_MAPPING
