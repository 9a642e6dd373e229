"""What is known of a training before its model is loaded."""

from dataclasses import dataclass
from pathlib import Path

from finetune_contract.jobspec import JobFile
from finetune_trainer.artifacts import manifests
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model import attention, pins, source
from finetune_trainer.model.architecture import load_config
from finetune_trainer.model.gguf_parsing import parsed_once
from finetune_trainer.model.pins import RunInputs
from finetune_trainer.model.places import place_of
from finetune_trainer.model.source import ModelFiles
from finetune_trainer.objectives.objective import Objective
from finetune_trainer.objectives.registry import objective_for
from finetune_trainer.prepare import store
from finetune_trainer.rank.device import Device, Process, detect
from finetune_trainer.rank.per_node import once_per_node
from finetune_trainer.rank.reporting import Report, discard, from_rank_zero
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
    files: ModelFiles
    """The model on this node's disk."""
    inputs: RunInputs | None
    """What the run began with; None for one that was begun by an older version."""

    @property
    def output(self) -> Path:
        """Where the Trainer writes its checkpoints."""
        return self.scratch / "training"


def set_up(job: JobFile, storage: Storage, scratch: Path) -> Setup:
    """Detects the device, fetches prepared rows and model, resolves what the job leaves open, and reports it.

    Raises:
        ConfigurationError: the stage, the model, or what this device cannot do.
        Transient: storage or network.
    """
    process = Process.from_environment()
    report = from_rank_zero(process.rank)
    objective = objective_for(job.spec.stage)
    device = detect(job.world, process)
    prepared = _fetch_prepared(job, storage, scratch)
    longest = int(prepared.train.lengths.max())
    Schedule.of(job.spec.training, steps=1).check()
    inputs = pins.read(storage, job)

    def fetch_model() -> Path:
        return _fetch_model(job, storage, scratch, inputs, report)

    files = source.local(job.spec.model, once_per_node(scratch, "model", fetch_model))
    with parsed_once(files):
        config = load_config(files, job.spec.model.source)
    settings = resolve(
        job, device, rows=len(prepared.train), longest_row=longest, model_has_sdpa=attention.has_sdpa(config)
    )
    for line in describe(job, settings, device):
        report(line)
    return Setup(job, storage, scratch, process, device, objective, prepared, settings, report, files, inputs)


def _fetch_model(job: JobFile, storage: Storage, scratch: Path, inputs: RunInputs | None, report: Report) -> Path:
    """The model that the run began with: at its commit where it comes from the hub, else compared by digests."""
    model, into = job.spec.model, scratch / "model"
    if inputs is None:
        report("this run was begun by a version that did not record its base model: it is not compared")
        files = source.fetch(model, storage, into)
    elif inputs.base.commit:
        files = source.fetch(model.model_copy(update={"revision": inputs.base.commit}), storage, into)
    else:
        pins.check(inputs.base, place_of(model, storage), report)
        files = source.fetch(model, storage, into)
        if model.source.startswith("s3://"):  # or did it change while it was downloaded?
            pins.check(inputs.base, place_of(model, storage), discard)
    return files.folder / files.gguf if files.gguf else files.folder


def _fetch_prepared(job: JobFile, storage: Storage, scratch: Path) -> store.PreparedRows:
    if job.prepared is None:
        raise ConfigurationError("the job file names no prepared rows", field="prepared", reason="NotPrepared")
    uri, folder = job.prepared.uri, scratch / "prepared-rows"

    def fetch() -> Path:
        manifests.fetch(storage, uri, folder)
        return folder

    return store.read(once_per_node(scratch, "prepared-rows", fetch))
