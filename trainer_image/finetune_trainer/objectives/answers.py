"""Where the answers of a conversation are in its text: exactly what the chat template writes for them, and no more.

Three ways, the first that is exact for a conversation:
1. the template marks its answers with `{% generation %}`;
2. the answers are what the template adds to "everything before + the generation prompt", and each such beginning is one
   of the whole text;
3. the template rewrites what was said before (thoughts of earlier turns left out, tools moved): then each answer gets
   a text of its own, as the model sees it when it is asked, and is learned in that text only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from finetune_trainer.errors import DataError
from finetune_trainer.objectives import fidelity, prefills
from finetune_trainer.objectives.chat import Chat, Rendering, Span
from finetune_trainer.objectives.conversations import Conversation
from finetune_trainer.objectives.remarks import Remark
from finetune_trainer.objectives.spellings import Messages, spellings


@dataclass(frozen=True)
class Trained:
    """A text that a model is trained on."""

    text: str
    spans: list[Span]
    """Of the answers to learn, end of turn included."""
    turns: list[int]
    """Of which messages they are."""
    closed: bool = True
    """Does the template write something after the words of the last one?"""


@dataclass(frozen=True)
class Lesson:
    """What becomes of a conversation: one text, or one for each answer."""

    texts: list[Trained]
    remarks: list[Remark]


def lesson(chat: Chat, conversation: Conversation, turns: Sequence[int]) -> Lesson:
    """The texts that teach some answers of a conversation.

    Args:
        turns: positions of the answers among the messages.

    Raises:
        DataError: the template rejects the conversation, or leaves something of an answer out.
    """
    _check_tools(conversation, offered=chat.offers_tools)
    first: DataError | None = None
    for messages in spellings(conversation, chat.template):
        written = _Written(chat, conversation, messages)
        try:
            texts = [_closed(conversation, trained) for trained in _texts(written, turns)]
            _check_tools(conversation, offered=True, text=texts[-1].text)
            return Lesson(texts, _remarks(conversation, texts))
        except DataError as error:
            first = first or error
    assert first is not None  # there is at least one spelling
    raise first


def prompt(chat: Chat, conversation: Conversation) -> str:
    """What a model is asked for the last answer with, exactly as a lesson has it: generation prompt included."""
    last = len(conversation.messages) - 1
    try:
        [trained] = lesson(chat, conversation, [last]).texts
    except DataError:  # an answer that is not learned may lose something
        return _Written(chat, conversation, next(spellings(conversation, chat.template))).asked(last)
    return trained.text[: trained.spans[0][0]]


@dataclass
class _Written:
    """A conversation in one spelling, and what the template makes of its parts."""

    chat: Chat
    conversation: Conversation
    messages: Messages
    _memory: dict[tuple[int, bool], Rendering] = field(default_factory=dict)

    @property
    def last(self) -> int:
        return len(self.messages) - 1

    def through(self, turn: int) -> Rendering:
        """Everything up to a message, which is the last."""
        return self._render(turn + 1, asking=False)

    def asked(self, turn: int) -> str:
        """What the model sees when it is asked for an answer."""
        return self._render(turn, asking=True).text

    @cached_property
    def end_of_turn(self) -> str:
        """What the template writes after the words of the last answer. Empty where it does more than that."""
        text, before = self.through(self.last).text, self.asked(self.last)
        said = _end_of_words(self, self.last, text, len(before)) if text.startswith(before) else None
        return "" if said is None else text[said : _end_of_turn(self.chat, text, said, len(text))]

    def _render(self, count: int, *, asking: bool) -> Rendering:
        key = (count, asking)
        if key not in self._memory:
            self._memory[key] = self.chat.render(self.conversation, self.messages[:count], asking=asking)
        return self._memory[key]


def _texts(written: _Written, turns: Sequence[int]) -> list[Trained]:
    whole = written.through(written.last)
    for find in (_marked, _by_prefix):
        spans = find(written, whole, turns)
        if spans is not None:
            trained = Trained(whole.text, spans, list(turns))
            if _lost(written.conversation, trained) is None:
                return [trained]
    return [_as_asked(written, turn) for turn in turns]


def _marked(written: _Written, whole: Rendering, turns: Sequence[int]) -> list[Span] | None:
    """By the template's own marks. None where it has none, or not one for each answer."""
    answers = [index for index, message in enumerate(written.messages) if message["role"] == "assistant"]
    if len(whole.marked) != len(answers):
        return None
    text, (last_start, last_end), before = whole.text, whole.marked[-1], written.asked(written.last)
    # Some templates mark the head of the turn as well, which is the prompt's, and leave its end outside.
    head = before[last_start:] if text.startswith(before) else ""
    end_of_turn = text[last_end : _end_of_turn(written.chat, text, last_end, len(text))]
    spans = []
    for start, end in (dict(zip(answers, whole.marked, strict=True))[turn] for turn in turns):
        begin = start + len(head) if text.startswith(head, start) else start
        follows = end_of_turn and text.startswith(end_of_turn, end)
        spans.append((begin, end + len(end_of_turn) if follows else _without_blanks(text, begin, end)))
    return spans


def _by_prefix(written: _Written, whole: Rendering, turns: Sequence[int]) -> list[Span] | None:
    """By what the template adds. None where it rewrites what was before."""
    spans: list[Span] = []
    for turn in turns:
        before = written.asked(turn)
        end = _end(written, turn, whole.text, len(before)) if whole.text.startswith(before) else None
        if end is None:
            return None
        spans.append((len(before), end))
    return spans


def _end(written: _Written, turn: int, text: str, start: int) -> int | None:
    """Where an answer ends in the whole text. None where it does not end as it does when it is the last."""
    said = _end_of_words(written, turn, text, start)
    if said is not None and (end_of_turn := written.end_of_turn) and text.startswith(end_of_turn, said):
        # Nearly always the same follows each answer, and nothing needs to be rendered to know it.
        return said + len(end_of_turn)
    alone = written.through(turn).text
    end = _end_of_answer(written, turn, alone, start)
    return end if end > start and text.startswith(alone[:end]) else None


def _end_of_answer(written: _Written, turn: int, text: str, start: int) -> int:
    """Where the last answer of a text ends."""
    message = written.conversation.messages[turn]
    said = _end_of_words(written, turn, text, start)
    if said is None and not message.tool_calls:
        end = written.chat.before_special_tokens(text)
        said = end if text.endswith(message.content.strip(), start, end) else None
    return _end_of_turn(written.chat, text, start if said is None else said, len(text), closed=said is not None)


def _end_of_words(written: _Written, turn: int, text: str, start: int) -> int | None:
    """Where the words of an answer end, if the template writes them first and as they are."""
    message = written.conversation.messages[turn]
    if message.tool_calls or message.reasoning:
        return None
    for words in (message.content, message.content.strip()):
        if text.startswith(words, start):
            return start + len(words)
    return None


def _end_of_turn(chat: Chat, text: str, start: int, end: int, *, closed: bool = True) -> int:
    """Where the turn ends: behind the first special token after its words. What follows that is the template's.

    Args:
        closed: the words of the answer are before `start`.
    """
    token = chat.special_token(text, start) if closed else None
    return token if token is not None else _without_blanks(text, start, end)


def _without_blanks(text: str, start: int, end: int) -> int:
    # Blanks after the end of the turn are the template's, not the model's.
    return start + len(text[start:end].rstrip())


def _as_asked(written: _Written, turn: int) -> Trained:
    """One answer behind the prompt that a model is asked for it with."""
    conversation, message = written.conversation, written.conversation.messages[turn]
    before, through = written.asked(turn), written.through(turn).text
    if through.startswith(before):
        trained = Trained(through, [(len(before), _end_of_answer(written, turn, through, len(before)))], [turn])
    else:
        ended = through[: _end_of_answer(written, turn, through, 0)]
        answer = prefills.continued(before, ended, conversation.messages[turn - 1].content, message)
        if answer is None:
            cure = "set spec.dataset.template to another template"
            problem = "the chat template writes an answer in another way than its own generation prompt begins one"
            raise conversation.error(f"{problem}, so it cannot be told from its prompt; {cure}", message.place)
        trained = Trained(before + answer, [(len(before), len(before + answer))], [turn])
    if missing := _lost(conversation, trained):
        raise conversation.error(
            f"the chat template leaves out the answer's {missing}, so it would not be learned; remove it from the row, "
            "or set spec.dataset.template to a template that writes it",
            f"{message.place}.{missing.partition(' ')[0]}" if message.place else None,
        )
    return trained


def _closed(conversation: Conversation, trained: Trained) -> Trained:
    message, (_, end) = conversation.messages[trained.turns[-1]], trained.spans[-1]
    is_closed = not message.tool_calls and not trained.text.endswith(message.content.rstrip(), 0, end)
    return replace(trained, closed=is_closed)


def _lost(conversation: Conversation, trained: Trained) -> str | None:
    for turn, (start, end) in zip(trained.turns, trained.spans, strict=True):
        if missing := fidelity.lost(conversation.messages[turn], trained.text[:start], trained.text[start:end]):
            return missing
    return None


def _check_tools(conversation: Conversation, *, offered: bool, text: str | None = None) -> None:
    for tool in conversation.tools:
        name = tool["function"]["name"]
        if not offered or (text is not None and name not in text):
            raise conversation.error(
                f"the chat template does not offer the tool {name!r} to the model; remove the column, or set "
                "spec.dataset.template to a template that writes tools",
                "tools",
            )


def _remarks(conversation: Conversation, texts: Sequence[Trained]) -> list[Remark]:
    """What the rendering has otherwise than the row, though nothing of an answer is lost."""
    remarks = []
    place = f"{conversation.file}, row {conversation.number}"
    learned = {turn: text for text in texts for turn in text.turns}
    for index, message in enumerate(conversation.messages):
        text = learned.get(index, texts[-1]).text
        kind = fidelity.difference(message, text)
        if kind is None and message.name is None and message.tool_call_id is None:
            continue
        if kind is not None and message.role != "assistant" and not fidelity.is_shown(message.content, text):
            kind = f"text of a {message.role} turn is left out by the chat template"
        if kind is not None and message.content.strip():
            remarks.append(Remark(kind, f"{place}, {message.place}: {message.content[:60]!r}"))
        for key, value in (("name", message.name), ("tool_call_id", message.tool_call_id)):
            if value is not None and value not in text:
                remarks.append(Remark(f"{key!r} of a turn is not used by the chat template", f"{place}: {value[:60]}"))
    return remarks


def end_of_turn(chat: Chat, conversation: Conversation) -> int:
    """The token that ends an answer: where generation has to stop. The model's end-of-text token where the template
    has no end-of-turn token of its own."""
    # In plain words: a turn that calls a tool may end with a token of its own.
    words = replace(conversation.messages[-1], content="x", reasoning="", tool_calls=())
    plain = replace(conversation, messages=(*conversation.messages[:-1], words))
    trained = lesson(chat, plain, [len(plain.messages) - 1]).texts[-1]
    [encoded] = chat.encode([trained.text])
    last = int(encoded.ids[np.flatnonzero(encoded.within(trained.spans))[-1]])
    return last if chat.ends_turn(last, trained.closed) else int(chat.tokenizer.eos_token_id)
