"""Conversations as the text that a model sees: one tokenizer, one chat template.

The same for every objective that learns from conversations, and for asking a model afterwards.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jinja2
import numpy as np

from finetune_trainer.objectives.conversations import Conversation

Positions = np.ndarray[Any, np.dtype[np.bool_]]
Span = tuple[int, int]
"""Characters [start, end) of a text."""

_USES_TOOLS = re.compile(r"\btools\b")
_MARKS_ANSWERS = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Encoded:
    """A text as tokens."""

    def __init__(self, encoding: Any) -> None:
        self._encoding = encoding
        self.ids = np.array(encoding.ids, np.int32)
        """[tokens]"""

    def within(self, spans: Sequence[Span]) -> Positions:
        """True on tokens that have a character of a span, [tokens]: a token across a boundary belongs to the span."""
        inside = np.zeros(len(self.ids), np.bool_)
        for start, end in spans:
            first, last = self._encoding.char_to_token(start), self._encoding.char_to_token(end - 1)
            if first is None or last is None or self._is_divided(start, end, first, last):
                inside |= self._overlapping(start, end)
            else:
                inside[first : last + 1] = True
        return inside

    def _is_divided(self, start: int, end: int, first: int, last: int) -> bool:
        """Does a character at the edge of a span have several tokens, or a blank that a tokenizer puts before it?"""
        before = self._encoding.token_to_chars(first - 1) if first else None
        after = self._encoding.token_to_chars(last + 1) if last + 1 < len(self.ids) else None
        return (before is not None and before[1] >= start + (before[0] != before[1])) or (
            after is not None and after[0] < end
        )

    def _overlapping(self, start: int, end: int) -> Positions:
        # Some tokenizers leave blanks out of the offsets: a token begins where the one before it ended.
        bounds = np.array(self._encoding.offsets, np.int64).reshape(-1, 2)
        ends = np.maximum.accumulate(bounds[:, 1])
        starts = bounds[:, 0].copy()
        np.minimum(starts[1:], ends[:-1], out=starts[1:])
        empty = (starts == ends) & (starts == start)
        inside: Positions = (starts < end) & ((ends > start) | empty)
        return inside


@dataclass(frozen=True)
class Rendering:
    text: str
    marked: list[Span]
    """What the template encloses in `{% generation %}`."""


@dataclass(frozen=True)
class Chat:
    tokenizer: Any
    template: str

    @cached_property
    def marks_answers(self) -> bool:
        """Does the template itself say what an answer is?"""
        return _MARKS_ANSWERS.search(self.template) is not None

    @cached_property
    def offers_tools(self) -> bool:
        return _USES_TOOLS.search(self.template) is not None

    def render(
        self, conversation: Conversation, messages: Sequence[dict[str, Any]], *, asking: bool = False
    ) -> Rendering:
        """Messages as the template writes them.

        Args:
            conversation: whose tools are offered, and whom errors name.
            asking: append what an answer follows, the generation prompt.

        Raises:
            DataError: the template rejects the messages, or fails on them.
        """
        inputs = {"messages": messages, "tools": list(conversation.tools) or None, "documents": None}
        try:
            if self.marks_answers and not asking:
                return Rendering(*_render_with_marks(self.compile(), **inputs, **self._special_tokens))
            text = self.compile().render(**inputs, add_generation_prompt=asking, **self._special_tokens)
            return Rendering(text, [])
        except jinja2.UndefinedError as error:
            raise conversation.error(_FAILS.format(error.message)) from None
        except jinja2.TemplateError as error:
            raise conversation.error(f"the chat template rejects this conversation: {error.message}") from None
        except Exception as error:  # noqa: BLE001 - a template is a program of strangers: it may raise anything
            raise conversation.error(_FAILS.format(f"{type(error).__name__}: {error}")) from None

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return [Encoded(encoding) for encoding in self._encoder.encode_batch(list(texts), add_special_tokens=False)]

    def ends_turn(self, token: int, closed: bool = True) -> bool:
        """Is a token the end of a turn, standing at the end of an answer?

        Args:
            closed: the template writes something after the words of the answer. If not, a token that is not special
                (a closing tag of the vocabulary, say) is one of these words.
        """
        return token in self._special_ids or (closed and token in self._added_ids)

    def special_token(self, text: str, start: int) -> int | None:
        """Where the first special token from a position on ends. None if there is none."""
        found = self._any_special.search(text, start)
        return found.end() if found else None

    def before_special_tokens(self, text: str) -> int:
        """Where the special tokens and blanks begin that a text ends with."""
        texts = self._specials
        rest = text.rstrip()
        while rest.endswith(texts):
            rest = rest[: -max(len(token) for token in texts if rest.endswith(token))].rstrip()
        return len(rest)

    def compile(self) -> Any:
        """The template as a program. Raises jinja2.TemplateSyntaxError for one that is none."""
        # transformers keeps it: what a template may do and what it finds are the same as at inference. Its public
        # function copies all messages first, which takes longer than the rendering.
        from transformers.utils.chat_template_utils import _compile_jinja_template

        return _compile_jinja_template(self.template)

    @cached_property
    def _encoder(self) -> Any:
        encoder = self.tokenizer.backend_tokenizer
        encoder.no_truncation()
        encoder.no_padding()
        return encoder

    @cached_property
    def _special_tokens(self) -> dict[str, Any]:
        return dict(self.tokenizer.special_tokens_map)

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        flagged = [token for token, added in self.tokenizer.added_tokens_decoder.items() if added.special]
        return frozenset([*self.tokenizer.all_special_ids, *flagged])

    @cached_property
    def _specials(self) -> tuple[str, ...]:
        texts = (self.tokenizer.convert_ids_to_tokens(token) for token in self._special_ids)
        return tuple(sorted(set(filter(None, texts)), key=len, reverse=True))

    @cached_property
    def _any_special(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._specials)) or "(?!)")

    @cached_property
    def _added_ids(self) -> frozenset[int]:
        return frozenset(self.tokenizer.added_tokens_decoder)


def _render_with_marks(compiled: Any, **inputs: Any) -> tuple[str, list[Span]]:
    from transformers.utils.chat_template_utils import _render_with_assistant_indices

    text, marked = _render_with_assistant_indices(compiled, add_generation_prompt=False, **inputs)
    return str(text), marked


_FAILS = (
    "the chat template fails on this conversation ({}); it is not made for such turns: change the row, or set "
    "spec.dataset.template to another template"
)
