"""What strangers name as a model: files that are damaged, incomplete or of another kind, and configurations that do not
fit. All end in the preparation, with the field, what it is and what to do; none with a traceback."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model.loading import load_weights
from finetune_trainer.model.source import ModelFiles
from finetune_trainer.prepare import preparation
from tests.trainer.builders import make_job
from tests.trainer.cases import weights_models
from tests.trainer.folders import FolderStorage
from tests.trainer.models import save_tiny_model
from tests.trainer.runs import write_rows

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
Change = Callable[[Path], None]


def _renamed(rule: Callable[[str], str]) -> Change:
    return lambda folder: weights_models.rewrite(
        folder, lambda tensors: {rule(name): tensor for name, tensor in tensors.items()}
    )


def _without(*parts: str) -> Change:
    return lambda folder: weights_models.rewrite(
        folder, lambda tensors: {name: t for name, t in tensors.items() if not any(part in name for part in parts)}
    )


def _with(**more: torch.Tensor) -> Change:
    return lambda folder: weights_models.rewrite(
        folder, lambda tensors: {**tensors, **{name.replace("__", "."): tensor for name, tensor in more.items()}}
    )


def _config(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        config = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))

    return change


def _cut(name: str, size: int) -> Change:
    """Negative: so many bytes are lost at the end."""

    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:size])

    return change


def _written(name: str, content: bytes | str) -> Change:
    return lambda folder: _write(folder / name, content)


def _write(file: Path, content: bytes | str) -> None:
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def _header(content: bytes, data: bytes = b"") -> Change:
    return _written(SINGLE, struct.pack("<Q", len(content)) + content + data)


def _then(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for each in changes:
            each(folder)

    return change


def _index(change: Callable[[dict[str, Any]], Any]) -> Change:
    def edit(folder: Path) -> None:
        weights_models.sharded(folder)
        (folder / INDEX).write_text(json.dumps(change(json.loads((folder / INDEX).read_text()))))

    return edit


def _a_tensor_in_two_shards(folder: Path) -> None:
    weights_models.sharded(folder)
    first, second, *_ = sorted(folder.glob("model-*.safetensors"))
    name = next(iter(load_file(first)))
    save_file({**load_file(second), name: load_file(first)[name]}, second)


def _adapter(folder: Path) -> None:
    (folder / SINGLE).rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")


class _Code:
    def __reduce__(self) -> Any:
        return print, ("this ran",)


DAMAGED: dict[str, tuple[Change, str, list[str]]] = {
    # weights that are those of something else
    "a wrapper's prefix of two parts": (
        _renamed(lambda name: f"policy.inner.{name}"),
        "WeightsDoNotFit",
        ["begin with 'policy.inner.'", "27 are missing"],
    ),
    "compiled when it was saved": (
        _renamed(lambda name: f"_orig_mod.{name}"),
        "WeightsDoNotFit",
        ["begin with '_orig_mod.'"],
    ),
    "saved from DataParallel": (_renamed(lambda name: f"module.{name}"), "WeightsDoNotFit", ["begin with 'module.'"]),
    "only one layer with a prefix": (
        _renamed(lambda name: f"x.{name}" if "layers.1." in name else name),
        "WeightsDoNotFit",
        ["12 are missing", "begin with 'x.'"],
    ),
    "a layer lost": (_without("layers.1."), "WeightsDoNotFit", ["12 are missing (model.layers.1.", "A shard was lost"]),
    "no embeddings": (_without("embed_tokens"), "WeightsDoNotFit", ["model.embed_tokens.weight"]),
    "more layers than config.json says": (
        _config(num_hidden_layers=1, layer_types=...),
        "WeightsDoNotFit",
        ["12 are of no part of the model (model.layers.1.", "a smaller or another model"],
    ),
    "fewer layers than config.json says": (
        _config(num_hidden_layers=3, layer_types=...),
        "WeightsDoNotFit",
        ["12 are missing (model.layers.2.", "describes a larger model"],
    ),
    "another size of the vocabulary": (
        _config(vocab_size=500),
        "WeightsDoNotFit",
        ["model.embed_tokens.weight [400, 32] for [500, 32]", "belongs to the weights"],
    ),
    "another architecture": (
        _config(model_type="gpt2", n_embd=32, n_layer=2, n_head=4, n_positions=2048, architectures=["GPT2LMHeadModel"]),
        "WeightsDoNotFit",
        ["GPT2LMHeadModel", "says 'gpt2'", "another architecture"],
    ),
    "biases that the architecture does not have": (
        _config(model_type="llama", architectures=["LlamaForCausalLM"]),
        "WeightsDoNotFit",
        ["6 are of no part of the model (model.layers.0.self_attn.k_proj.bias"],
    ),
    "a head that is not there": (
        _config(tie_word_embeddings=False),
        "WeightsDoNotFit",
        ["1 is missing (lm_head.weight)", "tie_word_embeddings: true"],
    ),
    "a second model beside it": (
        _with(reference__head__weight=torch.zeros(2, 2)),
        "WeightsDoNotFit",
        ["1 is of no part of the model (reference.head.weight)"],
    ),
    "an adapter's tensors under the model's name": (
        _renamed(lambda name: f"base_model.model.{name.replace('.weight', '.lora_A.weight')}"),
        "WeightsDoNotFit",
        ["holds a LoRA adapter"],
    ),
    "an adapter with a config.json": (_adapter, "NotAModel", ["holds an adapter (adapter_config.json)"]),
    "an adapter without one": (
        _then(_adapter, lambda folder: (folder / "config.json").unlink()),
        "NotAModel",
        ["is an adapter (adapter_config.json), not a model"],
    ),
    # files that are damaged
    "no byte at all": (_written(SINGLE, b""), "WeightsDamaged", ["model.safetensors of 0 bytes"]),
    "five bytes": (_written(SINGLE, b"12345"), "WeightsDamaged", ["of 5 bytes"]),
    "cut in its data": (_cut(SINGLE, -1000), "WeightsDamaged", ["model.safetensors that is cut off"]),
    "cut in its header": (_cut(SINGLE, 400), "WeightsDamaged", ["is cut off", "its header alone"]),
    "longer than its header says": (
        lambda folder: _write(folder / SINGLE, (folder / SINGLE).read_bytes() + b"more"),
        "WeightsDamaged",
        ["is longer than its header says"],
    ),
    "a page of HTML": (_written(SINGLE, "<!DOCTYPE html><html>404</html>" * 20), "WeightsDamaged", ["no safetensors"]),
    "a pointer of Git LFS": (
        _written(SINGLE, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
        "WeightsDamaged",
        ["pointer of Git LFS", "git lfs pull"],
    ),
    "a header that is no JSON": (_header(b"{broken}"), "WeightsDamaged", ["broken model.safetensors"]),
    "a header that is a list": (_header(b"[1, 2]"), "WeightsDamaged", ["is no JSON object"]),
    "a header nested deep": (_header(b"[" * 100_000), "WeightsDamaged", ["nested too deep"]),
    "a header of bytes": (_header(b"\xff\xfe\x00\x01"), "WeightsDamaged", ["broken model.safetensors"]),
    "a tensor that is no object": (_header(b'{"a": 1}'), "WeightsDamaged", ["broken at the tensor 'a'"]),
    "a shape that its bytes do not fill": (
        _header(b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}', b"\0" * 8),
        "WeightsDamaged",
        ["broken at the tensor 'a'"],
    ),
    "a shape below zero": (
        _header(b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}'),
        "WeightsDamaged",
        ["broken at the tensor 'a'"],
    ),
    "an unknown type of number": (
        _header(b'{"a": {"dtype": "F99", "shape": [], "data_offsets": [0, 4]}}', b"\0" * 4),
        "WeightsDamaged",
        ["broken at the tensor 'a'"],
    ),
    "a tensor named twice": (
        _header(b'{"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}, "a": 1}', b"\0" * 4),
        "WeightsDamaged",
        ["names 'a' twice"],
    ),
    # an index and its shards
    "an index that is no JSON": (
        _then(weights_models.sharded, _written(INDEX, "{")),
        "WeightsDamaged",
        ["broken model.safetensors.index.json"],
    ),
    "an index that is empty": (
        _then(weights_models.sharded, _written(INDEX, "")),
        "WeightsDamaged",
        ["broken model.safetensors.index.json"],
    ),
    "an index without a map": (_index(lambda index: {"metadata": {}}), "WeightsDamaged", ["`weight_map` is not"]),
    "an index with numbers for files": (
        _index(lambda index: {"weight_map": dict.fromkeys(index["weight_map"], 1)}),
        "WeightsDamaged",
        ["`weight_map` is not"],
    ),
    "an index that leads out of the folder": (
        _index(lambda index: {"weight_map": dict.fromkeys(index["weight_map"], "../model.safetensors")}),
        "WeightsMissing",
        ["'../model.safetensors' is missing"],
    ),
    "two shards lost": (
        _then(weights_models.sharded, lambda folder: [file.unlink() for file in sorted(folder.glob("model-*"))[:2]]),
        "WeightsMissing",
        ["2 of 3 shards are missing"],
    ),
    "a tensor in two shards": (_a_tensor_in_two_shards, "WeightsDamaged", ["model-00001-of-00003.safetensors and"]),
    "a shard that is cut off": (
        _then(weights_models.sharded, _cut("model-00002-of-00003.safetensors", -8)),
        "WeightsDamaged",
        ["model-00002-of-00003.safetensors that is cut off"],
    ),
    "a name that is not read": (
        lambda folder: (folder / SINGLE).rename(folder / "model.fp16.safetensors"),
        "WeightsMissing",
        ["model.fp16.safetensors, a name that is not read"],
    ),
    "the first shard alone": (
        lambda folder: (folder / SINGLE).rename(folder / "model-00001-of-00001.safetensors"),
        "WeightsMissing",
        ["1 shard", "no model.safetensors.index.json"],
    ),
    "shards of .bin without index": (
        _then(weights_models.as_sharded_bin, lambda folder: (folder / "pytorch_model.bin.index.json").unlink()),
        "WeightsMissing",
        ["no pytorch_model.bin.index.json"],
    ),
    "a lost shard of .bin": (
        _then(weights_models.as_sharded_bin, lambda folder: (folder / "pytorch_model-00002-of-00002.bin").unlink()),
        "WeightsMissing",
        ["'pytorch_model-00002-of-00002.bin' is missing"],
    ),
    "an empty .bin": (
        _then(weights_models.as_bin, _written("pytorch_model.bin", b"")),
        "WeightsDamaged",
        ["empty pytorch_model.bin"],
    ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("strange") / "model")


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    return weights_models.laid_out(saved, "one file", tmp_path / "model")


@pytest.mark.parametrize(("change", "reason", "words"), DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("scheme", ["file", "s3"])
def test_weights_that_are_not_the_models_are_refused(
    change: Change, reason: str, words: list[str], scheme: str, model: Path, tmp_path: Path
) -> None:
    change(model)
    error = _refusal(model, tmp_path, scheme)
    assert (error.reason, error.field) == (reason, "spec.model.source")
    assert [word for word in words if word not in str(error)] == []


KINDS: dict[str, tuple[Change, str, list[str]]] = {
    "an encoder": (
        _config(model_type="bert", architectures=["BertModel"]),
        "spec.model.source",
        ["is an encoder (bert)"],
    ),
    "an encoder with its head": (
        _config(model_type="roberta", architectures=["RobertaForMaskedLM"]),
        "spec.model.source",
        ["fills in masked tokens (RobertaForMaskedLM)"],
    ),
    "an encoder that has no class for text": (
        _config(model_type="modernbert", architectures=None),
        "spec.model.source",
        ["is an encoder (modernbert)"],
    ),
    "an encoder-decoder": (
        _config(model_type="t5", architectures=["T5ForConditionalGeneration"]),
        "spec.model.source",
        ["is an encoder-decoder model (t5)"],
    ),
    "another encoder-decoder": (
        _config(model_type="bart", architectures=["BartForConditionalGeneration"], is_encoder_decoder=True),
        "spec.model.source",
        ["is an encoder-decoder model (bart)"],
    ),
    "a reward model": (
        _config(architectures=["Qwen2ForSequenceClassification"]),
        "spec.model.source",
        ["a classifier or reward model (Qwen2ForSequenceClassification)"],
    ),
    "an embedding model": (_written("modules.json", "[]"), "spec.model.source", ["is an embedding model"]),
    "no model_type": (_config(model_type=...), "spec.model.source", ["names no model_type"]),
    "a model_type that is a number": (_config(model_type=7), "spec.model.source", ["names no model_type"]),
    "a model_type from the future": (_config(model_type="qwen9"), "spec.model.source", ["'qwen9'", "does not know"]),
    "a config.json that is a list": (_written("config.json", "[]"), "spec.model.source", ["is no JSON object"]),
    "a config.json nested deep": (_written("config.json", "[" * 100_000), "spec.model.source", ["is broken"]),
    "a config.json of bytes": (_written("config.json", b"\xff\xfe{"), "spec.model.source", ["is broken"]),
    "heads that do not divide": (_config(num_attention_heads=0), "spec.model.source", ["model"]),
    "sizes that are words": (_config(hidden_size="many"), "spec.model.source", ["hidden_size"]),
    "sizes below zero": (_config(hidden_size=-32), "spec.model.source", ["model"]),
    "an activation that does not exist": (_config(hidden_act="gelo"), "spec.model.source", ["gelo"]),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        "spec.model.source",
        ["has no vocabulary: upload tokenizer.json"],
    ),
    "a broken tokenizer": (_written("tokenizer.json", "{"), "spec.model.source", ["no tokenizer that can be loaded"]),
    "a tokenizer of another form": (_written("tokenizer.json", "[]"), "spec.model.source", ["no tokenizer"]),
    **{
        f"quantised by {method}": (
            _config(quantization_config={"quant_method": method, "bits": 4, "group_size": 32}),
            "spec.model.source",
            [f"quantised by {method}", "unquantised version"],
        )
        for method in ("gptq", "awq", "hqq", "aqlm", "eetq", "quark", "compressed-tensors", "vptq", "torchao")
    },
    "quantised by something unknown": (
        _config(quantization_config={"quant_method": "zip"}),
        "spec.model.source",
        ["quantised by 'zip'", "cannot read"],
    ),
}


@pytest.mark.parametrize(("change", "field", "words"), KINDS.values(), ids=KINDS)
def test_what_is_no_causal_language_model_is_refused(
    change: Change, field: str, words: list[str], model: Path, tmp_path: Path
) -> None:
    change(model)
    error = _refusal(model, tmp_path, "file")
    assert error.field == field
    assert [word for word in words if word not in str(error)] == []


UNREAD_AND_HARMLESS: dict[str, Change] = {
    "a buffer that is computed today": _with(model__layers__0__self_attn__rotary_emb__inv_freq=torch.zeros(4)),
    "a mask of older versions": _with(model__layers__0__self_attn__masked_bias=torch.zeros(())),
    "the head of a reward model": _with(v_head__summary__weight=torch.zeros(1, 32), score__weight=torch.zeros(1, 32)),
    "heads that draft tokens": _with(mtp__layers__0__proj__weight=torch.zeros(2, 2)),
}


@pytest.mark.parametrize("change", UNREAD_AND_HARMLESS.values(), ids=UNREAD_AND_HARMLESS)
def test_weights_of_no_use_are_named_once_at_most(change: Change, model: Path, tmp_path: Path) -> None:
    change(model)
    lines: list[str] = []
    _prepare(model, tmp_path, "file", lines.append)
    load_weights(ModelFiles(model, None, trust_remote_code=False), torch.float32, source="it", report=lines.append)
    named = [line for line in lines if "no use for" in line]
    assert len(named) in {0, 2}  # by the preparation and by the training


@pytest.mark.parametrize("data", [pickle.dumps({"a": _Code()}, protocol=2), b"not a pickle", b"PK\x03\x04cut"], ids=len)
def test_a_bin_file_is_read_as_tensors_only(data: bytes, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights_models.as_bin(model)
    (model / "pytorch_model.bin").write_bytes(data)
    with pytest.raises(ConfigurationError) as refused:
        load_weights(ModelFiles(model, None, trust_remote_code=False), torch.float32, source="it")
    assert refused.value.reason in {"UnsafeWeights", "ModelNotLoadable"}
    assert "this ran" not in capfd.readouterr().out


def test_a_bin_file_with_code_among_its_tensors(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights_models.as_bin(model)
    tensors = torch.load(model / "pytorch_model.bin", weights_only=True)
    torch.save({**tensors, "more": _Code()}, model / "pytorch_model.bin")
    with pytest.raises(ConfigurationError, match="which would run as code"):
        load_weights(ModelFiles(model, None, trust_remote_code=False), torch.float32, source="it")
    assert "this ran" not in capfd.readouterr().out


@pytest.mark.parametrize("part", ["layers.1.", "embed_tokens", "norm.weight"])
def test_a_bin_file_that_lacks_weights_is_refused_when_it_is_loaded(part: str, model: Path) -> None:
    _without(part)(model)
    weights_models.as_bin(model)
    with pytest.raises(ConfigurationError, match="missing") as refused:
        load_weights(ModelFiles(model, None, trust_remote_code=False), torch.float32, source="it")
    assert refused.value.reason == "WeightsDoNotFit"


def _prepare(model: Path, root: Path, scheme: str, report: Callable[[str], None] = lambda line: None) -> None:
    storage = FolderStorage(root / "s3")
    if scheme == "s3":
        (root / "s3" / "bucket").mkdir(parents=True)
        model.rename(root / "s3" / "bucket" / "model")
    source: str | Path = "s3://bucket/model" if scheme == "s3" else model
    job = make_job({"dataset": {"splitFraction": 0}}, model=source, train=write_rows(root / "rows.jsonl"))
    preparation.run(job, storage, root / "scratch", report)


def _refusal(model: Path, root: Path, scheme: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as refused:
        _prepare(model, root, scheme)
    return refused.value
