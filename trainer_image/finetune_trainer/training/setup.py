"""What is known of a training before its model is loaded."""

from dataclasses import dataclass
from pathlib import Path

from finetune_contract.jobspec import JobFile
from finetune_trainer.artifacts import manifests
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.objectives.objective import Objective
from finetune_trainer.objectives.registry import objective_for
from finetune_trainer.prepare import store
from finetune_trainer.rank.device import Device, Process, detect
from finetune_trainer.rank.per_node import once_per_node
from finetune_trainer.rank.reporting import Report, from_rank_zero
from finetune_trainer.rank.schedule import Schedule
from finetune_trainer.rank.settings import Settings, describe, resolve


@dataclass(frozen=True)
class Setup:
    job: JobFile
    storage: Storage
    scratch: Path
    """The folder that the ranks of a node share."""
    process: Process
    device: Device
    objective: Objective
    prepared: store.PreparedRows
    settings: Settings
    report: Report

    @property
    def output(self) -> Path:
        """Where the Trainer writes its checkpoints."""
        return self.scratch / "training"


def set_up(job: JobFile, storage: Storage, scratch: Path) -> Setup:
    """Detects the device, fetches the prepared rows, resolves what the job leaves open, and reports it.

    Raises:
        ConfigurationError: the stage, or what this device cannot do.
        Transient: storage or network.
    """
    process = Process.from_environment()
    report = from_rank_zero(process.rank)
    objective = objective_for(job.spec.stage)
    device = detect(job.world, process)
    prepared = _fetch_prepared(job, storage, scratch)
    longest = int(prepared.train.lengths.max())
    Schedule.of(job.spec.training, steps=1).check()
    settings = resolve(job, device, rows=len(prepared.train), longest_row=longest)
    for line in describe(job, settings, device):
        report(line)
    return Setup(job, storage, scratch, process, device, objective, prepared, settings, report)


def _fetch_prepared(job: JobFile, storage: Storage, scratch: Path) -> store.PreparedRows:
    if job.prepared is None:
        raise ConfigurationError("the job file names no prepared rows", field="prepared", reason="NotPrepared")
    uri, folder = job.prepared.uri, scratch / "prepared-rows"

    def fetch() -> Path:
        manifests.fetch(storage, uri, folder)
        return folder

    return store.read(once_per_node(scratch, "prepared-rows", fetch))
