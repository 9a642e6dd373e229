"""Which texts a conversation becomes, and what of them is learned: one case of each kind of template and row."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from finetune_contract.jobspec import JobFile
from finetune_trainer.errors import ConfigurationError, DataError
from finetune_trainer.objectives.answers import end_of_turn, prompt
from finetune_trainer.objectives.chat import Chat
from finetune_trainer.objectives.conversations import Conversation
from finetune_trainer.objectives.sft.rows import AnswerRenderer
from finetune_trainer.prepare import preparation, store
from finetune_trainer.prepare.formats import parse
from finetune_trainer.prepare.readers import Row
from finetune_trainer.prepare.templates import ALPACA, CHATML, DEFAULT, TEMPLATES, choose_template
from tests.trainer.builders import make_job
from tests.trainer.cases.models import R1, THINK
from tests.trainer.models import save_tiny_model, tiny_tokenizer
from tests.trainer.runs import Bench

TURN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CLOSED = TURN + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
MARKED_HEAD = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}<|im_start|>assistant\n{{ m.content }}"
    "<|im_end|>\n{% endgeneration %}{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}" + ASK
)
MARKED_WORDS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}" + ASK
)
TRIMMED_HISTORY = (
    "{% for m in messages %}{% set cut = m.role == 'assistant' and not loop.last %}<|im_start|>{{ m.role }}\n"
    "{{ m.content[:1] if cut else m.content }}<|im_end|>\n{% endfor %}" + ASK
)
TWO_ENDS = TURN + "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}<|endoftext|>{% endif %}"
NULL_CALLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is none %}{% for call in m.tool_calls %}"
    "{{ call.function.name + ' ' + call.function.arguments }}{% endfor %}{% else %}{{ m.content }}{% endif %}"
    "<|im_end|>\n{% endfor %}" + ASK
)


def talk(*answers: Any) -> dict[str, Any]:
    turns: list[dict[str, Any]] = []
    for answer in answers:
        turns.append({"role": "user", "content": "Who?"})
        turns.append({"role": "assistant", **({"content": answer} if isinstance(answer, str) else answer)})
    return {"messages": turns}


@pytest.mark.parametrize(
    ("template", "row", "learned"),
    [
        pytest.param(CLOSED, talk("I.", "You."), ["I.<|im_end|>", "You.<|im_end|>"], id="the prompt closes a thought"),
        pytest.param(R1, talk("I."), ["\n</think>\n\nI.<|im_end|>"], id="the prompt opens a thought, the row has none"),
        pytest.param(
            R1,
            talk({"content": "I.", "reasoning_content": "me"}),
            ["me\n</think>\n\nI.<|im_end|>"],
            id="the prompt opens a thought, the row has it beside the content",
        ),
        pytest.param(
            R1,
            talk("<think>a</think>I.", "<think>b</think>You."),
            ["a\n</think>\n\nI.<|im_end|>", "b\n</think>\n\nYou.<|im_end|>"],
            id="the prompt opens a thought, two turns",
        ),
        pytest.param(
            THINK,
            talk({"content": "I.", "thinking": "me"}, "You."),
            ["<think>\nme\n</think>\n\nI.<|im_end|>", "<think>\n\n</think>\n\nYou.<|im_end|>"],
            id="thoughts of earlier turns are left out",
        ),
        pytest.param(MARKED_HEAD, talk("I.", "You."), ["I.<|im_end|>", "You.<|im_end|>"], id="marks with the head"),
        pytest.param(MARKED_WORDS, talk("I. ", "You."), ["I. <|im_end|>", "You.<|im_end|>"], id="marks, no end"),
        pytest.param(TRIMMED_HISTORY, talk("Me.", "You."), ["Me.<|im_end|>", "You.<|im_end|>"], id="cut history"),
        pytest.param(TWO_ENDS, talk("I.", "You."), ["I.<|im_end|>", "You.<|im_end|>"], id="a text that ends as well"),
        pytest.param(
            NULL_CALLS,
            talk({"content": None, "tool_calls": [{"name": "gate", "arguments": {"door": 1}}]}),
            ['gate {"door": 1}<|im_end|>'],
            id="calls of null content with arguments as text",
        ),
        pytest.param(CHATML, talk("I.", {"content": "No", "weight": 0}), ["I.<|im_end|>"], id="weight 0"),
    ],
)
def test_what_is_learned(template: str, row: dict[str, Any], learned: list[str]) -> None:
    assert _learned(Chat(tiny_tokenizer(), template), row) == learned


@pytest.mark.parametrize(
    ("template", "row", "want"),
    [
        pytest.param(CHATML + "{{ 1 / 0 }}", talk("I."), "fails on this conversation (ZeroDivisionError", id="0"),
        pytest.param(TURN + "{{ messages[9].role }}", talk("I."), "fails on this conversation (list", id="undefined"),
        pytest.param("{{ messages + 1 }}", talk("I."), "fails on this conversation (TypeError", id="type"),
        pytest.param(
            CLOSED,
            talk({"content": "I.", "reasoning_content": "me"}),
            "field 'messages[1].reasoning_content': the chat template leaves out the answer's reasoning_content",
            id="a thought that the prompt rules out",
        ),
        pytest.param(
            TURN.replace("m.content", "m.content[:3]") + ASK,
            talk("A long answer."),
            "field 'messages[1].content': the chat template leaves out the answer's content",
            id="a cut answer",
        ),
        pytest.param(
            CHATML,
            {**talk("I."), "tools": [{"name": "gate"}]},
            "field 'tools': the chat template does not offer the tool 'gate' to the model",
            id="tools",
        ),
        pytest.param(
            "{% for m in messages %}{{ loop.length }}{{ m.content }}<|im_end|>{% endfor %}"
            "{% if add_generation_prompt %}?{% endif %}",
            talk("I."),
            "the chat template writes an answer in another way than its own generation prompt begins one",
            id="a prompt of its own",
        ),
    ],
)
def test_what_cannot_be_learned_names_the_row(template: str, row: dict[str, Any], want: str) -> None:
    with pytest.raises(DataError) as refused:
        _learned(Chat(tiny_tokenizer(), template), row)
    assert "rows, row 3" in refused.value.message
    assert want in refused.value.message


def test_the_last_answer_alone_stands_behind_the_prompt_that_is_asked() -> None:
    chat = Chat(tiny_tokenizer(), THINK)
    conversation = _conversation(talk("<think>a</think>I.", "You."))
    [rendered] = AnswerRenderer(chat, mask_history=True).render([conversation])
    [row] = rendered.rows
    text = chat.tokenizer.decode(row.ids)
    assert text.startswith(prompt(chat, conversation))
    assert "<think>" not in prompt(chat, conversation)
    assert chat.tokenizer.decode(row.ids[row.supervised]) == "<think>\n\n</think>\n\nYou.<|im_end|>"


def test_learning_the_prompt_as_well_learns_each_token_of_a_row_that_is_not_of_the_row_before() -> None:
    chat = Chat(tiny_tokenizer(), THINK)
    [rendered] = AnswerRenderer(chat, train_on_prompt=True).render([_conversation(talk("I.", "You."))])
    first, second = rendered.rows
    assert first.supervised.all()
    shared = int(np.flatnonzero(first.ids != second.ids[: first.length])[0])
    assert not second.supervised[:shared].any()
    assert second.supervised[shared:].all()


@pytest.mark.parametrize(
    ("text", "answer", "learned"),
    [
        ("ASSISTANT: ", "The porter.", " The porter.<|im_end|>"),
        ("ASSISTANT:\n", "\n\nThe porter.", "\n\n\nThe porter.<|im_end|>"),
        ("ASSISTANT:  ", "  indented", "  indented<|im_end|>"),
        ("ASSISTANT: ", "漢字 🙂", "漢字 🙂<|im_end|>"),
    ],
)
@pytest.mark.parametrize("trims", [False, True], ids=["offsets of all characters", "offsets without blanks"])
def test_a_token_across_the_boundary_belongs_to_the_answer(text: str, answer: str, learned: str, trims: bool) -> None:
    tokenizer = _with_long_blanks(trims)
    template = "{% for m in messages %}{{ m.content if m.role == 'user' else '" + text.replace("\n", "\\n")
    template += "' + m.content + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '"
    template += text.replace("\n", "\\n") + "' }}{% endif %}"
    [run] = _learned(Chat(tokenizer, template), talk(answer))
    assert run.strip() == learned.strip()
    assert run.endswith(answer + "<|im_end|>")
    assert run[: -len(answer + "<|im_end|>")].strip() == ""


def test_the_end_of_a_turn_is_that_of_words_even_where_the_first_row_calls_a_tool() -> None:
    template = TURN.replace("<|im_end|>", "{{ '<|endoftext|>' if m.tool_calls else '<|im_end|>' }}") + ASK
    template = template.replace("{{ m.content }}", "{{ m.content }}{{ m.tool_calls }}")
    row = talk({"content": None, "tool_calls": [{"name": "gate", "arguments": {}}]})
    chat = Chat(tokenizer := tiny_tokenizer(), template)
    assert end_of_turn(chat, _conversation(row)) == tokenizer.convert_tokens_to_ids("<|im_end|>")


@pytest.mark.parametrize("name", ["alpaca", "default", "chatml"])
@pytest.mark.parametrize(
    ("bos", "own", "has_one"),
    [
        ("<s>", "{{ bos_token }}x", True),
        ("<s>", "x", False),
        ("<s>", None, True),
        ("<|im_end|>", None, False),
        ("<|im_start|>", None, False),
        (None, None, False),
    ],
    ids=["own template writes it", "own template does not", "no template", "is the end", "is ChatML's", "none"],
)
def test_named_templates_begin_as_the_models_own_texts(
    name: str, bos: str | None, own: str | None, has_one: bool
) -> None:
    tokenizer = tiny_tokenizer(chat_template=own)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<s>"]})
    tokenizer.bos_token = bos
    chat = Chat(tokenizer, choose_template(tokenizer, name))
    [rendered] = AnswerRenderer(chat).render([_conversation(talk("I.", "You."))])
    assert (rendered.rows[0].ids == tokenizer.convert_tokens_to_ids("<s>")).sum() == int(has_one)
    assert TEMPLATES["alpaca"] == ALPACA
    assert TEMPLATES["default"] == DEFAULT


def test_a_broken_template_is_the_models_fault() -> None:
    with pytest.raises(ConfigurationError, match="chat template is broken at line 1"):
        choose_template(tiny_tokenizer(chat_template="{% for m in messages %}"), "auto")


def test_a_conversation_stays_on_one_side_and_its_tokens_are_stated(bench: Bench) -> None:
    lines: list[str] = []
    rows = [talk(f"I {n}.", f"You {n}.") for n in range(6)]
    job = _job(bench, rows, THINK, {"dataset": {"splitFraction": 0.34, "maxSamples": 5}})
    result = preparation.run(job, bench.storage, bench.root / "scratch", lines.append)
    assert (result.train_rows, result.evaluation_rows) == (6, 4)
    prepared = store.read(bench.root / "s3" / result.uri.removeprefix("s3://"))
    assert len(prepared.questions) == 2
    counts = prepared.stats["counts"]
    assert counts["conversations"] == 5
    stated = f"5 of 5 conversations became one row for each answer, {counts['tokensOnce']:,} tokens became"
    assert any(stated in line for line in lines)


def test_four_times_as_many_tokens_are_refused_with_both_ways_out(bench: Bench) -> None:
    job = _job(bench, [talk(*[f"I {n}." for n in range(12)])], THINK, {"dataset": {"splitFraction": 0}})
    with pytest.raises(ConfigurationError) as refused:
        preparation.run(job, bench.storage, bench.root / "scratch", lambda line: None)
    assert (refused.value.field, refused.value.reason) == ("spec.dataset.maskHistory", "TooManyTokens")
    assert "Set spec.dataset.maskHistory" in refused.value.message
    assert "or spec.dataset.template to a template that keeps earlier turns" in refused.value.message


def test_remarks_are_said_once_with_count_and_example(bench: Bench) -> None:
    lines: list[str] = []
    job = _job(bench, [{**talk("I."), "id": n} for n in range(3)], CHATML, {"dataset": {"splitFraction": 0}})
    result = preparation.run(job, bench.storage, bench.root / "scratch", lines.append)
    assert [line for line in lines if "'id'" in line] == [
        f"warning: 3 × column 'id' is not used; for example file://{bench.root}/own.jsonl, row 1, id: 0"
    ]
    prepared = store.read(bench.root / "s3" / result.uri.removeprefix("s3://"))
    assert prepared.stats["remarks"]["column 'id' is not used"]["count"] == 3


def _job(bench: Bench, rows: Sequence[dict[str, Any]], template: str, spec: dict[str, Any]) -> JobFile:
    import json

    file = bench.root / "own.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return make_job(spec, model=save_tiny_model(bench.root / "own", chat_template=template), train=file)


def _conversation(row: dict[str, Any]) -> Conversation:
    return parse(Row("rows", 3, row), "messages")


def _learned(chat: Chat, row: dict[str, Any]) -> list[str]:
    [rendered] = AnswerRenderer(chat).render([_conversation(row)])
    runs = []
    for tokens in rendered.rows:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], tokens.supervised.astype(int), [0]])))
        runs += [chat.tokenizer.decode(tokens.ids[start:end]) for start, end in edges.reshape(-1, 2)]
    return runs


def _with_long_blanks(trims: bool) -> PreTrainedTokenizerFast:
    from tokenizers import processors

    tokenizer = tiny_tokenizer(sentences=["a  b   c\n\n\nd \n e"] * 9 + ["The porter. Is  it?"] * 9)
    if trims:
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer
