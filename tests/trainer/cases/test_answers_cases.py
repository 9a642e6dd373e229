"""What of a stranger's row is learned: its answers, as the model's own template writes them, and nothing less."""

import pytest

from tests.trainer.cases.trying import Bench

LEARNED: dict[str, list[list[str]]] = {
    "04-content-parts": [["The Lek.<|im_end|>"]],
    # a greeting answers nothing
    "06-assistant-first": [["Left of the stairs.<|im_end|>"]],
    "07-assistant-first-chatml": [["Left of the stairs.<|im_end|>"]],
    "54-smollm2-assistant-first": [["Left of the stairs.<|im_end|>"]],
    # the template rewrites history: a row for each answer, as the model sees it
    "14-qwen3-multi-turn": [
        ["<think>\n\n</think>\n\nThe porter.<|im_end|>"],
        ["<think>\n\n</think>\n\nSince May.<|im_end|>"],
    ],
    "58-qwen3-multi-turn-masked": [["<think>\n\n</think>\n\nSince May.<|im_end|>"]],
    "15-qwen3-think": [["<think>\ntwo and two\n</think>\n\nFour.<|im_end|>"]],
    "21-reasoning-content": [["<think>\ntwo and two\n</think>\n\nFour.<|im_end|>"]],
    # the prompt has opened the thought
    "16-r1-prefilled-think": [["two and two\n</think>\n\nFour.<|im_end|>"]],
    "17-r1-prefilled-think-masked": [["two and two\n</think>\n\nFour.<|im_end|>"]],
    "24-system-in-middle": [["HELLO.<|im_end|>"]],
    "48-metaspace": [["The porter.</s>", "Since May.</s>"], ["  Padded answer.  </s>"]],
    # a token across the boundary belongs to the answer
    "49-prompt-ends-with-blank": [[" The porter.<|im_end|>"], [" b<|im_end|>"]],
    "51-date-template": [["The porter.<|im_end|>", "Since May.<|im_end|>"]],
    "52-no-bos": [["The porter does.</s>"], ["At noon.</s>"]],
}


@pytest.mark.parametrize("case", LEARNED)
def test_is_learned(case: str, bench: Bench) -> None:
    attempt = bench.case(case)
    prepared = attempt.prepare()
    assert prepared.code == 0, prepared.log
    assert attempt.learned() == LEARNED[case]


REFUSED: dict[str, str] = {
    "01-tool-calls": "row 1, field 'messages[1].tool_calls': the chat template leaves out the answer's tool_calls "
    "('ferry_state'), so it would not be learned; remove it from the row, or set spec.dataset.template to a template "
    "that writes it",
    "02-tool-role": "row 1, field 'messages[1].tool_calls': the chat template leaves out the answer's tool_calls "
    "('ferry_state'), so it would not be learned; remove it from the row, or set spec.dataset.template to a template "
    "that writes it",
    "18-no-system": "row 1: the chat template rejects this conversation: no system turn here",
    "19-two-user-turns": "row 1: the chat template rejects this conversation: user and assistant must take turns",
    "20-empty-last-answer": "row 1, field 'messages[3]': the answer is empty, so there is nothing to learn; fill "
    "it in, or remove the row",
}


@pytest.mark.parametrize("case", REFUSED)
def test_is_refused(case: str, bench: Bench) -> None:
    prepared = bench.case(case).prepare()
    assert (prepared.code, prepared.crashed) == (3, False)
    assert prepared.record.message.endswith(REFUSED[case])
