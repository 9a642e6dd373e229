"""A tiny random model of every architecture that docs and tests name, and the layouts in which people save one."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.trainer.models import tiny_tokenizer

_VOCABULARY = 400
_SIZES: Mapping[str, Any] = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_MOE = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
_DEEPSEEK = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
}


def _of(name: str, **changes: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, name)(**{**_SIZES, **changes})


def _gemma3_with_vision() -> Any:
    text = {**_SIZES, "query_pre_attn_scalar": 8, "sliding_window": 64}
    return transformers.Gemma3Config(
        text_config=text,
        vision_config=_VISION,
        mm_tokens_per_image=4,
        image_token_index=5,
        boi_token_index=6,
        eoi_token_index=7,
    )


ARCHITECTURES: Mapping[str, Callable[[], Any]] = {
    "llama": _of("LlamaConfig"),
    "llama, tied": _of("LlamaConfig", tie_word_embeddings=True),
    "mistral": _of("MistralConfig"),
    "qwen2": _of("Qwen2Config", tie_word_embeddings=True),
    "qwen3": _of("Qwen3Config", tie_word_embeddings=True),
    "qwen3_moe": _of("Qwen3MoeConfig", **_MOE),
    "mixtral": _of("MixtralConfig", num_local_experts=4, num_experts_per_tok=2),
    "gemma2": _of("Gemma2Config", query_pre_attn_scalar=8, sliding_window=64),
    "gemma3 of text": _of("Gemma3TextConfig", query_pre_attn_scalar=8, sliding_window=64),
    "gemma3 with vision": _gemma3_with_vision,
    "phi3": _of("Phi3Config"),
    "gpt_oss": _of("GptOssConfig", num_local_experts=4, num_experts_per_tok=2),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=_VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=512, bos_token_id=None, eos_token_id=2
    ),
    "opt": lambda: transformers.OPTConfig(
        vocab_size=_VOCABULARY,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    ),
    "gpt_neox": _of("GPTNeoXConfig"),
    "olmo2": _of("Olmo2Config"),
    "granite": _of("GraniteConfig"),
    "smollm3": _of("SmolLM3Config"),
    "deepseek_v3": _of("DeepseekV3Config", **_DEEPSEEK),
    "falcon": lambda: transformers.FalconConfig(
        vocab_size=_VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=None,
        eos_token_id=2,
    ),
    "bloom": lambda: transformers.BloomConfig(
        vocab_size=_VOCABULARY, hidden_size=32, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=2
    ),
}


def save(architecture: str, folder: Path) -> Path:
    """One .safetensors file, as `save_pretrained` writes it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(ARCHITECTURES[architecture](), dtype=torch.float32)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


# --- layouts: each makes its folder from one that `save` made ---------------------------------------------------------
def sharded(folder: Path) -> None:
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).save_pretrained(folder, max_shard_size="60KB")
    (folder / "model.safetensors").unlink()


def as_bin(folder: Path) -> None:
    file = folder / "model.safetensors"
    torch.save(load_file(file), folder / "pytorch_model.bin")
    file.unlink()


def as_sharded_bin(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    names = sorted(tensors)
    parts = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for part, held in parts.items():
        torch.save({name: tensors[name] for name in held}, folder / part)
    weight_map = {name: part for part, held in parts.items() for name in held}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    file.unlink()


def with_the_tied_head(folder: Path) -> None:
    """The head saved beside the embeddings, though they are one."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is embeddings.weight:
        name = next(name for name, module in model.named_modules() if module is head)
        rewrite(folder, lambda tensors: {**tensors, f"{name}.weight": embeddings.weight.detach().clone()})


def without_the_prefix(folder: Path) -> None:
    """As a base model saves itself, without a head: transformers adds the prefix, where the head is tied."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is embeddings.weight:
        model.base_model.save_pretrained(folder)


LAYOUTS: Mapping[str, Callable[[Path], None]] = {
    "one file": lambda folder: None,
    "shards": sharded,
    "a .bin file": as_bin,
    "shards of .bin": as_sharded_bin,
    "with the tied head": with_the_tied_head,
    "without the prefix": without_the_prefix,
}


def laid_out(saved: Path, layout: str, folder: Path) -> Path:
    shutil.copytree(saved, folder)
    LAYOUTS[layout](folder)
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Changes the tensors of the one .safetensors file."""
    from safetensors.torch import save_file

    file = folder / "model.safetensors"
    changed = change(load_file(file))
    file.unlink()
    save_file({name: tensor.contiguous() for name, tensor in changed.items()}, file, metadata={"format": "pt"})
