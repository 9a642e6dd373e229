"""Configures the libraries before any of them is imported: most read their environment only then."""

import logging
import os
import sys
import warnings

from finetune_contract.jobspec import JobFile

_QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",  # a progress bar is not a log line
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",  # whatever a library asks for: no file may run code when it is loaded
}
_ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def set_up(model_source: str) -> None:
    """Quiet, and off the network unless the model comes from the hub."""
    _default(_QUIET)
    if not model_source.startswith("hf://"):
        os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"})
    # It warns about a kernel that it would download, and logs each cast of each layer of each step.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # peft uses the deprecated name at each start.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


def set_up_training(job: JobFile) -> None:
    """As `set_up`; DeepSpeed also gets its device, and the process group that it requires even for one process."""
    set_up(job.spec.model.source)
    _default({"PYTORCH_ALLOC_CONF": "expandable_segments:True"})
    if job.world.gpus_per_node == 0 or job.world.allow_cpu_for_gpu:
        _default({"DS_ACCELERATOR": "cpu", "DS_BUILD_OPS": "0"})
    if job.spec.training.deepspeed and job.world.size == 1:
        _default(_ALONE)


def leave_out_unused(job: JobFile) -> None:
    """For a process of this one job: accelerate imports DeepSpeed in every training where it is installed, which takes
    seconds and memory that only ZeRO needs."""
    if job.spec.training.deepspeed is None:
        sys.modules.setdefault("deepspeed", None)  # type: ignore[arg-type]  # makes Python report it as not installed


def _default(variables: dict[str, str]) -> None:
    for name, value in variables.items():
        os.environ.setdefault(name, value)
