"""What was set, by the names that peft, bitsandbytes and transformers have for it: as they were given it."""

from typing import Any

from finetune_trainer.artifacts import units
from finetune_trainer.training.setup import Setup

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def describe(setup: Setup, trainer: Any) -> dict[str, str]:
    """Name and value of each, in the order of a reader's questions."""
    return {**_method(setup, trainer.model), **_training(setup, trainer.args)}


def _method(setup: Setup, model: Any) -> dict[str, str]:
    method = setup.job.spec.method
    found: dict[str, str] = {"method": method.type}
    if method.lora is not None:
        config = model.peft_config["default"]
        found |= {
            "r": str(config.r),
            "lora_alpha": str(config.lora_alpha),
            "lora_dropout": units.number(config.lora_dropout),
            "target_modules": ", ".join(method.lora.targets),
        }
    if method.quantization is not None:
        bits = method.quantization.bits
        found[f"load_in_{bits}bit"] = "True"
        if bits == 4:
            found |= {
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": str(method.quantization.double_quant),
                "bnb_4bit_compute_dtype": _DTYPES[setup.settings.precision],
            }
    if method.freeze is not None:
        found["trainable layers"] = f"the last {method.freeze.trainable_layers}"
    return found


def _training(setup: Setup, arguments: Any) -> dict[str, str]:
    training, settings = setup.job.spec.training, setup.settings
    processes = setup.process.world_size
    total = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * processes
    found = {
        "learning_rate": units.number(arguments.learning_rate),
        "lr_scheduler_type": str(getattr(arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type)),
        "warmup_ratio": units.number(training.warmup_ratio),
        "num_train_epochs": units.number(training.epochs),
        "max_steps": str(arguments.max_steps),
        "per_device_train_batch_size": str(arguments.per_device_train_batch_size),
        "gradient_accumulation_steps": str(arguments.gradient_accumulation_steps),
        "num_devices": str(processes),
        "total_train_batch_size": str(total),
        "optim": str(getattr(arguments.optim, "value", arguments.optim)),
        "weight_decay": units.number(arguments.weight_decay),
        "max_grad_norm": units.number(arguments.max_grad_norm),
        "seed": str(arguments.seed),
        "dtype": _DTYPES[settings.precision],
        "attn_implementation": settings.attention,
        "gradient_checkpointing": str(settings.gradient_checkpointing),
        "torch_compile": str(settings.compile),
        "max_length": str(training.max_length),
        "train_on_prompt": str(setup.job.spec.dataset.train_on_prompt),
        "mask_history": str(setup.job.spec.dataset.mask_history),
    }
    if settings.zero_stage is not None:
        found["deepspeed zero_optimization.stage"] = str(settings.zero_stage)
    return found
