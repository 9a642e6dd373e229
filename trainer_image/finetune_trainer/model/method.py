"""Which weights are trained: LoRA on plain or quantised weights, all of them, or the last layers."""

import functools
from dataclasses import dataclass
from typing import Any

from finetune_contract.jobspec import JobFile, Lora
from finetune_trainer.model import parts, targets
from finetune_trainer.model.loading import decoder_layers
from finetune_trainer.rank.settings import Settings


@dataclass(frozen=True)
class Trainable:
    trained: int
    """Parameters that learn."""
    total: int
    """Parameters of the model, adapters included; 4-bit weights count individually, not by the bytes that hold them."""

    def __str__(self) -> str:
        return f"{self.trained:,} of {self.total:,} parameters ({100 * self.trained / self.total:.2f} %)"


def apply_method(model: Any, job: JobFile, settings: Settings) -> tuple[Any, Trainable]:
    """Marks what is trained; with LoRA the returned model is peft's wrapper around the given one."""
    method = job.spec.method
    if method.lora is not None:
        model = _with_adapters(model, method.lora, job, settings)
    elif method.freeze is not None:
        _freeze_all_but(model, method.freeze.trainable_layers)
    else:
        parts.freeze_beside_language(model)
    if settings.autocasts:
        _to_fp32(model)
    return model, count(model)


def _with_adapters(model: Any, lora: Lora, job: JobFile, settings: Settings) -> Any:
    """peft's LoRA (arXiv:2106.09685).

    Not `prepare_model_for_kbit_training`: it casts every weight that is not quantised to fp32, which costs a fifth of
    memory and speed and gains nothing. The parts of it that are needed are here: frozen base weights (LoraConfig does
    that), and inputs that carry gradients through reentrant checkpointing.
    """
    import peft

    from finetune_trainer.model.lora import fuse

    if settings.gradient_checkpointing:
        model.enable_input_require_grads()
    adapted = peft.get_peft_model(model, targets.lora_config(model, lora), autocast_adapter_dtype=False)
    _adapters_to(adapted, settings)
    # Left to itself, peft looks for the base model on the hub at every save, to see whether the vocabulary was resized
    # (it never is), and a resumed run gets its bf16 adapters back as fp32.
    adapted.save_pretrained = functools.partial(adapted.save_pretrained, save_embedding_layers=False)
    adapted.load_adapter = functools.partial(adapted.load_adapter, autocast_adapter_dtype=False)
    # Autocast does not reach into a fused layer, and ZeRO-3 gathers a layer's weights around its own forward pass.
    if not settings.autocasts and settings.zero_stage != 3:
        fuse(adapted)
    return adapted


def _adapters_to(model: Any, settings: Settings) -> None:
    """Adapters in the precision of the weights next to them: no cast in any layer. The optimizer has fp32 masters."""
    import torch

    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def _freeze_all_but(model: Any, layers: int) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for layer in decoder_layers(model)[-layers:]:
        for parameter in layer.parameters():
            parameter.requires_grad_(True)


def _to_fp32(model: Any) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def count(model: Any) -> Trainable:
    trained = total = 0
    for parameter in model.parameters():
        size = _size(parameter)
        total += size
        trained += size if parameter.requires_grad else 0
    return Trainable(trained, total)


def _size(parameter: Any) -> int:
    if hasattr(parameter, "ds_numel"):  # ZeRO-3: the parameter itself is empty between uses
        return int(parameter.ds_numel)
    if type(parameter).__name__ == "Params4bit":
        return int(parameter.numel() * parameter.element_size() * 2)
    return int(parameter.numel())
