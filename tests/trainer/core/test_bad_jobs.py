"""What a job cannot have is rejected by the preparation with field and cure, before a GPU is requested."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.prepare import preparation
from tests.trainer.builders import make_job
from tests.trainer.folders import FolderStorage
from tests.trainer.models import save_tiny_model
from tests.trainer.runs import Bench, write_rows

LORA = {"type": "lora", "lora": {}}
KNOWN = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"

CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "a model that does not exist": (
        {"model": {"source": "file:///nowhere/model"}},
        "spec.model.source",
        "file:///nowhere/model is not there",
    ),
    "rows that do not exist": (
        {"dataset": {"train": [{"source": "s3://bucket/nowhere.jsonl"}]}},
        "spec.dataset.train[0].source",
        "s3://bucket/nowhere.jsonl is not there",
    ),
    "held-out rows that do not exist": (
        {"dataset": {"evaluation": {"source": "s3://bucket/nowhere.jsonl"}}},
        "spec.dataset.evaluation.source",
        "s3://bucket/nowhere.jsonl is not there",
    ),
    "a module that the model does not have, misspelled": (
        {"method": {"type": "lora", "lora": {"targets": ["q_proj", "v_prj"]}}},
        "spec.method.lora.targets",
        f"the model has no module 'v_prj'; did you mean v_proj? Use any of {KNOWN}, or all-linear for all",
    ),
    "a module of another model": (
        {"method": {"type": "lora", "lora": {"targets": ["c_attn"]}}},
        "spec.method.lora.targets",
        f"the model has no module 'c_attn'. Use any of {KNOWN}, or all-linear for all",
    ),
    "more layers than the model has": (
        {"method": {"type": "freeze", "freeze": {"trainableLayers": 3}}},
        "spec.method.freeze.trainableLayers",
        "3 layers cannot be trained: the model has only 2",
    ),
    "fp16 on a CPU": (
        {"training": {"precision": "fp16"}},
        "spec.training.precision",
        "fp16 does not train on a CPU; use auto, bf16 or fp32",
    ),
    "a template whose tokens the model does not have": (
        {"dataset": {"template": "llama3"}},
        "spec.dataset.template",
        "llama3 needs the tokens <|start_header_id|>, <|end_header_id|>, <|eot_id|>, which the model does not have; "
        "use auto, alpaca or default, or a model that has them",
    ),
    "an unknown template": (
        {"dataset": {"template": "vicuna"}},
        "spec.dataset.template",
        "unknown template 'vicuna'; use one of auto, chatml, llama3, alpaca, default",
    ),
}


@pytest.mark.parametrize(("spec", "field", "message"), CASES.values(), ids=CASES)
def test_is_rejected(spec: dict[str, Any], field: str, message: str, bench: Bench) -> None:
    error = _refusal(bench, spec)
    assert (error.field, error.message, error.code) == (field, f"{field}: {message}", 2)


def test_a_model_without_a_template_of_its_own(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path, save_tiny_model(tmp_path / "model", chat_template=None), write_rows(tmp_path / "rows.jsonl")
    )
    assert _refusal(bench, {}).message == (
        "spec.dataset.template: the model has no chat template of its own; use one of chatml, llama3, alpaca, "
        "default, and the same one when serving"
    )
    assert bench.job({"dataset": {"template": "alpaca"}}).prepared is not None


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        pytest.param(
            {"model_type": "homegrown", "auto_map": {"AutoModelForCausalLM": "modeling_homegrown.Model"}},
            "spec.model.trustRemoteCode",
            "{model} brings its own Python code (modeling_homegrown.py); review it, then set this to true to run it",
            id="a model that brings its own code",
        ),
        pytest.param(
            {"model_type": "homegrown"},
            "spec.model.source",
            "config.json of {model} has the model_type 'homegrown', which transformers",
            id="an unknown architecture",
        ),
        pytest.param(
            {"model_type": "vit", "architectures": ["ViTModel"]},
            "spec.model.source",
            "{model} is a model of type vit, for which transformers has no causal language model",
            id="a model of another kind",
        ),
    ],
)
def test_a_model_that_cannot_be_trained(change: dict[str, Any], field: str, message: str, tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **change}))
    error = _refusal(Bench(tmp_path, model, write_rows(tmp_path / "rows.jsonl")), {})
    assert error.field == field
    assert error.message.startswith(f"{field}: {message.format(model=f'file://{model}')}")


def test_code_that_is_not_needed_is_neither_run_nor_rejected(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "nowhere.Model"}
    (model / "config.json").write_text(json.dumps(config))
    assert Bench(tmp_path, model, write_rows(tmp_path / "rows.jsonl")).job().prepared is not None


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("config.json", "has no config.json, so it is not a model in the transformers format"),
        ("model.safetensors", "has no weights (*.safetensors or *.bin)"),
    ],
)
def test_a_folder_that_is_not_a_model(remove: str, message: str, tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    (model / remove).unlink()
    error = _refusal(Bench(tmp_path, model, write_rows(tmp_path / "rows.jsonl")), {})
    assert error.message == f"spec.model.source: file://{model} {message}"


def _refusal(bench: Bench, spec: dict[str, Any]) -> ConfigurationError:
    job = make_job({"method": LORA, **spec}, model=bench.model, train=bench.rows)
    with pytest.raises(ConfigurationError) as refused:
        preparation.run(job, FolderStorage(bench.root / "s3"), bench.root / "scratch", lambda line: None)
    return refused.value
