"""What the libraries are told before any of them is imported: most of them read their environment only then."""

import logging
import os
import sys
import warnings

from finetune_contract.jobspec import JobFile

_QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",  # a bar is no line of a log
    "TOKENIZERS_PARALLELISM": "false",
}
_ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def set_up(model_source: str) -> None:
    """Quiet, and off the network unless the model comes from the hub."""
    _default(_QUIET)
    if not model_source.startswith("hf://"):
        os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"})
    # A kernel that it would download, and a line for each cast of each layer of each step.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # peft asks for it by its old name at each start.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


def set_up_training(job: JobFile) -> None:
    """As `set_up`; DeepSpeed is told its device, and gets the process group that it wants even for one process."""
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
        sys.modules.setdefault("deepspeed", None)  # type: ignore[arg-type]  # Python's own way to say: not here


def _default(variables: dict[str, str]) -> None:
    for name, value in variables.items():
        os.environ.setdefault(name, value)
