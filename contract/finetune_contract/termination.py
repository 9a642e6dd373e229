"""The termination record: why a pod ended, left as its termination message (the kubelet keeps 4096 bytes)."""

from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from finetune_contract.exitcodes import ExitCode
from finetune_contract.progress import ProgressRecord

MAX_BYTES = 4096
INVALID_JOB_FILE = "InvalidJobFile"
"""Reason, with code 2, of a trainer that does not know the job file: its image is older than the operator."""
STOPPED_WITHOUT_SAVE = "StoppedWithoutSave"
"""Reason, with code 75: stopped on request before what was done could be saved."""
_MAX_MESSAGE = 1200
_MAX_ANSWER = 240


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


class PreparedResult(_Part):
    uri: str
    digest: str
    train_rows: int
    evaluation_rows: int
    tokens: int
    supervised_tokens: int
    longest_row: int
    """Tokens."""
    parameters: int = 0
    """Of the model: the operator's memory check before a GPU is asked for."""
    reused: bool = False


class ArtifactResult(_Part):
    uri: str
    digest: str
    """`sha256:…` of the manifest."""
    bytes: int
    files: int


class SampleAnswer(_Part):
    question: str
    expected: str
    before: str
    after: str


class EvaluationResult(_Part):
    rows: int
    loss_before: float
    loss_after: float
    samples: tuple[SampleAnswer, ...] = ()


class TerminationRecord(_Part):
    version: int = 1
    role: Literal["prepare", "train"]
    exit_code: int
    reason: str
    """CamelCase, for machines: becomes the reason of a condition."""
    message: str
    """For people: names file, row or field, and the cure."""
    node_rank: int = 0
    progress: ProgressRecord | None = None
    prepared: PreparedResult | None = None
    artifact: ArtifactResult | None = None
    evaluation: EvaluationResult | None = None

    @property
    def code(self) -> ExitCode | None:
        """The contract's meaning of `exit_code`, None when it has none."""
        return ExitCode(self.exit_code) if self.exit_code in ExitCode.__members__.values() else None

    def render(self) -> bytes:
        """JSON within `MAX_BYTES`: first the sample answers are shortened, then dropped, then the message is cut."""
        slim = self.model_copy(update={"message": _cut(self.message, _MAX_MESSAGE)})
        for candidate in (slim, _with_short_samples(slim), _without_samples(slim)):
            data = _json(candidate)
            if len(data) <= MAX_BYTES:
                return data
        return _json(_without_samples(slim).model_copy(update={"message": _cut(self.message, 300), "progress": None}))

    @classmethod
    def parse(cls, text: str | None) -> "TerminationRecord | None":
        """None for anything that is not a record of ours: a container may leave any text, or none."""
        try:
            return cls.model_validate_json(text or "")
        except ValueError:
            return None


def _json(record: TerminationRecord) -> bytes:
    return record.model_dump_json(by_alias=True, exclude_none=True).encode()


def _without_samples(record: TerminationRecord) -> TerminationRecord:
    return _with_samples(record, ())


def _with_short_samples(record: TerminationRecord) -> TerminationRecord:
    samples = record.evaluation.samples[:2] if record.evaluation else ()
    return _with_samples(
        record,
        tuple(
            SampleAnswer(**{name: _cut(text, _MAX_ANSWER) for name, text in sample.model_dump().items()})
            for sample in samples
        ),
    )


def _with_samples(record: TerminationRecord, samples: tuple[SampleAnswer, ...]) -> TerminationRecord:
    if record.evaluation is None:
        return record
    return record.model_copy(update={"evaluation": record.evaluation.model_copy(update={"samples": samples})})


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
