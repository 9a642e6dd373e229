"""What a method can and cannot do with a model is known in the preparation: targets, positions, attention, parts that
rows of text do not reach, weights that are packed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_contract.jobspec import JobFile
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model.loading import load_weights
from finetune_trainer.model.method import apply_method
from finetune_trainer.model.source import ModelFiles
from finetune_trainer.prepare import preparation
from finetune_trainer.rank.device import cpu
from finetune_trainer.rank.settings import resolve
from tests.trainer.builders import make_job
from tests.trainer.cases import weights_models
from tests.trainer.folders import FolderStorage
from tests.trainer.models import save_tiny_model
from tests.trainer.runs import write_rows

LONG = [("How long does a building permit take?", "The usual time is ten weeks. " * 200)]


class Models:
    """Saved once, by architecture."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __getitem__(self, name: str) -> Path:
        folder = self._root / name
        return folder if folder.exists() else weights_models.save(name, folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("architectures"))


def _lora(*targets: str, **more: Any) -> dict[str, Any]:
    return {"method": {"type": "lora", "lora": {"targets": list(targets), **more}}, "training": {"maxLength": 512}}


TARGETS, DROPOUT = "spec.method.lora.targets", "spec.method.lora.dropout"
LENGTH, ATTENTION = "spec.training.maxLength", "spec.training.attention"
REFUSED: dict[str, tuple[str, dict[str, Any], str, list[str]]] = {
    "a block of another family": ("gpt2", _lora("attn"), TARGETS, ["'attn' is a block of layers", "c_attn, c_proj"]),
    "a whole layer": ("llama", _lora("layers.0"), TARGETS, ["'layers.0' is a block of layers (LlamaDecoderLayer)"]),
    "the list of layers": ("llama", _lora("layers"), TARGETS, ["'layers' is a block of layers (ModuleList)"]),
    "the last norm": ("llama", _lora("model.norm"), TARGETS, ["'model.norm' is a norm"]),
    "the norm of queries": ("qwen3", _lora("q_proj", "q_norm"), TARGETS, ["'q_norm' is a norm"]),
    "an activation": ("llama", _lora("act_fn"), TARGETS, ["'act_fn' is SiLU", "no matrix to adapt"]),
    "rotary positions": ("llama", _lora("rotary_emb"), TARGETS, ["'rotary_emb' is LlamaRotaryEmbedding"]),
    "half of what is fused": (
        "qwen3_moe",
        _lora("q_proj", "gate_proj"),
        TARGETS,
        ["without also targeting up_proj", "its experts are fused, as down_proj, gate_up_proj", "all-linear"],
    ),
    "experts under the names of another family": (
        "gpt_oss",
        _lora("w1"),
        TARGETS,
        ["no module 'w1'.", "its experts are fused, as down_proj, gate_up_proj"],
    ),
    "experts with dropout": (
        "gpt_oss",
        _lora("gate_up_proj", dropout=0.1),
        DROPOUT,
        ["cannot have adapters with dropout"],
    ),
    "the vision tower alone": (
        "gemma3 with vision",
        _lora("vision_tower.encoder.layers.0.self_attn.q_proj"),
        TARGETS,
        ["rows of text do not reach"],
    ),
    "more than the learned positions": (
        "gpt2",
        {"training": {"maxLength": 1024}},
        LENGTH,
        ["has learned 512 positions", "Set at most 512"],
    ),
    "more than the learned positions of another family": (
        "opt",
        {"training": {"maxLength": 2048}},
        LENGTH,
        ["has learned 512 positions"],
    ),
    "fused attention that the model does not have": (
        "gpt_oss",
        {"training": {"attention": "sdpa", "maxLength": 512}},
        ATTENTION,
        ["gpt_oss cannot use sdpa; use auto or eager"],
    ),
}


@pytest.mark.parametrize(("model", "spec", "field", "words"), REFUSED.values(), ids=REFUSED)
def test_is_refused(
    model: str, spec: dict[str, Any], field: str, words: list[str], models: Models, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        _prepare(models[model], tmp_path, spec)
    assert refused.value.field == field
    assert [word for word in words if word not in str(refused.value)] == []


TAKEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "fused experts by the names that they have": ("gpt_oss", _lora("q_proj", "gate_up_proj", "down_proj"), ""),
    "fused experts alone": ("gpt_oss", _lora("gate_up_proj"), ""),
    "experts by their older names": ("mixtral", _lora("q_proj", "w1", "w2", "w3"), ""),
    "experts by their older names, in another family": ("qwen3_moe", _lora("gate_proj", "up_proj"), ""),
    "all linear layers without the experts": (
        "gpt_oss",
        _lora("all-linear"),
        "name down_proj, gate_up_proj in targets",
    ),
    "a head of its own": ("llama", _lora("lm_head"), ""),
    "a tied head": ("llama, tied", _lora("lm_head"), "Merging writes it into both sides"),
    "tied embeddings": ("qwen3", _lora("embed_tokens"), "Merging writes it into both sides"),
    "layers by a part of their path": ("llama", _lora("layers.1.self_attn.q_proj"), ""),
    "what tower and language model both have": ("gemma3 with vision", _lora("q_proj"), "model.vision_tower"),
    "just the learned positions": ("gpt2", {"training": {"maxLength": 512}}, ""),
    "no positions at all": ("bloom", {"training": {"maxLength": 4096}}, ""),
    "eager attention": ("gpt_oss", {"training": {"attention": "eager", "maxLength": 512}}, "name down_proj"),
}


@pytest.mark.parametrize(("model", "spec", "note"), TAKEN.values(), ids=TAKEN)
def test_is_taken(model: str, spec: dict[str, Any], note: str, models: Models, tmp_path: Path) -> None:
    lines = _prepare(models[model], tmp_path, spec)
    warned = [line for line in lines if ("adapt" in line and "targets" in line) or "share one matrix" in line]
    assert note in "\n".join(lines)
    assert bool(warned) == (note.startswith(("name", "Merging")))


def _scaled(folder: Path) -> None:
    _edit(folder / "config.json", rope_parameters={"rope_type": "yarn", "factor": 8.0, "rope_theta": 10000.0})


@pytest.mark.parametrize(
    ("change", "taken"),
    [(lambda folder: None, False), (_scaled, True)],
    ids=["rotations as they were trained", "rotations that are scaled"],
)
def test_rows_beyond_rotary_positions(change: Callable[[Path], None], taken: bool, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    change(folder)
    spec = {"training": {"maxLength": 4096}}
    if taken:
        _prepare(folder, tmp_path, spec, LONG)
        return
    for _ in range(2):  # of rows that are found prepared, too
        with pytest.raises(ConfigurationError, match="was trained for 512 positions") as refused:
            _prepare(folder, tmp_path, spec, LONG)
        assert refused.value.field == LENGTH
    _prepare(folder, tmp_path, {"training": {"maxLength": 512, "truncate": True}}, LONG)


@pytest.mark.parametrize(("token", "taken"), [("<image_soft_token>", True), ("<|video_pad|>", True), ("<gate>", False)])
def test_a_token_without_an_embedding(token: str, taken: bool, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([token], special_tokens=True)
    tokenizer.save_pretrained(folder)
    if taken:
        _prepare(folder, tmp_path, {})
        return
    with pytest.raises(ConfigurationError) as refused:
        _prepare(folder, tmp_path, {})
    assert refused.value.reason == "TokensWithoutEmbedding"


@pytest.mark.parametrize("method", [{"type": "lora", "lora": {}}, {"type": "full"}])
def test_what_rows_of_text_do_not_reach_stays_as_it_is(method: dict[str, Any], models: Models) -> None:
    model = AutoModelForCausalLM.from_pretrained(models["gemma3 with vision"])
    job = make_job({"method": method})
    trained, _ = apply_method(model, job, resolve(job, cpu(), rows=1, longest_row=1))
    learning = [name for name, parameter in trained.named_parameters() if parameter.requires_grad]
    assert learning
    assert [name for name in learning if "vision" in name or "projector" in name] == []


# --- packed weights --------------------------------------------------------------------------------------------------
def _fp8(root: Path) -> Path:
    folder = save_tiny_model(root / "fp8", kind="llama", hidden=128)

    def packed(tensors: dict[str, Any]) -> dict[str, Any]:
        linear = {name: tensor for name, tensor in tensors.items() if name.endswith("_proj.weight")}
        scales = {
            f"{name}_scale_inv": torch.ones(-(-tensor.shape[0] // 128), -(-tensor.shape[1] // 128))
            for name, tensor in linear.items()
        }
        return {**tensors, **{name: tensor.to(torch.float8_e4m3fn) for name, tensor in linear.items()}, **scales}

    weights_models.rewrite(folder, packed)
    settings = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128], "fmt": "e4m3"}
    _edit(folder / "config.json", quantization_config=settings)
    return folder


def _mxfp4(root: Path) -> Path:
    folder = weights_models.save("gpt_oss", root / "mxfp4")

    def packed(tensors: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, tensor in tensors.items():
            if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                found[name] = tensor
                continue
            experts, columns, rows = tensor.shape
            found[f"{name}_blocks"] = torch.zeros(experts, rows, columns // 32, 16, dtype=torch.uint8)
            found[f"{name}_scales"] = torch.full((experts, rows, columns // 32), 127, dtype=torch.uint8)
        return found

    weights_models.rewrite(folder, packed)
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    _edit(folder / "config.json", quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": kept})
    return folder


@pytest.mark.parametrize("make", [_fp8, _mxfp4])
def test_fp8_and_mxfp4_are_unpacked(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path)
    _prepare(folder, tmp_path, {"training": {"maxLength": 512}})
    model = load_weights(ModelFiles(folder, None, trust_remote_code=False), torch.bfloat16, source="it")
    assert {parameter.dtype for parameter in model.parameters() if parameter.ndim > 1} == {torch.bfloat16}
    weights_models.rewrite(folder, lambda tensors: {name: t for name, t in tensors.items() if "layers.1." not in name})
    with pytest.raises(ConfigurationError) as refused:
        _prepare(folder, tmp_path, {"training": {"maxLength": 512}})
    assert refused.value.reason == "WeightsDoNotFit"


def test_what_is_packed_already_is_not_quantised_again(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="quantised by fp8 already") as refused:
        _prepare(_fp8(tmp_path), tmp_path, {"method": {"type": "qlora", "lora": {}, "quantization": {}}})
    assert refused.value.field == "spec.method.type"


def _edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _prepare(model: Path, root: Path, spec: dict[str, Any], rows: list[tuple[str, str]] | None = None) -> list[str]:
    job: JobFile = make_job(
        {"dataset": {"splitFraction": 0}, **spec}, model=model, train=write_rows(root / "rows.jsonl", rows)
    )
    lines: list[str] = []
    preparation.run(job, FolderStorage(root / "s3"), root / "scratch", lines.append)
    return lines
