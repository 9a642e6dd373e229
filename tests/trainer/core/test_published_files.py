"""generation_config and tokenizer as they are published: what of a stranger's file is taken, where generation stops."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from dev.kit.chat_tokenizers import chat_tokenizer
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model import generation, tokenizer
from finetune_trainer.model.source import ModelFiles
from tests.trainer.cases import result_models
from tests.trainer.models import tiny_tokenizer

ENDOFTEXT, IM_START, IM_END = 0, 1, 2


def taken(folder: Path, own: Any, config: Any = None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What is taken of a generation_config.json (and a config.json), by what is saved."""
    if own is not None:
        (folder / "generation_config.json").write_text(own if isinstance(own, str) else json.dumps(own))
    (folder / "config.json").write_text(json.dumps(config or {}))
    found = generation.of_base(ModelFiles(folder, None, trust_remote_code=False))
    found.config.save_pretrained(folder / "saved")
    saved = json.loads((folder / "saved" / "generation_config.json").read_text())
    return {name: value for name, value in saved.items() if name != "transformers_version"}, found.changes


@pytest.mark.parametrize(
    ("own", "want"),
    [
        pytest.param({"temperature": 0.9, "top_p": 0.6}, {"do_sample": True}, id="sampling values are meant"),
        pytest.param(
            {"temperature": 2, "do_sample": True}, {"temperature": 2.0}, id="a whole temperature is a fraction"
        ),
        pytest.param({"temperature": 0, "top_k": 5}, {"do_sample": False, "top_k": None}, id="temperature 0 is greedy"),
        pytest.param({"do_sample": False, "top_p": 0.6}, {"top_p": None}, id="do_sample false is meant"),
        pytest.param({"num_return_sequences": 3}, {"num_return_sequences": None}, id="three greedy answers"),
        pytest.param({"top_p": 1.5, "do_sample": True}, {"top_p": None}, id="top_p above 1"),
        pytest.param({"temperature": "0.7", "do_sample": True}, {"temperature": None}, id="a number as text"),
        pytest.param({"do_sample": "yes", "top_p": 0.5}, {"do_sample": None, "top_p": None}, id="a flag as text"),
        pytest.param({"max_new_tokens": -1}, {"max_new_tokens": None}, id="a negative length"),
        pytest.param({"eos_token_id": [2, "x"]}, {"eos_token_id": None}, id="a token as text"),
        pytest.param({"early_stopping": True}, {"early_stopping": None}, id="beams without beams"),
        pytest.param({"cache_implementation": "odd"}, {"cache_implementation": None}, id="an unknown cache"),
        pytest.param({"streamer": 1}, {"streamer": None}, id="an argument of generate()"),
        pytest.param({"validate": 1}, {"validate": None}, id="a method of the library"),
    ],
)
def test_a_value_that_transformers_refuses_is_left_out_and_said(own: Any, want: dict[str, Any], tmp_path: Path) -> None:
    saved, changes = taken(tmp_path, {**own, "eos_token_id": own.get("eos_token_id", 2), "top_h": None})
    assert {name: saved.get(name) for name in want} == want
    said = " ".join(changes)
    assert all(name in said for name, value in want.items() if value is None and name in own and name != "top_k")


@pytest.mark.parametrize(
    "own",
    [
        pytest.param(
            {"eos_token_id": [2, 0], "do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}, id="qwen"
        ),
        pytest.param({"eos_token_id": 2, "num_beams": 4, "early_stopping": True, "length_penalty": 2.0}, id="beams"),
        pytest.param(
            {"eos_token_id": 2, "chat_format": "chatml", "stop_words_ids": [[1]]}, id="values of its own code"
        ),
        pytest.param({"return_dict_in_generate": True, "output_scores": True}, id="scores"),
    ],
)
def test_a_file_that_is_right_stays_as_it_is(own: dict[str, Any], tmp_path: Path) -> None:
    assert taken(tmp_path, own) == (own, ())


def test_without_a_file_the_values_of_config_json_are_taken(tmp_path: Path) -> None:
    config = {"eos_token_id": 2, "hidden_size": 4, "text_config": {"top_k": 7, "eos_token_id": 5}}
    saved, changes = taken(tmp_path, None, config)
    assert saved == {"eos_token_id": 2, "top_k": 7, "do_sample": True}
    assert changes == ("do_sample becomes true, because config.json sets top_k",)


@pytest.mark.parametrize("text", [pytest.param("{", id="no JSON"), pytest.param("[1]", id="no object")])
def test_a_broken_file_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"generation_config\.json of the model is not a JSON object"):
        taken(tmp_path, text, {"eos_token_id": 2})


# --- where generation stops ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("own", "config", "end_of_turn", "want"),
    [
        pytest.param({"eos_token_id": 0}, {}, IM_END, [IM_END, ENDOFTEXT], id="one of its own"),
        pytest.param({"eos_token_id": [0, 7]}, {}, IM_END, [IM_END, ENDOFTEXT, 7], id="several of its own"),
        pytest.param({"eos_token_id": [0, 2]}, {}, IM_END, [IM_END, ENDOFTEXT], id="already among them, but not first"),
        pytest.param(None, {"eos_token_id": [0, 9]}, IM_END, [IM_END, ENDOFTEXT, 9], id="only config.json has one"),
        pytest.param({"top_k": 3}, {"eos_token_id": 9}, IM_END, [IM_END, 9, ENDOFTEXT], id="its file has none"),
        pytest.param({"eos_token_id": "<|im_end|>"}, {}, IM_END, [IM_END, ENDOFTEXT], id="not a token"),
        pytest.param({"eos_token_id": 0}, {}, ENDOFTEXT, ENDOFTEXT, id="the template ends with the end of text"),
    ],
)
def test_the_end_of_turn_comes_first_and_the_bases_own_stay(
    own: Any, config: dict[str, Any], end_of_turn: int, want: Any, tmp_path: Path
) -> None:
    folder = result_models.base(tmp_path / "base", own=own, config=config)
    files = ModelFiles(folder, None, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    generation.settle(model, files, AutoTokenizer.from_pretrained(folder), end_of_turn)
    generation.check_savable(model, "the model", tmp_path / "saved")
    assert GenerationConfig.from_pretrained(tmp_path / "saved").eos_token_id == want
    assert AutoConfig.from_pretrained(tmp_path / "saved").eos_token_id == want


def test_a_configuration_that_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    folder = result_models.base(tmp_path / "base", own=None)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    model.config.top_p = 0.5
    with pytest.raises(
        ConfigurationError, match="cannot save the configuration of s3://b/m: Some generation"
    ) as refused:
        generation.check_savable(model, "s3://b/m", tmp_path / "saved")
    assert refused.value.field == "spec.model.source"


# --- the tokenizer ---------------------------------------------------------------------------------------------------
def reloaded(changed: Any, folder: Path) -> Any:
    changed.save_pretrained(folder)
    tokenizer.note_options(changed, folder)
    return AutoTokenizer.from_pretrained(folder)


def base_tokenizer(*, adds: str = "", bos: str | None = None) -> Any:
    made = tiny_tokenizer(chat_template=None)
    made.eos_token, made.bos_token = "<|endoftext|>", bos
    if adds:
        special = [("<|im_start|>", IM_START), ("<|endoftext|>", ENDOFTEXT)]
        template = processors.TemplateProcessing(single=adds, pair=f"{adds} $B:1", special_tokens=special)
        made.backend_tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), template])
    return made


@pytest.mark.parametrize(
    ("adds", "first_token", "want"),
    [
        pytest.param("<|im_start|> $A", IM_START, [90], id="the template writes BOS, so the tokenizer does not"),
        pytest.param("<|im_start|> $A", 90, [IM_START, 90], id="the template writes none, so the tokenizer stays"),
        pytest.param("<|im_start|> $A <|endoftext|>", IM_START, [90], id="an end is never added"),
        pytest.param("", IM_START, [90], id="it never added one"),
    ],
)
def test_a_rendered_conversation_has_one_bos_with_special_tokens_or_without(
    adds: str, first_token: int, want: list[int], tmp_path: Path
) -> None:
    made = base_tokenizer(adds=adds, bos="<|im_start|>")
    tokenizer.settle(made, "any", end_of_turn=IM_END, first_token=first_token)
    again = reloaded(made, tmp_path)
    assert again("x")["input_ids"] == want
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config.get("add_bos_token", True) is (IM_START in want)


def test_texts_are_split_as_before(tmp_path: Path) -> None:
    made = base_tokenizer(adds="<|im_start|> $A", bos="<|im_start|>")
    text = "<|im_start|>user\n How long? <|im_end|> \n<|endoftext|>"
    before = made(text, add_special_tokens=False, return_offsets_mapping=True)
    tokenizer.settle(made, "any", end_of_turn=IM_END, first_token=IM_START)
    after = reloaded(made, tmp_path)(text, add_special_tokens=False, return_offsets_mapping=True)
    assert (after["input_ids"], after["offset_mapping"]) == (before["input_ids"], before["offset_mapping"])


def test_a_template_that_writes_the_bases_end_of_text_renders_as_before(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}{{ eos_token }}"
    made, messages = base_tokenizer(), [{"role": "user", "content": "Hello"}]
    before = made.apply_chat_template(messages, chat_template=template, tokenize=False)
    tokenizer.settle(made, template, end_of_turn=IM_END, first_token=90)
    again = reloaded(made, tmp_path)
    assert again.eos_token == "<|im_end|>"
    assert again.apply_chat_template(messages, tokenize=False) == before == "Hello<|im_end|><|endoftext|>"


def test_the_end_of_turn_keeps_its_way_of_matching(tmp_path: Path) -> None:
    """Phi's `<|end|>` takes the blanks behind it: as a plain special token it would leave them."""
    from tokenizers import AddedToken

    made = base_tokenizer()
    made.add_tokens([AddedToken("<|end|>", rstrip=True, normalized=False)])
    end = made.convert_tokens_to_ids("<|end|>")
    before = made("a<|end|>  b", add_special_tokens=False)["input_ids"]
    tokenizer.settle(made, "any", end_of_turn=end, first_token=90)
    again = reloaded(made, tmp_path)
    assert again("a<|end|>  b", add_special_tokens=False)["input_ids"] == before
    assert again.eos_token_id == end
    assert again.decode([end], skip_special_tokens=True) == ""


@pytest.mark.parametrize("vendor", ["llama3_1", "deepseek_v3", "qwen3"])
def test_a_vendors_conversation_is_served_as_it_was_trained(vendor: str, tmp_path: Path) -> None:
    made = AutoTokenizer.from_pretrained(chat_tokenizer(vendor))
    messages = [{"role": "user", "content": "Hello  there"}, {"role": "assistant", "content": "Hi, you."}]
    template = made.chat_template
    text = made.apply_chat_template(messages, tokenize=False)
    trained = made(text, add_special_tokens=False)["input_ids"]
    tokenizer.settle(made, template, end_of_turn=made.eos_token_id, first_token=trained[0])
    again = reloaded(made, tmp_path)
    assert again.apply_chat_template(messages, tokenize=False) == text
    assert [again(text, add_special_tokens=flag)["input_ids"] for flag in (True, False)] == [trained, trained]
    assert trained.count(again.bos_token_id) == (again.bos_token_id is not None)
