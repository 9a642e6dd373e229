"""Write docs/templates.md: how the answers are found in the chat templates of each family.

`python -m docs.generate_templates`; a test fails when the page is out of date, and tests hold each entry of the table.
"""

from __future__ import annotations

from pathlib import Path

from tests.trainer.families import EACH, FAMILIES, KINDS, MARKS, NO, PREFIX, Family

PAGE = Path(__file__).parents[1] / "docs" / "templates.md"

INTRODUCTION = """\
# Chat templates

Generated from `tests/trainer/families.py` by `python -m docs.generate_templates`.

What is learned of a row is what the model's own chat template writes for its answers, with the token that ends the
turn, and nothing else. How that is found depends on the template:

- **marks**: the template marks its answers with `{% generation %}`.
- **prefix**: an answer is what the template adds to the conversation before it and the generation prompt. One row for
  each conversation.
- **one row per answer**: the template rewrites what was said before (it leaves out thoughts of earlier turns, moves
  tools or the system turn to the last question, ends the last turn in another way). Each answer becomes a row of its
  own, behind the prompt that the model is asked for it with, and is learned in that row only. The log and the
  preparation's statistics state the tokens before and after; more than four times as many are refused. Ways out:
  `spec.dataset.maskHistory` (the last answer only), another `spec.dataset.template`.
- **refused**: the template rejects such turns, or leaves something of an answer out. The error names the row.

## Families
"""

RULES = """
The template is the vendor's own where a package carries it; for the other families one of the same behaviour, written
anew. A vendor changes templates between versions of a model: what counts is the template beside your model, and the
preparation looks at each row.

## Rules for rows
- **Thoughts**: `reasoning_content`, `reasoning` or `thinking` beside the content, or `<think>…</think>` in it. A
  template that does not know the key but the tag gets the thought in the content.
- **Prompts that open a thought** (DeepSeek-R1): the row's thought continues the prompt. In a row without a thought, the
  thought is closed at once (`</think>`), then comes the answer: with this prompt there is no other way to answer.
- **Tool calls**: `tool_calls` and `function_call`, arguments as an object or as a string of JSON; sharegpt's
  `function_call` and `observation`; the columns `tools` and `functions`. A template that does not write them is
  refused.
- **`weight`** of an answer: 0 is shown and not learned, 1 is learned.
- **A conversation that starts with the assistant**: the first turn answers nothing, so it is shown and not learned.
- **Turns of one role in a row, system turns in the middle**: as the template renders them; refused where it rejects
  them.
- **An empty answer** (no text and no call), the last one or an earlier one: refused, unless its weight is 0.
- **An unknown role**: refused. `developer` is read as `system`.
- **Content parts** of type `text` are joined by line breaks; other types, and columns of pictures, videos or sound, are
  refused.
- **Everything else** in a row (a column, a key of a turn) is not used, which the log and the statistics say once, with
  the count and an example. So are texts that a template trims or leaves out of a question.
- **`truncate`**: an answer that is cut off altogether is not learned; a conversation of which none is left is refused.
- **`bos_token`**: the named templates begin with it where the model's own texts do.
"""

_WORDS = {MARKS: "marks", PREFIX: "prefix", EACH: "one row per answer", NO: "refused"}
_TITLES = {
    "turns": "several turns",
    "system": "with a system turn",
    "tools": "with tools",
    "thoughts": "with thoughts",
}


def render() -> str:
    titles = " | ".join(_TITLES[kind] for kind in KINDS)
    lines = [f"| family | template | {titles} | a turn ends with |", f"|---|---|{'---|' * len(KINDS)}---|"]
    return INTRODUCTION + "\n".join([*lines, *map(_line, FAMILIES)]) + "\n" + RULES


def _line(family: Family) -> str:
    ways = " | ".join(_WORDS[family.ways[kind]] for kind in KINDS)
    kind = "the vendor's" if family.is_vendors else "same behaviour"
    return (
        f"| {family.name} | {kind} | {ways} | <code>{family.end.replace('|', '&#124;').replace('<', '&lt;')}</code> |"
    )


if __name__ == "__main__":
    PAGE.write_text(render())
