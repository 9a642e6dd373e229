"""Prompts that their template does not continue, and what a model continues them with at inference.

Some begin the answer: with an open thought, as DeepSeek-R1's do, or with one that is closed already. The history that
such a template writes has no thought at all. At inference the model continues the prompt: so does the text that it is
trained on.

- A row with a thought: the thought, its closing tag, the answer.
- A row without one: the thought is closed at once, and then the answer. The prompt leaves the model no other way to
  answer without a thought.
- A thought behind a prompt that has closed it cannot occur at inference.

Others have what is missing before an answer: Mistral's system turn, say, stands in the last question only while that is
the last turn.
"""

import re

from finetune_trainer.objectives.conversations import Message

_ENOUGH = 16
"""Characters of the last question that must be the same behind the difference."""

_OPENED = re.compile(r"(?:<(?P<tag>\w+)>|\[(?P<mark>\w+)\])\s*$")
_CLOSED = re.compile(r"(?:<(?P<tag>\w+)>\s*</(?P=tag)>|\[(?P<mark>\w+)\]\s*\[/(?P=mark)\])\s*$")


def continued(prompt: str, rendered: str, question: str, message: Message) -> str | None:
    """What follows the prompt, end of turn included. None where the rendering cannot be brought behind its prompt.

    Args:
        prompt: generation prompt included.
        rendered: the same conversation with the answer, as the template writes it into the history.
        question: what was said before.
    """
    thought, _ = message.thought_and_text()
    if (closed := _CLOSED.search(prompt)) and rendered.startswith(prompt[: closed.start()]):
        said = rendered[closed.start() :].lstrip()
        return None if thought and thought in said else said
    if (opened := _OPENED.search(prompt)) and rendered.startswith(prompt[: opened.start()]):
        said = rendered[opened.start() :].lstrip()
        opening, closing = _tags(opened)
        if said.startswith(opening):
            return said[len(opening) :].lstrip()
        if closing in said:
            return said
        return f"{thought}\n{closing}\n\n{said}"
    # A prompt may end with blanks that the history has not.
    if rendered.startswith(prompt.rstrip()):
        return rendered[len(prompt.rstrip()) :].lstrip()
    return _moved(prompt, rendered, question, message)


def _moved(prompt: str, rendered: str, question: str, message: Message) -> str | None:
    """The answer of a text that differs before the last question only."""
    start = rendered.rfind(message.content.strip())
    if message.tool_calls or start < 0:
        return None
    before = rendered[:start].rstrip()
    asked = before.rfind(question.strip()[-_ENOUGH:])
    is_same = asked < len(before) and asked >= 0 and prompt.rstrip().endswith(before[asked:])
    return rendered[len(before) :] if is_same else None


def _tags(opened: re.Match[str]) -> tuple[str, str]:
    if opened["tag"]:
        return f"<{opened['tag']}>", f"</{opened['tag']}>"
    return f"[{opened['mark']}]", f"[/{opened['mark']}]"
