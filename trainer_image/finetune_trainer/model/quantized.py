"""Models whose files are quantised already: which of them can be trained, and how they are loaded.

bitsandbytes: LoRA on the packed weights. fp8 and mxfp4: unpacked to the precision of the training, on every device
alike. The others when the packages that they need are in the image.
"""

from collections.abc import Mapping
from typing import Any

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model.places import FIELD

_FIELD_METHOD = "spec.method.type"
_UNPACKED = ("fp8", "mxfp4")
_CURE = "Use the model's unquantised version, with qlora where memory is short"


def method_of(config: Any) -> str | None:
    """`gptq`, `fp8`, …: as the configuration names it; None for plain weights."""
    found = _described(config)
    if found is None:
        return None
    if "quant_method" in found:
        named = found["quant_method"]
        return str(getattr(named, "value", named))
    return "bitsandbytes" if found.get("load_in_4bit") or found.get("load_in_8bit") else "unnamed"


def is_unpacked(config: Any) -> bool:
    return method_of(config) in _UNPACKED


def check(config: Any, method: str, source: str) -> None:
    """Raises ConfigurationError for weights that this image cannot read, or that the method cannot train.

    Args:
        method: of `spec.method.type`.
    """
    kind = method_of(config)
    if kind is None:
        return
    if kind not in _UNPACKED:
        if method in {"full", "freeze"}:
            message = f"{method} needs weights that are not quantised; use lora, or the model's unquantised version"
            raise ConfigurationError(message, field=_FIELD_METHOD)
        _check_quantizer(config, kind, source)
    if method == "qlora" and kind != "bitsandbytes":
        message = (
            f"qlora quantises the weights itself, and those of {source} are quantised by {kind} already. "
            "Use lora, or the model's unquantised version"
        )
        raise ConfigurationError(message, field=_FIELD_METHOD)


def load_arguments(config: Any) -> dict[str, Any]:
    """For `from_pretrained`."""
    from transformers import FineGrainedFP8Config, Mxfp4Config

    if not is_unpacked(config):
        return {}
    kinds = {"fp8": FineGrainedFP8Config, "mxfp4": Mxfp4Config}
    return {"quantization_config": kinds[str(method_of(config))](dequantize=True)}


def _described(config: Any) -> Mapping[str, Any] | None:
    found = getattr(config, "quantization_config", None)
    if found is None:
        found = getattr(config.get_text_config(decoder=True), "quantization_config", None)
    if found is None or isinstance(found, Mapping):
        return found or None
    described: Mapping[str, Any] = found.to_dict()
    return described


def _check_quantizer(config: Any, kind: str, source: str) -> None:
    """By transformers' own check. What it says about a missing GPU is no matter here: training will have one."""
    from transformers.quantizers import AutoHfQuantizer

    described = dict(_described(config) or {})
    if kind not in _known_methods():
        message = f"the weights of {source} are quantised by {kind!r}, which this image cannot read. {_CURE}"
        raise ConfigurationError(message, field=FIELD, reason="QuantizationNotSupported")
    try:
        quantizer = AutoHfQuantizer.from_config(described, pre_quantized=True)
        quantizer.validate_environment(device_map=None, weights_only=True)
        trains = bool(quantizer.is_trainable)
    except ImportError as error:
        lines = str(error).split("\n")
        message = (
            f"the weights of {source} are quantised by {kind}, which needs a package that is not in this image: "
            f"{lines[0]}. {_CURE}"
        )
        raise ConfigurationError(message, field=FIELD, reason="QuantizationNotSupported") from error
    except RuntimeError:  # no GPU here
        return
    except Exception as error:  # a stranger's settings of the quantisation
        message = f"the quantization_config of {source} cannot be used ({kind}): {error}. {_CURE}"
        raise ConfigurationError(message, field=FIELD, reason="QuantizationNotSupported") from error
    if not trains:
        message = f"the weights of {source} are quantised by {kind}, which cannot be trained on. {_CURE}"
        raise ConfigurationError(message, field=FIELD, reason="QuantizationNotSupported")


def _known_methods() -> set[str]:
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    return {*AUTO_QUANTIZER_MAPPING, "bitsandbytes"}
