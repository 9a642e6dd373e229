"""What kind of model a configuration describes, and the model itself on the meta device: modules and shapes without
memory. Only causal language models are trained; for the others the message says what they are."""

import json
from collections.abc import Mapping
from typing import Any

from finetune_trainer.causes.foreseeing import raise_fault_of_pod
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model.places import FIELD
from finetune_trainer.model.source import ModelFiles

_REASON = "ModelNotSupported"
_OTHER_TASKS = {
    "ForSequenceClassification": "a classifier or reward model",
    "ForTokenClassification": "a token classifier",
    "ForQuestionAnswering": "a model that marks answers in a text",
    "ForMultipleChoice": "a classifier",
    "ForMaskedLM": "an encoder, which fills in masked tokens",
    "ForTextEncoding": "a text encoder",
}
_OF_SENTENCE_TRANSFORMERS = ("modules.json", "config_sentence_transformers.json")


def load_causal_config(files: ModelFiles, source: str) -> Any:
    """The configuration of a causal language model. Raises ConfigurationError for any other, and says what it is."""
    if files.gguf is None:
        _check_kind(files, source)
    config = load_config(files, source)
    _check_causal(type(config), config.model_type, config.to_dict(), source)
    return config


def load_config(files: ModelFiles, source: str) -> Any:
    """Of whatever model this is. Raises ConfigurationError when it cannot be read."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(**files.from_pretrained)
    except Exception as error:  # whatever a stranger's config.json can make of transformers
        raise_fault_of_pod(error)
        raise ConfigurationError(
            f"the configuration of {source} cannot be read: {_said(error)}", field=FIELD, reason=_REASON
        ) from error


def build_on_meta_device(config: Any, source: str, *, trust_remote_code: bool) -> Any:
    """The model without memory. Raises ConfigurationError when the configuration does not make one."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # as above: sizes that do not fit, values of the wrong type, packages that are missing
        raise_fault_of_pod(error)
        message = f"{source} cannot be loaded as a causal language model: {_said(error)}"
        raise ConfigurationError(message, field=FIELD, reason=_REASON) from error


def _check_kind(files: ModelFiles, source: str) -> None:
    """By what the folder says of itself, before any of its values is used."""
    from transformers import CONFIG_MAPPING, __version__

    config: Mapping[str, Any] = json.loads((files.folder / "config.json").read_bytes())
    if any((files.folder / name).is_file() for name in _OF_SENTENCE_TRANSFORMERS):
        _refuse(source, "is an embedding model (sentence-transformers), which writes no text")
    declared = config.get("architectures")
    for name in declared if isinstance(declared, list) else []:
        for ending, task in _OTHER_TASKS.items():
            if str(name).endswith(ending):
                _refuse(source, f"is {task} ({name}), not a language model that writes text")
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        message = f"config.json of {source} names no model_type: take the config.json that belongs to the model"
        raise ConfigurationError(message, field=FIELD, reason=_REASON)
    if kind in CONFIG_MAPPING:
        _check_causal(CONFIG_MAPPING[kind], kind, config, source)
    elif not isinstance(config.get("auto_map"), dict):
        message = (
            f"config.json of {source} has the model_type {kind!r}, which transformers {__version__} does not know, and "
            "brings no code of its own. Check the spelling, or use a trainer image with a newer transformers"
        )
        raise ConfigurationError(message, field=FIELD, reason=_REASON)


def _check_causal(kind: type, name: str, values: Mapping[str, Any], source: str) -> None:
    """By what transformers has for this kind of configuration."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    )

    if values.get("is_encoder_decoder") or (
        kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_CAUSAL_LM_MAPPING
    ):
        _refuse(source, f"is an encoder-decoder model ({name})")
    if kind in MODEL_FOR_MASKED_LM_MAPPING and not values.get("is_decoder"):
        _refuse(source, f"is an encoder ({name}), which writes no text")
    has_own_code = "AutoModelForCausalLM" in (values.get("auto_map") or {})
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING and not has_own_code:
        _refuse(source, f"is a model of type {name}, for which transformers has no causal language model")


def _refuse(source: str, what: str) -> None:
    message = f"{source} {what}. Name a causal language model, such as those of the Llama, Qwen or Gemma families"
    raise ConfigurationError(message, field=FIELD, reason=_REASON)


def _said(error: Exception) -> str:
    """Its first two lines: the first often ends with a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
