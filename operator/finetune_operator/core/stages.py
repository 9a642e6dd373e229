"""The stages of a job in their order: what each creates, what its ends mean, and what its record brings into status.

Policies look a stage up and spell none out. Another stage is one entry of `STAGES`, and two fields of `Status`: the
number of its attempt, and the block that its result fills.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from finetune_contract import names
from finetune_contract.exitcodes import ExitCode
from finetune_contract.termination import ArtifactResult, EvaluationResult, PreparedResult, TerminationRecord
from finetune_operator.core.conditions import ConditionType, Reason
from finetune_operator.core.objects import Raw
from finetune_operator.core.spec import Spec
from finetune_operator.core.status import Status


class EndKind(Enum):
    SUCCEEDED = "succeeded"
    FINAL = "final"
    """No further attempt of this run can end differently."""
    COUNTED = "counted"
    """Worth another try, at the expense of spec.retries."""
    UNCOUNTED = "uncounted"
    """Nobody's fault: the next attempt resumes from the last checkpoint."""
    UNREADABLE = "unreadable"
    """The trainer image does not know the job file: the next attempt waits for another image."""


EXITS: Mapping[ExitCode, EndKind] = {
    ExitCode.SUCCEEDED: EndKind.SUCCEEDED,
    ExitCode.INVALID_CONFIGURATION: EndKind.FINAL,
    ExitCode.INVALID_DATA: EndKind.FINAL,
    ExitCode.NO_VALID_CHECKPOINT: EndKind.FINAL,
    ExitCode.ACCELERATOR_OUT_OF_MEMORY: EndKind.FINAL,
    ExitCode.DIVERGED: EndKind.FINAL,
    ExitCode.TRANSIENT: EndKind.COUNTED,
    ExitCode.STOPPED_AFTER_SAVE: EndKind.UNCOUNTED,
}
"""What follows from each code of the contract: the one place that says what is final. A stage that sees a code
differently says so in its own table. A transient end does not count when the trainer was told to stop and could not
save in time (`classify`)."""


@dataclass(frozen=True)
class Shape:
    """Of the child and its pods."""

    is_gang: bool
    """An Indexed Job with a pod on each planned node, which meet behind a Service; otherwise one pod."""
    needs_class: bool
    """The pods go to nodes of the GPU class and get its devices; otherwise they run anywhere on the CPU."""


class Activity(NamedTuple):
    """What the summary says of a stage."""

    phase: str
    reason: Reason
    message: str
    """May name {number} of the attempt and {nodes}."""


class Result(NamedTuple):
    """What a successful end brings."""

    status: Mapping[str, Any]
    """Changes of fields of `Status`."""
    message: str


def requests_of_spec(spec: Spec) -> Mapping[str, str]:
    """CPU and memory of each pod, as spec.resources has them."""
    return {"cpu": spec.resources.cpu, "memory": spec.resources.memory}


@dataclass(frozen=True)
class Stage:
    role: str
    """On labels, as the trainer's argument, and in status.history."""
    work: str
    """In messages: `Attempt 2 of …`."""
    child_name: Callable[[str, int, int], str]
    """From job, run and number to the name of the Job."""
    number: str
    """Field of `Status` with the number of its attempt."""
    block: str
    """Field of `Status` that its result fills: with it the stage is done."""
    result: Callable[[TerminationRecord], Result | None]
    """None for a record without a result of this stage."""
    passed: str
    """Reason of its condition and of the event when it is done and another stage follows."""
    pending: Activity
    """While its pods are awaited."""
    active: Activity
    """While they are at work. The same as `pending` where the difference does not matter."""
    shape: Shape
    requests: Callable[[Spec], Mapping[str, str]] = requests_of_spec
    condition: ConditionType | None = None
    """Of its own: True when it is done, False when it fails for good. The summary needs none."""
    exits: Mapping[ExitCode, EndKind] | None = None
    """What the codes of its pods mean; `EXITS` when None."""
    has_checkpoints: bool = False
    """An attempt resumes from the newest checkpoint, and its record tells of it even after its end."""
    has_own_retries: bool = False
    """spec.retries holds for it alone: failures of earlier stages are not at its expense."""
    is_wanted: Callable[[Raw], bool] = lambda spec: True
    """Says of a spec, as it is stored, whether the job has this stage."""

    def is_done(self, status: Status) -> bool:
        return bool(getattr(status, self.block))

    def number_in(self, status: Status) -> int:
        """Of its current attempt; 0 before the first."""
        return int(getattr(status, self.number))

    def means(self, code: ExitCode | None) -> EndKind:
        """None is a code that the contract does not know."""
        exits = EXITS if self.exits is None else self.exits
        return EndKind.COUNTED if code is None else exits.get(code, EndKind.COUNTED)


def current_stage(stages: Sequence[Stage], status: Status) -> Stage:
    """The first that is not done, the last when all are."""
    return next((stage for stage in stages if not stage.is_done(status)), stages[-1])


# --- what records bring ----------------------------------------------------------------------------------------
def _prepared(record: TerminationRecord) -> Result | None:
    return None if record.prepared is None else Result(_prepared_blocks(record.prepared), _rows(record.prepared))


def _prepared_blocks(result: PreparedResult) -> dict[str, Any]:
    return {"prepared": result.model_dump(by_alias=True), "progress": {}}  # which was that of the preparation


def _rows(result: PreparedResult) -> str:
    return (
        f"{result.train_rows} rows to train on and {result.evaluation_rows} held out; {result.tokens} tokens, the "
        f"longest row has {result.longest_row}."
    )


def _trained(record: TerminationRecord) -> Result | None:
    artifact = record.artifact
    if artifact is None:
        return None
    blocks = {"artifact": artifact.model_dump(by_alias=True), "evaluation": _evaluation(record.evaluation)}
    return Result(blocks, _published(artifact))


def _published(artifact: ArtifactResult) -> str:
    size = f"{artifact.files} file(s), {artifact.bytes} bytes"
    return f"{size}, published and verified at {artifact.uri} ({artifact.digest})."


def _evaluation(result: EvaluationResult | None) -> dict[str, Any]:
    if result is None:
        return {}
    return {
        "rows": result.rows,
        "lossBefore": f"{result.loss_before:.4f}",
        "lossAfter": f"{result.loss_after:.4f}",
        "samples": [sample.model_dump(by_alias=True) for sample in result.samples],
    }


# --- the sequence ----------------------------------------------------------------------------------------------
_PREPARING = Activity("Preparing", Reason.PREPARING, "The data is being prepared.")

PREPARE = Stage(
    role="prepare",
    work="the preparation",
    child_name=names.prepare_name,
    number="prepare_attempt",
    block="prepared",
    result=_prepared,
    passed=Reason.PREPARED,
    pending=_PREPARING,
    active=_PREPARING,
    shape=Shape(is_gang=False, needs_class=False),
    condition=ConditionType.PREPARED,
)

TRAIN = Stage(
    role="train",
    work="training",
    child_name=names.attempt_name,
    number="attempt",
    block="artifact",
    result=_trained,
    passed="Trained",
    pending=Activity("Pending", Reason.STARTING, "The data is prepared; training starts."),
    active=Activity("Training", Reason.TRAINING, "Attempt {number} is training on {nodes} node(s)."),
    shape=Shape(is_gang=True, needs_class=True),
    has_checkpoints=True,
)

STAGES: Sequence[Stage] = (PREPARE, TRAIN)
