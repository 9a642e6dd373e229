"""Which implementations of attention a model can use."""

from typing import Any

from finetune_trainer.errors import ConfigurationError

FIELD = "spec.training.attention"


def has_sdpa(config: Any) -> bool:
    """Whether the model that this configuration describes can use PyTorch's fused attention. True for a model with code
    of its own, of which nothing is known before it runs."""
    from transformers import AutoModelForCausalLM

    mapping = AutoModelForCausalLM._model_mapping  # noqa: SLF001 - which class will be built has no public name
    if type(config) not in mapping:
        return True
    return bool(mapping[type(config)]._supports_sdpa)  # noqa: SLF001 - every architecture states it here


def check(wanted: str, config: Any) -> None:
    """Raises ConfigurationError for an implementation that the model does not have."""
    if wanted == "sdpa" and not has_sdpa(config):
        message = f"{config.model_type} cannot use sdpa; use auto or eager"
        raise ConfigurationError(message, field=FIELD)
