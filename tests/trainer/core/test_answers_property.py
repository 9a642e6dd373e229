"""Random rows on random templates: what is learned is the answers and the ends of their turns, or the row is refused.

A template is composed of pieces that templates of real families have: heads of turns, blanks that are trimmed, prompts
that end with a blank or open a thought, history without thoughts, a system turn that moves, an end of its own for the
last turn. What it writes for an answer is known from the pieces, so nothing of the code under test is asked for it.
"""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from finetune_trainer.errors import DataError
from finetune_trainer.objectives.chat import Chat
from finetune_trainer.objectives.objective import TokenRow
from finetune_trainer.objectives.sft.rows import AnswerRenderer
from finetune_trainer.prepare.formats import parse
from finetune_trainer.prepare.readers import Row
from tests.trainer.models import tiny_tokenizer

_SHOWN_THOUGHT = "{% if thought %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}"
_SHOWN_BLOCK = "{{ '<think>\n' + thought + '\n</think>\n\n' }}"
THOUGHTS = {
    "shown": _SHOWN_THOUGHT,
    "shown in the last turn": "{% if loop.last %}" + _SHOWN_THOUGHT + "{% endif %}",
    "block in the last turn": "{% if loop.last %}" + _SHOWN_BLOCK + "{% endif %}",
    "never shown": "",
}
CALLS = {
    "written": "{% for call in m.tool_calls or [] %}{{ '[' + call.function.name + ' ' + "
    "(call.function.arguments if call.function.arguments is string else call.function.arguments | tojson) + ']' }}"
    "{% endfor %}",
    "left out": "",
}
SYSTEM = {
    "in its place": ("", "{{ head('system') + m.content + end }}"),
    "at the beginning": (
        "{% for m in messages if m.role == 'system' %}{{ head('system') + m.content + end }}{% endfor %}",
        "",
    ),
    "in the last turn": ("", "{% if loop.revindex <= 3 %}{{ head('system') + m.content + end }}{% endif %}"),
    "rejected": ("", "{{ raise_exception('no system turn') }}"),
}
HEADS = ("<|im_start|>{role}\n", "{role}: ", "### {role}:\n", "\n\n{role}:\n\n")
PROMPT_ENDS = ("", " ", "\n", "<think>\n", "<think>\n\n</think>\n\n")
ENDS = ("<|im_end|>\n", "<|im_end|>", "<|endoftext|>", "\n")
LAST_ENDS = ("", "<|return|>", "<|im_end|><|endoftext|>")


@dataclass(frozen=True)
class Template:
    head: str
    prompt_end: str
    end: str
    last_end: str
    thoughts: str
    calls: str
    system: str
    trims: bool
    marks: bool

    def text(self) -> str:
        head = json.dumps(self.head).replace("{role}", '" + role + "')
        before, system = SYSTEM[self.system]
        last = f"{{% if loop.last %}}{{{{ {json.dumps(self.last_end)} }}}}{{% else %}}{{{{ end }}}}{{% endif %}}"
        answer = THOUGHTS[self.thoughts] + "{{ said" + (" | trim" if self.trims else "") + " }}" + CALLS[self.calls]
        answer += last if self.last_end else "{{ end }}"
        marked = "{% generation %}" + answer + "{% endgeneration %}" if self.marks else answer
        return (
            f"{{% macro head(role) %}}{{{{ {head} }}}}{{% endmacro %}}{{% set end = {json.dumps(self.end)} %}}"
            + before
            + "{% for m in messages %}{% set said = m.content or '' %}{% set thought = m.reasoning_content or '' %}"
            "{% if '</think>' in said %}{% set thought = said.split('</think>')[0].split('<think>')[-1] | trim %}"
            "{% set said = said.split('</think>')[-1] | trim %}{% endif %}"
            "{% if m.role == 'system' %}"
            + system
            + "{% elif m.role == 'assistant' %}{{ head('assistant') }}"
            + marked
            # a prompt that is part of the text as well: the rest of it is what the history does not have
            + "{% else %}{{ head(m.role) + m.content + end }}{% endif %}{% endfor %}"
            + "{% if add_generation_prompt %}{{ head('assistant') + "
            + json.dumps(self.prompt_end)
            + " }}{% endif %}"
        )


templates = st.builds(
    Template,
    head=st.sampled_from(HEADS),
    prompt_end=st.sampled_from(PROMPT_ENDS),
    end=st.sampled_from(ENDS),
    last_end=st.sampled_from(LAST_ENDS),
    thoughts=st.sampled_from(sorted(THOUGHTS)),
    calls=st.sampled_from(sorted(CALLS)),
    system=st.sampled_from(sorted(SYSTEM)),
    trims=st.booleans(),
    marks=st.booleans(),
)
words = st.text(st.sampled_from("ab Zé\n\t ü漢🙂.-7"), min_size=1, max_size=12).filter(str.strip)
calls = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": st.just("gate"), "arguments": st.just({"door": "nørth", "n": 3})})}
)
answers = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": words},
    optional={
        "reasoning_content": words,
        "tool_calls": st.lists(calls, min_size=1, max_size=2),
        "weight": st.sampled_from([0, 1, 1]),
    },
)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = [{"role": "system", "content": draw(words)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        turns += [{"role": "user", "content": draw(words)}, draw(answers)]
    return turns


@settings(
    max_examples=250,
    phases=[Phase.generate, Phase.shrink],
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(template=templates, turns=conversations(), mask_history=st.booleans())
def test_answers_and_ends_of_turns_are_learned_or_the_row_is_refused(
    template: Template, turns: list[dict[str, Any]], mask_history: bool
) -> None:
    chat = Chat(_tokenizer(), template.text())
    try:
        conversation = parse(Row("rows.jsonl", 7, {"messages": turns}), "messages")
        [rendered] = AnswerRenderer(chat, mask_history=mask_history).render([conversation])
    except DataError as error:
        refusal = str(error)
    else:
        refusal = None
    if refusal is not None:
        event(f"refused: {refusal.partition(': ')[2][:50]}")
        assert "rows.jsonl, row 7" in refusal
        return
    event(f"rows: {len(rendered.rows)}")
    wanted = [turn for turn in turns if turn["role"] == "assistant"][-1 if mask_history else 0 :]
    wanted = [turn for turn in wanted if turn.get("weight", 1)]
    runs = [run for row in rendered.rows for run in _runs(chat.tokenizer, row)]
    assert len(runs) == len(wanted)
    for run, turn in zip(runs, wanted, strict=True):
        alone = len(rendered.rows) == len(wanted) or turn is turns[-1]
        assert _letters(run) in [_letters(text) for text in _expected(template, turn, is_last=alone)]


def _expected(template: Template, turn: dict[str, Any], *, is_last: bool) -> list[str]:
    said = [f"{turn.get('reasoning_content', '')}{turn['content']}"]
    for call in turn.get("tool_calls", []):
        said.append(f"[gate {json.dumps(call['function']['arguments'], ensure_ascii=False)}]")
    ends = {template.end.strip()}
    if is_last:
        ends.add(template.last_end.partition("><")[0] + (">" if "><" in template.last_end else ""))
        # without an end of its own, a row gets the model's
        ends.add("<|im_end|>")
        if turn.get("tool_calls") or template.marks:
            ends.add(template.last_end)
    return ["".join([*said, end]) for end in ends]


def _letters(text: str) -> str:
    return "".join(text.replace("<think>", "").replace("</think>", "").split())


def _runs(tokenizer: Any, row: TokenRow) -> list[str]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.supervised.astype(int), [0]])))
    return [tokenizer.decode(row.ids[start:end]) for start, end in edges.reshape(-1, 2)]


@cache
def _tokenizer() -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|return|>"]})
    return tokenizer
