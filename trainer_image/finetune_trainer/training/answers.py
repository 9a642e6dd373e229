"""What a model answers: by greedy decoding, so that the same question gets the same answer again."""

from collections.abc import Sequence
from typing import Any

from finetune_trainer.rank import heartbeat


def greedy(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    end_of_turn: int,
    max_new_tokens: int,
    synced_gpus: bool = False,
) -> tuple[str, ...]:
    """The answers to all prompts at once, in their order.

    Args:
        model: in eval mode, not wrapped for several processes.
        prompts: rendered by the chat template, generation prompt included.
        end_of_turn: the token that ends an answer; the tokenizer's end of text ends it as well.
        synced_gpus: each rank continues until all have ended, as ZeRO-3 requires.
    """
    from transformers import GenerationConfig

    encoded = tokenizer(
        list(prompts), add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
    ).to(model.device)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=sorted({end_of_turn, tokenizer.eos_token_id}),
    )
    generated = model.generate(
        input_ids=encoded["input_ids"],
        attention_mask=encoded["attention_mask"],
        generation_config=config,
        logits_processor=[_beat],
        synced_gpus=synced_gpus,
    )
    new = generated[:, encoded["input_ids"].shape[1] :]
    return tuple(text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True))


def _beat(ids: Any, scores: Any) -> Any:
    """A token is a sign of life."""
    heartbeat.beat()
    return scores
