"""The job file: what the operator mounts as `job.json` and the trainer reads.

`spec` is the FineTuneJob's own `spec`, defaults filled in by the API server: the CRD is the one place that has
defaults, so nothing here repeats them. A field is optional here only when it is optional there without a default.
Keys that this version does not know are refused: a setting that does nothing is an error.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel


class _Part(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid", protected_namespaces=()
    )


def _number_from_yaml_1_1(value: object) -> object:
    """PyYAML reads `2e-4` as a string, kubectl as a number: take both."""
    return float(value) if isinstance(value, str) else value


Number = Annotated[float, BeforeValidator(_number_from_yaml_1_1)]

Quantity = Annotated[str, BeforeValidator(str)]
"""Of Kubernetes: `8` or `"500m"`."""


class Model(_Part):
    source: str
    """`hf://org/name`, `s3://bucket/prefix`, `pvc://claim/path` or `file:///path`; a `.gguf` suffix names one file."""
    revision: str | None = None
    trust_remote_code: bool


class DataSource(_Part):
    source: str
    """`s3://bucket/key`, `pvc://claim/path` or `file:///path`; .jsonl, .json, .csv or .parquet."""


class Dataset(_Part):
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


class Lora(_Part):
    rank: int
    alpha: int
    dropout: Number
    targets: tuple[str, ...]
    """Module names as in peft; `all-linear` alone takes every linear layer but the head."""


class Quantization(_Part):
    bits: Literal[4, 8]
    double_quant: bool


class Freeze(_Part):
    trainable_layers: int


class Method(_Part):
    type: Literal["lora", "qlora", "full", "freeze"]
    lora: Lora | None = None
    """Exactly for lora and qlora."""
    quantization: Quantization | None = None
    """Exactly for qlora."""
    freeze: Freeze | None = None
    """Exactly for freeze."""


class Deepspeed(_Part):
    stage: Literal[0, 1, 2, 3]


class Training(_Part):
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


class Resources(_Part):
    gpu_class: str
    gpus_per_node: int | None = None
    nodes: int
    processes_per_node: int | None = None
    cpu: Quantity
    memory: str


class Output(_Part):
    uri: str
    """`s3://bucket/prefix`"""


class Checkpoint(_Part):
    every_steps: int
    keep: int


class Evaluation(_Part):
    sample_answers: int
    """Held-out questions answered before and after training."""
    max_new_tokens: int


class Storage(_Part):
    secret_name: str | None = None
    endpoint: str | None = None
    region: str


class Spec(_Part):
    """FineTuneJob.spec as the API server stores it (crds/finetunejobs.yaml)."""

    model: Model
    dataset: Dataset
    method: Method
    stage: Literal["sft"]
    training: Training
    resources: Resources
    suspend: bool
    retries: int
    output: Output
    checkpoint: Checkpoint
    evaluation: Evaluation
    storage: Storage


class Identity(_Part):
    """Which run and attempt of which object this pod works for."""

    namespace: str
    name: str
    uid: str
    generation: int
    run: int
    attempt: int
    config_hash: str
    image: str


class World(_Part):
    """The processes of one attempt. Global batch = nodes × processes_per_node × per-device batch × accumulation."""

    nodes: int
    processes_per_node: int
    gpus_per_node: int
    allow_cpu_for_gpu: bool = False
    """Tests only: fake GPUs have no device behind them. Otherwise a missing GPU is an error."""

    @property
    def size(self) -> int:
        return self.nodes * self.processes_per_node


class Prepared(_Part):
    """Where the preparation of this run left its rows."""

    uri: str
    digest: str


class JobFile(_Part):
    version: Literal[1] = 1
    """`CONTRACT_VERSION` of the writer; another one is refused."""
    identity: Identity
    spec: Spec
    world: World
    prepared: Prepared | None = None
    """Absent in the file of a preparation."""
    progress_interval_seconds: Number = Field(default=30.0, gt=0)

    @classmethod
    def parse(cls, text: str | bytes) -> "JobFile":
        return cls.model_validate_json(text)

    def render(self) -> str:
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=1)
