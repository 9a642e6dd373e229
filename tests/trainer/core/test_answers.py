"""Answers end where a turn ends, and do not depend on the other questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

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


def ask(
    tiny: tuple[Any, Any], prompts: list[str], ends: int | list[int], max_new_tokens: int = 8, **more: Any
) -> tuple[str, ...]:
    """With a generation_config that says where an answer ends, and `more`."""
    model, tokenizer = tiny
    model.generation_config = GenerationConfig(eos_token_id=ends, **more)
    return answers.greedy(model, tokenizer, prompts, max_new_tokens=max_new_tokens)


def test_an_answer_ends_at_a_token_of_the_generation_config(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    [long] = ask(tiny, PROMPTS[:1], tokenizer.eos_token_id)
    encoded = tokenizer(PROMPTS[0], add_special_tokens=False, return_tensors="pt")
    first = int(model(**encoded).logits[0, -1].argmax())
    [cut] = ask(tiny, PROMPTS[:1], [tokenizer.eos_token_id, first])
    assert cut == tokenizer.decode([first], skip_special_tokens=True).strip()
    assert long.startswith(cut)
    assert len(long) > len(cut) > 0


def test_prompts_of_different_length_are_answered_as_if_each_were_alone(tiny: tuple[Any, Any]) -> None:
    eos = tiny[1].eos_token_id
    together = ask(tiny, PROMPTS, eos)
    assert together == tuple(ask(tiny, [prompt], eos)[0] for prompt in PROMPTS)
    assert together[0] != together[1]


@pytest.mark.parametrize(
    "own",
    [
        pytest.param({"do_sample": True, "temperature": 5.0, "num_return_sequences": 3}, id="samples three answers"),
        pytest.param({"return_dict_in_generate": True, "output_scores": True}, id="returns more than tokens"),
        pytest.param({"num_beams": 4, "early_stopping": True}, id="searches"),
        pytest.param({"prompt_lookup_num_tokens": 3}, id="assists one prompt at a time"),
        pytest.param({"stop_strings": ["no such text"]}, id="stops at texts"),
    ],
)
def test_what_a_model_says_about_sampling_does_not_change_its_answer(
    tiny: tuple[Any, Any], own: dict[str, Any]
) -> None:
    eos = tiny[1].eos_token_id
    assert ask(tiny, PROMPTS, eos, **own) == ask(tiny, PROMPTS, eos)
    assert tiny[0].generation_config.eos_token_id == eos
