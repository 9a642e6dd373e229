"""What a model answers: by greedy decoding, so that the same question gets the same answer again."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from finetune_trainer.rank import heartbeat

_OF_THE_MODEL = (
    "eos_token_id", "bos_token_id", "stop_strings", "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids",
    "suppress_tokens", "begin_suppress_tokens",
)  # fmt: skip
"""What an answer takes from the model's own generation_config: where it ends, and what it must not say. The rest says
how to sample, or asks for more than an answer."""


def greedy(
    model: Any, tokenizer: Any, prompts: Sequence[str], *, max_new_tokens: int, synced_gpus: bool = False
) -> tuple[str, ...]:
    """The answers to all prompts at once, in their order. Each ends at a token of the model's `generation_config`.

    Args:
        model: in eval mode, not wrapped for several processes.
        prompts: rendered by the chat template, generation prompt included.
        synced_gpus: each rank continues until all have ended, as ZeRO-3 requires.
    """
    encoded = tokenizer(
        list(prompts), add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
    ).to(model.device)
    with _answering(model, tokenizer, max_new_tokens):
        generated = model.generate(
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            tokenizer=tokenizer,
            logits_processor=[_beat],
            synced_gpus=synced_gpus,
        )
    new = generated[:, encoded["input_ids"].shape[1] :]
    return tuple(text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True))


@contextmanager
def _answering(model: Any, tokenizer: Any, max_new_tokens: int) -> Iterator[None]:
    """The model's generation_config, as far as it concerns an answer. It is replaced and not passed: whatever is passed
    is completed from the model's own."""
    from transformers import GenerationConfig

    owner = model.get_base_model() if hasattr(model, "peft_config") else model
    own = owner.generation_config
    owner.generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        **{name: getattr(own, name) for name in _OF_THE_MODEL},
    )
    try:
        yield
    finally:
        owner.generation_config = own


def _beat(ids: Any, scores: Any) -> Any:
    """A token is a sign of life."""
    heartbeat.beat()
    return scores
