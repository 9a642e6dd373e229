"""Answers end where a turn ends, and do not depend on the other questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_trainer.training import answers
from tests.trainer.models import save_tiny_model

PROMPTS = ["<|im_start|>user\nWhat comes after 7?<|im_end|>\n<|im_start|>assistant\n", "Short"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder: Path = save_tiny_model(tmp_path_factory.mktemp("tiny"))
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)  # as initialised it says the same blank to everything
    return model, AutoTokenizer.from_pretrained(folder)


def ask(tiny: tuple[Any, Any], prompts: list[str], end_of_turn: int, max_new_tokens: int = 8) -> tuple[str, ...]:
    return answers.greedy(*tiny, prompts, end_of_turn=end_of_turn, max_new_tokens=max_new_tokens)


def test_an_answer_ends_at_the_templates_own_token(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    [long] = ask(tiny, PROMPTS[:1], tokenizer.eos_token_id)
    encoded = tokenizer(PROMPTS[0], add_special_tokens=False, return_tensors="pt")
    first = int(model(**encoded).logits[0, -1].argmax())
    [cut] = ask(tiny, PROMPTS[:1], end_of_turn=first)
    assert cut == tokenizer.decode([first], skip_special_tokens=True).strip()
    assert long.startswith(cut)
    assert len(long) > len(cut) > 0


def test_prompts_of_different_length_are_answered_as_if_each_were_alone(tiny: tuple[Any, Any]) -> None:
    eos = tiny[1].eos_token_id
    together = ask(tiny, PROMPTS, eos)
    assert together == tuple(ask(tiny, [prompt], eos)[0] for prompt in PROMPTS)
    assert together[0] != together[1]
