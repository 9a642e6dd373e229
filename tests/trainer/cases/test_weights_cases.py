"""Public bug reports about models: weights that are not there, targets, attention, vision towers, quantised bases."""

from pathlib import Path

import pytest
from safetensors import safe_open

from tests.trainer.cases.trying import Bench, Ended

REFUSED = {
    "31-more-tokens-than-rows": (
        "spec.model.source",
        ["2 tokens beyond the 400 rows", "'<gate>', '<desk>'", "resize_token_embeddings"],
    ),
    "33-targets-container": (
        "spec.method.lora.targets",
        ["'self_attn' is a block of layers (Qwen2Attention)", "k_proj, o_proj, q_proj, v_proj"],
    ),
    "34-targets-norm": ("spec.method.lora.targets", ["'input_layernorm' is a norm"]),
    "36-weights-with-prefix": (
        "spec.model.source",
        ["27 are missing", "begin with 'wrapped_policy.'", "saved from within a wrapper"],
    ),
    "38-shards-without-index": ("spec.model.source", ["3 shards", "no model.safetensors.index.json"]),
    "39-lost-shard": ("spec.model.source", ["'model-00003-of-00003.safetensors' is missing"]),
    "46-gptq": ("spec.model.source", ["quantised by gptq", "optimum", "unquantised version"]),
}


@pytest.mark.parametrize(("case", "field", "words"), [(case, *said) for case, said in REFUSED.items()], ids=REFUSED)
def test_is_refused_before_a_gpu_is_requested(case: str, field: str, words: list[str], bench: Bench) -> None:
    ended = bench.case(case).prepare()
    assert (ended.code, ended.crashed) == (2, False), ended.log
    assert ended.record.message.startswith(field)
    assert [word for word in words if word not in ended.record.message] == []


@pytest.mark.parametrize(
    "case", ["35-targets-lm-head-tied", "40-bin-only", "42-moe-experts", "43-moe-expert-names", "50-no-architectures"]
)
def test_is_trained(case: str, bench: Bench) -> None:
    attempt = bench.case(case)
    _ended_well(attempt.prepare())
    _ended_well(attempt.train())
    artifact = attempt.artifact()
    assert artifact is not None
    assert set(artifact.provenance["base"]) > {"config.json", "tokenizer.json"}
    assert all(mark.startswith("sha256:") for mark in artifact.provenance["base"].values())
    assert len(artifact.provenance["dataFiles"]) == 1


def test_tied_heads_are_trained_as_asked_with_a_warning_about_merging(bench: Bench) -> None:
    prepared = bench.case("35-targets-lm-head-tied").prepare()
    assert prepared.log.count("Merging writes it into both sides") == 1


@pytest.mark.parametrize("case", ["42-moe-experts", "43-moe-expert-names"])
def test_fused_experts_get_adapters(case: str, bench: Bench) -> None:
    attempt = bench.case(case)
    _ended_well(attempt.train())
    adapted = "\n".join(_tensors(attempt.download()))
    assert "experts" in adapted
    assert "q_proj" in adapted


def test_a_model_without_sdpa_is_trained_with_eager_attention(bench: Bench) -> None:
    attempt = bench.case("44-gpt-oss-sdpa")
    _ended_well(attempt.prepare())
    assert "name down_proj, gate_up_proj in targets to adapt them" in str(attempt.prepared)
    trained = attempt.train()
    _ended_well(trained)
    assert "attention: eager  (auto: the model has no SDPA)" in trained.log


def test_rows_of_text_train_a_model_with_a_vision_tower(bench: Bench) -> None:
    attempt = bench.case("45-gemma3-vision")
    _ended_well(attempt.prepare())
    _ended_well(attempt.train())
    folder = attempt.download()
    assert {name for name in _tensors(folder) if "language_model" not in name} == set()
    assert _loads_with_peft(attempt.model, folder) == "Gemma3ForConditionalGeneration"


def _loads_with_peft(base: Path, adapter: Path) -> str:
    """The class of the base; every tensor of the adapter found its place."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    kind = type(model).__name__
    adapted = PeftModel.from_pretrained(model, str(adapter))
    placed = {name.replace(".default", "") for name, _ in adapted.named_parameters() if "lora_" in name}
    assert placed == set(_tensors(adapter))
    return kind


def _tensors(folder: Path) -> list[str]:
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        return list(file.keys())


def _ended_well(ended: Ended) -> None:
    assert (ended.code, ended.crashed) == (0, False), ended.log
