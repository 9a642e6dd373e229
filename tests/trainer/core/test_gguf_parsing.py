"""A .gguf file is parsed once for all that is loaded from it, and what is loaded is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model import architecture, gguf_parsing, weights
from finetune_trainer.model.gguf_parsing import parsed_once
from finetune_trainer.model.loading import load_weights
from finetune_trainer.model.source import ModelFiles

WIDTH, LAYERS, HEADS, VOCABULARY = 32, 2, 4, 64
PLAIN = {"dtype": torch.float32, "quantization_config": GgufConfig(dequantize=True)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    """A Llama of random weights, as llama.cpp writes it."""
    return _written(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def _written(path: Path, *, without: str = "", more: tuple[str, ...] = ()) -> ModelFiles:
    """Args: without and more are names of tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{index}" for index in range(VOCABULARY)])
    generator = torch.Generator().manual_seed(0)
    named = {name: shape for name, shape in _shapes().items() if name != without}
    for name, shape in {**named, **dict.fromkeys(more, (WIDTH,))}.items():
        writer.add_tensor(name, torch.randn(shape, generator=generator).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return ModelFiles(path.parent, path.name, trust_remote_code=False)


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (VOCABULARY, WIDTH), "output_norm.weight": (WIDTH,)}
    shapes["output.weight"] = (VOCABULARY, WIDTH)
    for layer in range(LAYERS):
        block = {f"attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
        block |= {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,), "ffn_down": (WIDTH, 2 * WIDTH)}  # type: ignore[dict-item]
        block |= {"ffn_gate": (2 * WIDTH, WIDTH), "ffn_up": (2 * WIDTH, WIDTH)}
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return shapes


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths in the order in which they are parsed."""
    seen: list[str] = []
    original = gguf.GGUFReader.__init__

    def spy(self: Any, path: Path | str, *args: Any) -> None:
        seen.append(str(path))
        original(self, path, *args)

    monkeypatch.setattr(gguf.GGUFReader, "__init__", spy)
    return seen


def load(files: ModelFiles) -> dict[str, torch.Tensor]:
    AutoConfig.from_pretrained(**files.from_pretrained)
    model = AutoModelForCausalLM.from_pretrained(**files.from_pretrained, **PLAIN)
    return dict(model.state_dict())


def test_configuration_and_weights_share_one_parse_and_are_what_they_were(files: ModelFiles, parses: list[str]) -> None:
    want = load(files)
    assert len(parses) > 1, "transformers parses once by itself: parsed_once may go"
    parses.clear()
    with parsed_once(files):
        got = load(files)
    assert len(parses) == 1
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_afterwards_a_file_is_parsed_again(files: ModelFiles, parses: list[str]) -> None:
    for _ in range(2):
        with parsed_once(files):
            AutoConfig.from_pretrained(**files.from_pretrained)
    assert len(parses) == 2


def test_a_folder_needs_no_gguf(parses: list[str], tmp_path: Path) -> None:
    reader = gguf.GGUFReader
    with parsed_once(ModelFiles(tmp_path, None, trust_remote_code=False)):
        assert gguf.GGUFReader is reader


def _compared(files: ModelFiles) -> weights.Difference:
    """As the preparation does."""
    shapes = gguf_parsing.read_shapes(files, "it")
    config = architecture.load_causal_config(files, "it")
    model = architecture.build_on_meta_device(config, "it", trust_remote_code=False)
    difference = gguf_parsing.compare(files, model, shapes)
    assert difference is not None
    weights.check(difference, model, "it")
    return difference


def test_names_and_shapes_are_compared_without_the_weights(files: ModelFiles) -> None:
    assert _compared(files) == weights.Difference(frozenset(), frozenset(), {})


def test_factors_of_the_positions_are_no_weights(tmp_path: Path) -> None:
    _compared(_written(tmp_path / "more.gguf", more=("rope_freqs.weight",)))


@pytest.mark.parametrize("lost", ["blk.1.ffn_up.weight", "token_embd.weight", "blk.0.attn_norm.weight"])
def test_a_tensor_that_is_not_in_the_file(lost: str, tmp_path: Path) -> None:
    files = _written(tmp_path / "less.gguf", without=lost)
    with pytest.raises(ConfigurationError, match="1 is missing") as before:
        _compared(files)
    with pytest.raises(ConfigurationError) as loading:
        load_weights(files, torch.float32, source="it")
    assert before.value.reason == loading.value.reason == "WeightsDoNotFit"


@pytest.mark.parametrize("size", [0, 3, 20, 200, -1, -5000])
def test_a_file_that_is_cut_off(size: int, files: ModelFiles, tmp_path: Path) -> None:
    whole = (files.folder / str(files.gguf)).read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:size])
    with pytest.raises(ConfigurationError) as refused:
        _compared(ModelFiles(tmp_path, "cut.gguf", trust_remote_code=False))
    assert (refused.value.reason, refused.value.field) == ("WeightsDamaged", "spec.model.source")


def test_a_file_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_text("<html>404</html>" * 100)
    with pytest.raises(ConfigurationError, match="cannot be read as GGUF"):
        _compared(ModelFiles(tmp_path, "page.gguf", trust_remote_code=False))
