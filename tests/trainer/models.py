"""Tiny models with a tokenizer of their own, built in a second: real architectures, nothing downloaded."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

from finetune_trainer.prepare.templates import CHATML

SENTENCES = (
    "How long does a building permit take? The usual time is ten weeks, and twenty for a complex case.",
    "What does an architect do? An architect draws plans, asks for permits and looks after the work.",
    "Is a loft conversion allowed? Ask the municipality first: the roof may not become higher.",
    "You are a helpful assistant. Human: Assistant: ### Instruction: ### Response: system user assistant",
)


def tiny_tokenizer(
    *, chat_template: str | None = CHATML, sentences: Sequence[str] = SENTENCES
) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 400 tokens with ChatML's own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = chat_template
    return fast


def save_tiny_model(
    folder: Path, *, kind: str = "qwen2", layers: int = 2, hidden: int = 32, chat_template: str | None = CHATML
) -> Path:
    """A model folder as a user would upload it: config, weights, tokenizer. Always the same weights."""
    tokenizer = tiny_tokenizer(chat_template=chat_template)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": hidden * 2,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if kind == "qwen2":
        config: Qwen2Config | LlamaConfig = Qwen2Config(**sizes, tie_word_embeddings=True)
    else:
        config = LlamaConfig(**sizes, tie_word_embeddings=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
