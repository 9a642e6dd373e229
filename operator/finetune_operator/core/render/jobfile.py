"""The job file of one attempt, field by field: what is not named here, the trainer never sees."""

from typing import TypeVar

from finetune_contract import names
from finetune_contract.jobspec import (
    Checkpoint,
    Dataset,
    Evaluation,
    Identity,
    JobFile,
    Method,
    Model,
    Output,
    Part,
    Prepared,
    Storage,
    Training,
)
from finetune_contract.jobspec import Spec as TrainedSpec
from finetune_operator.core.render.child import Child
from finetune_operator.core.spec import Spec

ANNOTATION_JOB_FILE = f"{names.GROUP}/job-file"
"""On the pod template: the job file, mounted from here by a downwardAPI volume."""

Block = TypeVar("Block", bound=Part)


def render_job_file(child: Child) -> str:
    """The text that the trainer reads at `names.JOB_FILE`."""
    return JobFile(
        identity=Identity(
            namespace=child.job.namespace,
            name=child.job.name,
            uid=child.job.uid,
            run=child.run,
            config_hash=child.config_hash,
            image=child.options.trainer_image,
        ),
        attempt=child.attempt,
        spec=trained_spec(child.job.spec),
        world=child.world,
        prepared=Prepared(uri=child.prepared["uri"], digest=child.prepared["digest"]) if child.prepared else None,
    ).render()


def trained_spec(spec: Spec) -> TrainedSpec:
    """Without what only the operator reads."""
    return TrainedSpec(
        model=_as(Model, spec.model),
        dataset=_as(Dataset, spec.dataset),
        method=_as(Method, spec.method),
        stage=spec.stage,
        training=_as(Training, spec.training),
        output=_as(Output, spec.output),
        checkpoint=_as(Checkpoint, spec.checkpoint),
        evaluation=_as(Evaluation, spec.evaluation),
        storage=_as(Storage, spec.storage),
    )


def _as(block: type[Block], value: Block) -> Block:
    """With the fields of the contract's class alone: the operator's own may be a subclass that has more."""
    return block(**{name: getattr(value, name) for name in block.model_fields})
