"""What this process computes on, and what it can do: the only place that asks."""

import os
import resource
import sys
from dataclasses import dataclass
from typing import Literal

from finetune_contract.jobspec import World
from finetune_trainer.errors import ConfigurationError


@dataclass(frozen=True)
class Device:
    kind: Literal["cpu", "cuda"]
    name: str
    computes_bf16: bool
    """In hardware: Ampere and newer, CPUs with AVX512-BF16 or AMX."""

    @property
    def is_gpu(self) -> bool:
        return self.kind == "cuda"


@dataclass(frozen=True)
class Process:
    """This process among all those of the training, as the supervisor started it (torch's env:// variables)."""

    rank: int
    local_rank: int
    world_size: int

    @classmethod
    def from_environment(cls) -> "Process":
        read = os.environ.get
        return cls(int(read("RANK", "0")), int(read("LOCAL_RANK", "0")), int(read("WORLD_SIZE", "1")))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def is_first_of_node(self) -> bool:
        return self.local_rank == 0


def detect(world: World, process: Process) -> Device:
    """The device of this process.

    Raises:
        ConfigurationError: GPUs are requested and none is visible. Training on the CPU instead would cost the price of
            a GPU for days.
    """
    import torch

    if torch.cuda.is_available() and world.gpus_per_node > 0:
        properties = torch.cuda.get_device_properties(process.local_rank)
        return Device("cuda", properties.name, computes_bf16=properties.major >= 8)
    if world.gpus_per_node > 0 and not world.allow_cpu_for_gpu:
        message = f"GPUs per node: {world.gpus_per_node} requested, none visible in the pod"
        cure = "check the node's driver and device plugin, or use the class cpu"
        raise ConfigurationError(f"{message}; {cure}", field="spec.resources.gpuClass", reason="AcceleratorMissing")
    return cpu()


def cpu() -> Device:
    """This machine's CPU."""
    import torch

    features = torch.cpu.get_capabilities()
    bf16 = bool(features.get("avx512_bf16") or features.get("amx_bf16"))
    return Device("cpu", str(features.get("cpu_name", "CPU")), computes_bf16=bf16)


def peak_memory_bytes() -> int:
    """Of the GPU where one is used, else of this process (resident set)."""
    import torch

    allocated = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    unit = 1 if sys.platform == "darwin" else 1024
    return int(allocated) or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
