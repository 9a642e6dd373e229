"""A job as transformers' TrainingArguments and DeepSpeed's configuration: translation, no decisions."""

from pathlib import Path
from typing import Any

from finetune_contract.jobspec import JobFile
from finetune_trainer.rank.device import Device
from finetune_trainer.rank.settings import Settings

RENDEZVOUS_TIMEOUT_SECONDS = 7_200
"""How long a rank waits for the others: one of them may be downloading a large model."""


def training_arguments(job: JobFile, settings: Settings, device: Device, output_dir: Path) -> Any:
    """TrainingArguments. Creating them starts torch.distributed, and tells from_pretrained about ZeRO-3.

    Without DeepSpeed, bf16 is not left to the Trainer: weights and adapters are bf16 themselves, without autocast's
    casts in each layer, and the optimizer keeps fp32 masters (optimizer.py).
    """
    from transformers import TrainingArguments

    training = job.spec.training
    with_deepspeed = settings.zero_stage is not None
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        max_steps=settings.total_steps,
        per_device_train_batch_size=training.per_device_batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        optim="adamw_torch_fused" if not with_deepspeed else "adamw_torch",
        bf16=with_deepspeed and settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        activation_checkpointing=settings.gradient_checkpointing,
        # ZeRO-3 gathers weights again in the second forward pass, which the non-reentrant variant does not allow.
        activation_checkpointing_kwargs={"use_reentrant": settings.zero_stage == 3},
        logging_strategy="steps",
        logging_steps=training.logging_steps,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        disable_tqdm=True,
        report_to="none",
        save_strategy="steps",
        save_steps=job.spec.checkpoint.every_steps,
        eval_strategy="no",
        seed=training.seed,
        data_seed=training.seed,
        use_cpu=not device.is_gpu,
        ddp_backend=("nccl" if device.is_gpu else "gloo") if job.world.size > 1 else None,
        ddp_timeout=RENDEZVOUS_TIMEOUT_SECONDS,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=device.is_gpu,
        remove_unused_columns=False,
        average_tokens_across_devices=True,
        deepspeed=deepspeed_config(settings) if with_deepspeed else None,
    )
    if with_deepspeed:
        _start_deepspeed(device)
    return arguments


def _start_deepspeed(device: Device) -> None:
    """Tells DeepSpeed about the process group. ZeRO-3 asks it for the number of ranks when the model is loaded."""
    import deepspeed

    if not device.is_gpu:
        # Its shared-memory collectives are compiled at first use, half a minute in each new pod; gloo needs no
        # compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if device.is_gpu else "gloo", auto_mpi_discovery=False)


def deepspeed_config(settings: Settings) -> dict[str, Any]:
    """DeepSpeed's JSON configuration; `auto` is filled in by transformers from TrainingArguments.

    The optimizer is torch's AdamW, which DeepSpeed partitions: its own CPU Adam takes minutes to compile at first use.
    """
    zero: dict[str, Any] = {"stage": settings.zero_stage, "contiguous_gradients": True, "overlap_comm": False}
    if settings.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }
