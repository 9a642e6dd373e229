"""Training in process: each method learns exactly what it should, and leaves a result that others can load."""

import json
import math
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from finetune_trainer.errors import AcceleratorOutOfMemory, ConfigurationError, Diverged
from finetune_trainer.objectives.sft.loss import LabelledLoss
from finetune_trainer.prepare import store
from finetune_trainer.training.result import TrainResult
from tests.trainer.hooks import NoHooks
from tests.trainer.runs import ROWS, Bench, losses, write_rows

LORA = {"type": "lora", "lora": {"rank": 4}}
QLORA = {"type": "qlora", "lora": {"rank": 4}, "quantization": {"bits": 4}}
QLORA8 = {"type": "qlora", "lora": {"rank": 4}, "quantization": {"bits": 8}}
FULL = {"type": "full"}
FREEZE = {"type": "freeze", "freeze": {"trainableLayers": 1}}

# rank × (in + out) of q, k, v, o (32→32, 16, 16, 32) and gate, up, down (32↔64), two layers
ADAPTER = 2 * 4 * ((32 + 32) + (32 + 16) + (32 + 16) + (32 + 32) + 3 * (32 + 64))
LAYER = 9_344


@pytest.mark.parametrize(
    ("method", "trained", "rate"),
    [
        pytest.param(LORA, ADAPTER, 3e-2, id="lora"),
        pytest.param(
            {"type": "lora", "lora": {"rank": 4, "targets": ["q_proj"]}}, 2 * 4 * 64, 1e-1, id="lora on q_proj"
        ),
        pytest.param(QLORA, ADAPTER, 3e-2, id="qlora, 4 bits"),
        pytest.param(QLORA8, ADAPTER, 3e-2, id="qlora, 8 bits"),
        pytest.param(FULL, 31_520, 1e-2, id="full"),
        pytest.param(FREEZE, LAYER, 3e-2, id="freeze"),
    ],
)
def test_loss_falls(method: dict[str, Any], trained: int, rate: float, bench: Bench) -> None:
    training = {"epochs": 4, "learningRate": rate, "precision": "bf16"}
    dataset = {"evaluation": {"source": f"file://{bench.rows}"}}
    result = bench.train(bench.job({"method": method, "dataset": dataset, "training": training}))
    assert result.metrics["trainedParameters"] == trained
    assert losses(result)[-1] < losses(result)[0] - 0.03
    assert _evaluation(result).loss_after < _evaluation(result).loss_before - 0.03
    assert _evaluation(result).rows == 10


@pytest.mark.parametrize("checkpointing", [True, False])
def test_losses_are_unchanged(checkpointing: bool, bench: Bench) -> None:
    """With and without gradient checkpointing: it costs time and changes nothing."""
    result = bench.train(bench.job({"method": LORA, "training": {"gradientCheckpointing": checkpointing}}))
    assert losses(result) == pytest.approx(_LORA_LOSSES, rel=1e-5)


_LORA_LOSSES = [5.999381, 5.972954, 5.929165, 5.938272, 5.893742, 5.868424]


@pytest.mark.filterwarnings("ignore")  # the compiler looks at everything, deprecated or not
@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_compiled_layers_give_the_same_losses(checkpointing: bool, bench: Bench) -> None:
    counters.clear()
    training = {"compile": True, "gradientCheckpointing": checkpointing}
    result = bench.train(bench.job({"method": LORA, "training": training}))
    assert losses(result) == pytest.approx(_LORA_LOSSES, rel=1e-5)
    assert counters["stats"]["unique_graphs"] >= 1


@pytest.mark.parametrize(("batch", "accumulation"), [(4, 2), (1, 8)])
def test_batch_size_and_accumulation_are_interchangeable(batch: int, accumulation: int, bench: Bench) -> None:
    training = {"perDeviceBatchSize": batch, "gradientAccumulationSteps": accumulation, "maxSteps": 2, "warmupRatio": 0}
    spec = {"method": FULL, "training": training}
    reference = {"perDeviceBatchSize": 8, "gradientAccumulationSteps": 1}
    want = bench.train(bench.job({**spec, "training": {**training, **reference}}), "reference")
    got = bench.train(bench.job(spec), "cut")
    assert losses(got) == pytest.approx(losses(want), rel=1e-6)
    # Adam's first steps are signs of gradients: where one is about 0, its sign is chance. So not weight by weight.
    start, one, other = load_file(bench.model / "model.safetensors"), _weights(want), _weights(got)
    moved = sum((one[name] - start[name]).square().sum() for name in start) ** 0.5
    apart = sum((one[name] - other[name]).square().sum() for name in start) ** 0.5
    assert apart / moved < 1e-2


def test_an_adapter_loads_elsewhere_and_is_what_was_scored(bench: Bench) -> None:
    training = {"epochs": 4, "learningRate": 3e-2}
    spec = {"method": LORA, "dataset": {"splitFraction": 0.2}, "training": training}
    job = bench.job(spec)
    result = bench.train(job)
    model = AutoModelForCausalLM.from_pretrained(bench.model, dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(model, str(result.directory)).eval()
    assert _held_out_loss(bench, job, adapted) == pytest.approx(_evaluation(result).loss_after, rel=1e-6)


def test_a_full_model_loads_elsewhere_and_is_what_was_scored(bench: Bench) -> None:
    job = bench.job({"method": FULL, "dataset": {"splitFraction": 0.2}, "training": {"epochs": 4, "precision": "bf16"}})
    result = bench.train(job)
    model = AutoModelForCausalLM.from_pretrained(result.directory, dtype="auto", attn_implementation="eager").eval()
    assert model.dtype is torch.bfloat16
    assert _held_out_loss(bench, job, model) == pytest.approx(_evaluation(result).loss_after, rel=1e-5)


def test_nothing_in_the_result_points_into_the_pod(bench: Bench) -> None:
    result = bench.train(bench.job({"method": LORA, "training": {"maxSteps": 1}}))
    names = sorted(path.name for path in result.directory.iterdir())
    assert names == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "generation_config.json",
        "loss.svg",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    ]
    config = json.loads((result.directory / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == f"file://{bench.model}"
    for path in result.directory.iterdir():
        if path.suffix != ".safetensors":
            assert "/run/" not in path.read_text(), path.name
    assert (
        AutoTokenizer.from_pretrained(result.directory).chat_template
        == (result.directory / "chat_template.jinja").read_text()
    )


def test_a_frozen_layer_does_not_change(bench: Bench) -> None:
    result = bench.train(bench.job({"method": FREEZE}))
    before, after = load_file(bench.model / "model.safetensors"), _weights(result)
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert changed
    assert all(name.startswith("model.layers.1.") for name in changed)


def test_a_learned_answer_is_given_word_for_word(bench: Bench) -> None:
    """The held-out rows are the training rows: after enough steps the model knows them by heart."""
    rows = write_rows(bench.root / "known.jsonl", ROWS[:2])
    spec = {
        "method": FULL,
        "dataset": {"train": [{"source": f"file://{rows}"}], "evaluation": {"source": f"file://{rows}"}},
        "evaluation": {"sampleAnswers": 2, "maxNewTokens": 40},
        "training": {"epochs": 60, "learningRate": 2e-2, "perDeviceBatchSize": 2, "gradientAccumulationSteps": 1},
    }
    evaluation = _evaluation(bench.train(bench.job(spec)))
    assert [(sample.question, sample.after) for sample in evaluation.samples] == ROWS[:2]
    assert [sample.expected for sample in evaluation.samples] == [answer for _, answer in ROWS[:2]]
    assert all(sample.before != sample.after for sample in evaluation.samples)
    assert evaluation.loss_after < 0.1


@pytest.mark.parametrize("method", [LORA, QLORA], ids=lambda method: str(method["type"]))
def test_an_evaluation_leaves_no_trace_in_the_training(method: dict[str, Any], bench: Bench) -> None:
    """Random numbers of the dropout, and the layout of 4-bit weights, which a forward pass in eval mode changes."""
    method = {**method, "lora": {"rank": 4, "dropout": 0.3}}
    training = {"precision": "bf16", "epochs": 3, "learningRate": 3e-2}
    silent = bench.job({"method": method, "training": training})
    scored = bench.job(
        {
            "method": method,
            "training": training,
            "dataset": {"evaluation": {"source": f"file://{bench.rows}"}},
            "evaluation": {"sampleAnswers": 2, "maxNewTokens": 4},
        }
    )
    assert losses(bench.train(scored, "scored")) == losses(bench.train(silent, "silent"))


def test_a_nan_loss_is_a_divergence(bench: Bench) -> None:
    training = {"learningRate": 1.0, "epochs": 30, "warmupRatio": 0, "scheduler": "constant", "maxGradNorm": 1000}
    model = bench.model
    with pytest.raises(Diverged, match=r"^the loss is (nan|inf) at step \d+; lower spec.training.learningRate, or use"):
        bench.train(bench.job({"method": FULL, "training": training}), hooks=NoHooks(callbacks=[_Poison()]))
    assert model.is_dir()


class _Poison(TrainerCallback):
    """Weights as they are after a divergence."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            for parameter in kwargs["model"].parameters():
                parameter.data.fill_(math.inf)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation"), id="torch"
        ),
        pytest.param(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), id="a RuntimeError"),
    ],
)
def test_running_out_of_memory_is_reported_in_torchs_words(
    error: Exception, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*args: Any) -> None:
        raise error

    monkeypatch.setattr(LabelledLoss, "__call__", run_out)
    with pytest.raises(AcceleratorOutOfMemory) as ended:
        bench.train(bench.job({"method": LORA}))
    assert ended.value.message == "CUDA out of memory. Tried to allocate 2.00 GiB."


def test_the_cpu_does_not_replace_a_missing_gpu(bench: Bench) -> None:
    with pytest.raises(ConfigurationError) as refused:
        bench.train(bench.job({"method": LORA}, gpus=1))
    assert refused.value.reason == "AcceleratorMissing"
    assert refused.value.message == (
        "spec.resources.gpuClass: GPUs per node: 1 requested, none visible in the pod; check the node's "
        "driver and device plugin, or use the class cpu"
    )


def test_the_model_card_shows_the_numbers(bench: Bench) -> None:
    spec = {"method": LORA, "dataset": {"splitFraction": 0.2}, "evaluation": {"sampleAnswers": 1, "maxNewTokens": 2}}
    result = bench.train(bench.job(spec))
    card = (result.directory / "README.md").read_text()
    evaluation = _evaluation(result)
    assert f"| before training | {evaluation.loss_before:.4f} |" in card
    assert f"| after training | {evaluation.loss_after:.4f} |" in card
    assert "| Trained parameters | 4,096 of 35,616 (12 %) |" in card
    assert {"| r | `4` |", "| target_modules | `all-linear` |", "| dtype | `float32` |"} <= set(card.splitlines())
    assert card.count("**Question:**") == 1
    assert (result.directory / "loss.svg").stat().st_size > 1000
    assert "maskHistory" in result.provenance["data"]["options"]
    assert not [name for name in result.provenance["data"]["options"] if "_" in name]
    assert result.provenance["data"]["train"][0] in card


def test_activities_are_reported_in_order(bench: Bench) -> None:
    hooks = NoHooks()
    bench.train(
        bench.job({"method": LORA, "dataset": {"splitFraction": 0.2}, "training": {"maxSteps": 1}}), hooks=hooks
    )
    assert hooks.activities == ["loading", "evaluating", "training", "evaluating", "saving"]


def _held_out_loss(bench: Bench, job: Any, model: Any) -> float:
    """By transformers' own loss, row for row."""
    prepared = store.read(bench.root / "s3" / job.prepared.uri.removeprefix("s3://"))
    total = count = 0.0
    for row in prepared.evaluation:
        ids = torch.tensor(row.ids.tolist())[None]
        labels = torch.where(torch.tensor(row.supervised.tolist())[None], ids, -100)
        with torch.no_grad():
            total += model(input_ids=ids, labels=labels).loss.item() * int(row.supervised[1:].sum())
        count += int(row.supervised[1:].sum())
    return total / count


def _evaluation(result: TrainResult) -> Any:
    assert result.evaluation is not None
    return result.evaluation


def _weights(result: TrainResult) -> dict[str, torch.Tensor]:
    folder: Path = result.directory
    return dict(load_file(folder / "model.safetensors"))
