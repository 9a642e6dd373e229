"""The job file: what the operator mounts as `job.json` and the trainer reads, and nothing else.

The operator renders it from its own view of FineTuneJob.spec (`finetune_operator.core.spec`), which reuses the blocks
below that both sides know by the same names. Defaults are filled in before: by the API server, and by the operator for
fields that came after 0.1.0. Keys that this version does not know are refused: a setting that does nothing is an error.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

CONTRACT_VERSION: Literal[2] = 2
"""Of the job file. A writer uses the newest, a reader takes every version that was ever released."""


class Part(BaseModel):
    """Of the job file or of FineTuneJob.spec: frozen, camelCase in JSON, unknown keys refused."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid", protected_namespaces=()
    )


def _number_from_yaml_1_1(value: object) -> object:
    """PyYAML reads `2e-4` as a string, kubectl as a number: take both."""
    return float(value) if isinstance(value, str) else value


Number = Annotated[float, BeforeValidator(_number_from_yaml_1_1)]


class Model(Part):
    source: str
    """`hf://org/name`, `s3://bucket/prefix`, `pvc://claim/path` or `file:///path`; a `.gguf` suffix names one file."""
    revision: str | None = None
    trust_remote_code: bool


class DataSource(Part):
    source: str
    """`s3://bucket/key`, `pvc://claim/path` or `file:///path`; .jsonl, .json, .csv or .parquet."""


class Dataset(Part):
    train: tuple[DataSource, ...]
    evaluation: DataSource | None = None
    split_fraction: Number
    """Share of the training rows held out when `evaluation` is absent; 0 holds out none."""
    format: Literal["auto", "alpaca", "sharegpt", "messages"]
    template: str
    """`auto` is the model's own chat template."""
    max_samples: int | None = None
    train_on_prompt: bool
    mask_history: bool


class Lora(Part):
    rank: int
    alpha: int
    dropout: Number
    targets: tuple[str, ...]
    """Module names as in peft; `all-linear` alone takes every linear layer but the head."""


class Quantization(Part):
    bits: Literal[4, 8]
    double_quant: bool


class Freeze(Part):
    trainable_layers: int


class Method(Part):
    type: Literal["lora", "qlora", "full", "freeze"]
    lora: Lora | None = None
    """Exactly for lora and qlora."""
    quantization: Quantization | None = None
    """Exactly for qlora."""
    freeze: Freeze | None = None
    """Exactly for freeze."""


class Deepspeed(Part):
    stage: Literal[0, 1, 2, 3]


class Training(Part):
    epochs: Number
    max_steps: int | None = None
    """Optimizer steps; ends the run before `epochs` are over."""
    learning_rate: Number
    per_device_batch_size: int
    gradient_accumulation_steps: int
    scheduler: Literal["linear", "cosine", "constant"]
    warmup_ratio: Number
    weight_decay: Number
    max_grad_norm: Number
    precision: Literal["auto", "bf16", "fp16", "fp32"]
    max_length: int
    """Tokens; a longer row is an error, unless `truncate` is set."""
    truncate: bool
    group_by_length: bool
    gradient_checkpointing: bool
    attention: Literal["auto", "eager", "sdpa"]
    compile: bool
    seed: int
    logging_steps: int
    deepspeed: Deepspeed | None = None


class Output(Part):
    uri: str
    """`s3://bucket/prefix`"""


class Checkpoint(Part):
    every_steps: int
    keep: int


class Evaluation(Part):
    sample_answers: int
    """Held-out questions answered before and after training."""
    max_new_tokens: int


class Storage(Part):
    secret_name: str | None = None
    endpoint: str | None = None
    region: str


class Spec(Part):
    """What is trained, with what and how: the part of FineTuneJob.spec that the trainer reads."""

    model: Model
    dataset: Dataset
    method: Method
    stage: Literal["sft"]
    training: Training
    output: Output
    checkpoint: Checkpoint
    evaluation: Evaluation
    storage: Storage


class Identity(Part):
    """Which run of which object this pod works for."""

    namespace: str
    name: str
    uid: str
    run: int
    config_hash: str
    image: str


Resume = Literal["newest", "none"]


class Attempt(Part):
    """What may differ from one attempt of a run to the next; the operator decides it and records it in status."""

    number: int
    reason: str
    """Why there is this attempt: `FirstAttempt`, or the reason with which the previous one ended."""
    resume: Resume
    """`newest`: from the newest checkpoint of the run that verifies, at step 0 when there is none yet.
    `none`: at step 0, without a look for checkpoints."""
    not_older_than_step: int = Field(default=0, ge=0)
    """Of the newest checkpoint that the operator knows of; 0: none. An older one is used all the same, and the steps
    between the two are reported as lost (`ProgressRecord.lost_steps`)."""


class World(Part):
    """The processes of one attempt. Global batch = nodes × processes_per_node × per-device batch × accumulation."""

    nodes: int
    processes_per_node: int
    gpus_per_node: int
    gpu_class: str = ""
    """Name of the GPUClass, for metrics."""
    allow_cpu_for_gpu: bool = False
    """Tests only: fake GPUs have no device behind them. Otherwise a missing GPU is an error."""

    @property
    def size(self) -> int:
        return self.nodes * self.processes_per_node


class Prepared(Part):
    """Where the preparation of this run left its rows."""

    uri: str
    digest: str


class JobFile(Part):
    version: Literal[2] = CONTRACT_VERSION
    identity: Identity
    attempt: Attempt
    spec: Spec
    world: World
    prepared: Prepared | None = None
    """Absent in the file of a preparation."""

    @model_validator(mode="before")
    @classmethod
    def _read_older_versions(cls, document: Any) -> Any:
        is_first_version = isinstance(document, Mapping) and document.get("version") == 1
        return upgraded_from_1(document) if is_first_version else document

    @classmethod
    def parse(cls, text: str | bytes) -> "JobFile":
        """Of any released version. Raises pydantic's ValidationError."""
        return cls.model_validate_json(text)

    def render(self) -> str:
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=1)


def upgraded_from_1(document: Mapping[str, Any]) -> dict[str, Any]:
    """A file of 0.1.0 as version 2 says it. Version 1 had the whole of FineTuneJob.spec, and the number of the attempt
    in `identity`. What is missing or misplaced is left for the validation to name."""
    spec, identity, world = (_block(document, name) for name in ("spec", "identity", "world"))
    for name in ("suspend", "retries"):
        spec.pop(name, None)
    identity.pop("generation", None)
    number = identity.pop("attempt", None)
    attempt = {"number": number, "reason": "FirstAttempt" if number == 1 else "NotRecorded", "resume": "newest"}
    resources = spec.pop("resources", None)
    if isinstance(resources, Mapping):
        world["gpuClass"] = resources.get("gpuClass", "")
    kept = {name: value for name, value in document.items() if name != "progressIntervalSeconds"}
    return {**kept, "version": 2, "identity": identity, "attempt": attempt, "spec": spec, "world": world}


def _block(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    block = document.get(name)
    return dict(block) if isinstance(block, Mapping) else {}
