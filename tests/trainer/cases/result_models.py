"""Tiny bases that stop in ways of their own. Each function fills a folder and returns it."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from tests.trainer.models import save_tiny_model, tiny_tokenizer

LLAMA3_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")


def edit(file: Path, **changes: Any) -> None:
    """None removes a key."""
    document = json.loads(file.read_text()) if file.exists() else {}
    document = {name: value for name, value in {**document, **changes}.items() if value is not None}
    file.write_text(json.dumps(document))


def base(folder: Path, *, own: dict[str, Any] | str | None, config: dict[str, Any] | None = None) -> Path:
    """Its end of text is <|endoftext|>, ChatML's tokens are in its vocabulary.

    Args:
        own: its generation_config.json, as an object or as text; None: it has none.
        config: over its config.json.
    """
    save_tiny_model(folder, chat_template=None)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(folder)
    edit(folder / "config.json", **{"eos_token_id": tokenizer.eos_token_id, **(config or {})})
    file = folder / "generation_config.json"
    file.unlink(missing_ok=True)
    if own is not None:
        file.write_text(own if isinstance(own, str) else json.dumps(own))
    return folder


def llama3(folder: Path) -> Path:
    """In the manner of Llama 3's base: `<|end_of_text|>` ends a text, the tokenizer puts `<|begin_of_text|>` first."""
    tokenizer = tiny_tokenizer(chat_template=None)
    tokenizer.add_special_tokens({"additional_special_tokens": list(LLAMA3_TOKENS)})
    tokenizer.bos_token, tokenizer.eos_token = "<|begin_of_text|>", "<|end_of_text|>"
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A",
                pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                special_tokens=[("<|begin_of_text|>", bos)],
            ),
        ]
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=bos,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
