"""A .gguf file is parsed once for all that is loaded from it, and what is loaded is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig

from finetune_trainer.model.gguf_parsing import parsed_once
from finetune_trainer.model.source import ModelFiles

WIDTH, LAYERS, HEADS, VOCABULARY = 32, 2, 4, 64
PLAIN = {"dtype": torch.float32, "quantization_config": GgufConfig(dequantize=True)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    """A Llama of random weights, as llama.cpp writes it."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
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
    for name, shape in _shapes().items():
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
