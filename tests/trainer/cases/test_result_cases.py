"""What is published stops where an answer ends, and can be saved whatever the base says about generation."""

import json
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tests.trainer.cases import result_models
from tests.trainer.cases.trying import INPUTS, Bench, Try

CHATML = {"template": "chatml"}
LORA = {"type": "lora", "lora": {"rank": 16, "alpha": 32}}
LONG = {"epochs": 40, "learningRate": 1e-2}
QUESTIONS = ("Who opens the gate?", "When is lunch?", "Who locks up?")


def published(attempt: Try) -> Path:
    """Trained and published, downloaded."""
    assert attempt.prepare().code == 0, attempt.prepared
    ended = attempt.train()
    assert (ended.code, ended.crashed) == (0, False), ended.log[-3000:]
    return attempt.download()


def stops(folder: Path) -> list[int]:
    ids = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    return ids if isinstance(ids, list) else [ids]


def answers(model: Any, folder: Path) -> list[list[int]]:
    """By `generate()` as a person calls it, with nothing but the published files; new tokens only."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        encoded = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**encoded, max_new_tokens=60, do_sample=False)
        found.append(output[0, encoded["input_ids"].shape[1] :].tolist())
    return found


@pytest.mark.parametrize("method", [pytest.param({"type": "full"}, id="full"), pytest.param(LORA, id="lora")])
def test_a_base_model_trained_with_chatml_stops_at_its_end_of_turn(method: dict[str, Any], bench: Bench) -> None:
    """30-chatml-on-base."""
    rows = INPUTS / "30-chatml-on-base" / "rows.jsonl"
    attempt = bench.of(rows, {"dataset": CHATML, "method": method, "training": LONG}, model="base")
    folder = published(attempt)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end, text = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert stops(folder) == [end, text]
    assert tokenizer.eos_token == "<|im_end|>"
    if method["type"] == "full":
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert model.config.eos_token_id == [end, text]
    else:
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(attempt.model), folder)
        model.generation_config = GenerationConfig.from_pretrained(folder)
    for answer in answers(model.eval(), folder):
        assert answer[-1] == end
        assert answer.count(end) == 1
        assert len(answer) < 60


def test_llama_3_with_its_template_stops_at_eot_and_begins_once(bench: Bench, tmp_path: Path) -> None:
    """As a sibling of 30 and 52: an end of turn beside an end of text, and a BOS that the tokenizer adds as well."""
    rows = INPUTS / "30-chatml-on-base" / "rows.jsonl"
    model = result_models.llama3(tmp_path / "llama3")
    folder = published(bench.of(rows, {"dataset": {"template": "llama3"}}, model=model))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    eot, text, bos = tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<|end_of_text|>", "<|begin_of_text|>"])
    assert stops(folder) == [eot, text]
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    for add_special_tokens in (True, False):
        ids = tokenizer(rendered, add_special_tokens=add_special_tokens)["input_ids"]
        assert (ids[0], ids.count(bos)) == (bos, 1)
    assert json.loads((folder / "tokenizer_config.json").read_text())["add_bos_token"] is False


def test_a_served_conversation_begins_as_the_rows_did(bench: Bench) -> None:
    """52-no-bos, the published files: one BOS, in training and whichever way a server tokenises."""
    attempt = bench.case("52-no-bos")
    folder = published(attempt)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    trained = attempt.rows().train[0].ids.tolist().count(tokenizer.bos_token_id)
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    served = [
        tokenizer(rendered, add_special_tokens=flag)["input_ids"].count(tokenizer.bos_token_id)
        for flag in (True, False)
    ]
    assert [trained, *served] == [1, 1, 1]


@pytest.mark.parametrize("method", [pytest.param({"type": "full"}, id="full"), pytest.param(LORA, id="lora")])
def test_a_generation_config_that_cannot_be_saved_is_made_savable_before_training(
    method: dict[str, Any], bench: Bench
) -> None:
    """41-generation-config; a checkpoint in the middle is saved too."""
    rows = INPUTS / "41-generation-config" / "rows.jsonl"
    attempt = bench.of(rows, {"method": method, "checkpoint": {"everySteps": 1}}, model="gencfg")
    prepared = attempt.prepare()
    said = "do_sample becomes true, because generation_config.json sets temperature, top_p"
    assert prepared.log.count(said) == 1
    folder = published(attempt)
    document = json.loads((folder / "generation_config.json").read_text())
    assert (document["do_sample"], document["temperature"], document["top_p"]) == (True, 0.9, 0.6)


@pytest.mark.parametrize(
    ("own", "config"),
    [
        pytest.param({"num_return_sequences": 3}, {}, id="three greedy answers"),
        pytest.param({"max_new_tokens": "many"}, {}, id="a number as text"),
        pytest.param(None, {"top_p": 0.5, "temperature": 0.3}, id="sampling in config.json"),
        pytest.param(None, {"num_return_sequences": 3}, id="three greedy answers in config.json"),
    ],
)
def test_what_transformers_would_refuse_does_not_end_a_training(
    own: dict[str, Any] | None, config: dict[str, Any], bench: Bench, tmp_path: Path
) -> None:
    """Siblings of 41: each of these fails at loading or at the first save when it is left as it is."""
    model = result_models.base(tmp_path / "base", own=own, config=config)
    rows = INPUTS / "30-chatml-on-base" / "rows.jsonl"
    spec = {"dataset": CHATML, "method": {"type": "full"}, "training": {"maxSteps": 1}}
    folder = published(bench.of(rows, spec, model=model))
    assert stops(folder) == [2, 0]
    AutoModelForCausalLM.from_pretrained(folder).generation_config.save_pretrained(tmp_path / "again")
