"""Device memory: a coarse lower bound on what a job needs, and what helps when it is too much.

The bound has weights, gradients and optimizer, nothing else. It refuses what can never fit, before a GPU is asked for;
activations, logits and the CUDA context come on top.
"""

from finetune_contract.jobspec import Method, World
from finetune_operator.core.spec import Spec

_WEIGHTS = 2.0
"""Bytes per parameter in bf16 or fp16."""
_GRADIENTS = 2.0
_OPTIMIZER = 12.0
"""fp32 master weights and both moments of AdamW."""
_FREEZE = 4.0
"""Weights, and gradients with optimizer of the few trained layers."""
_QUANTISED = {4: 0.6, 8: 1.1}
"""With scales, and what stays in 16 bits (embeddings, norms, head) averaged in."""


def bytes_per_parameter(method: Method, zero_stage: int, processes: int) -> float:
    """On one device, after ZeRO has divided what its stage divides."""
    if method.type == "full":
        return _full(zero_stage, processes)
    if method.type == "qlora" and method.quantization is not None:
        # bitsandbytes' 4-bit weights are partitioned by stage 3 as others are; 8-bit is refused there by the CRD.
        return _QUANTISED[method.quantization.bits] / (processes if zero_stage == 3 else 1)
    frozen = _FREEZE if method.type == "freeze" else _WEIGHTS
    return frozen / (processes if zero_stage == 3 else 1)


def _full(zero_stage: int, processes: int) -> float:
    optimizer = _OPTIMIZER / (processes if zero_stage >= 1 else 1)
    gradients = _GRADIENTS / (processes if zero_stage >= 2 else 1)
    weights = _WEIGHTS / (processes if zero_stage >= 3 else 1)
    return weights + gradients + optimizer


def predicted_bytes(spec: Spec, world: World, parameters: int) -> float:
    stage = spec.training.deepspeed.stage if spec.training.deepspeed else 0
    return parameters * bytes_per_parameter(spec.method, stage, world.size)


# --- what the user can change, the smallest change first -----------------------------------------------------------
def cures_of_bound(spec: Spec) -> str:
    """When the lower bound is above what the device has: smaller batches would not help."""
    return ", ".join(_smaller_state(spec))


def cures_of_running_out(spec: Spec | None) -> str:
    """When the memory was used up in training: smaller batches first. None: a spec that this operator cannot read."""
    training = spec.training if spec else None
    options = []
    if training is None or training.per_device_batch_size > 1:
        options.append("a lower training.perDeviceBatchSize with gradientAccumulationSteps raised by as much")
    if training is None or not training.gradient_checkpointing:
        options.append("training.gradientCheckpointing true")
    options.append("a lower training.maxLength")
    return ", ".join(options + (_smaller_state(spec) if spec else []))


def _smaller_state(spec: Spec) -> list[str]:
    stage = spec.training.deepspeed.stage if spec.training.deepspeed else 0
    steps = {
        "full": "method.type lora or qlora",
        "freeze": "method.type lora or qlora",
        "lora": "method.type qlora with quantization.bits 4",
        "qlora": "quantization.bits 4" if spec.method.quantization and spec.method.quantization.bits == 8 else "",
    }
    options = [steps[spec.method.type], "training.deepspeed.stage 3 on more devices" if stage < 3 else ""]
    options += ["a GPU class with more memory in resources.gpuClass", "a smaller model"]
    return [option for option in options if option]
