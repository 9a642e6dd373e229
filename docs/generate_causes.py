"""Write the table of causes into docs/exit-codes.md, out of `finetune_trainer.causes` and the operator's `EXITS`.

`python -m docs.generate_causes`; a test fails when the page is out of date.
"""

from __future__ import annotations

from pathlib import Path

from finetune_contract.exitcodes import ExitCode
from finetune_contract.termination import INVALID_JOB_FILE, STOPPED_WITHOUT_SAVE
from finetune_operator.core.stages import EXITS, EndKind
from finetune_trainer.causes.cause import Cause
from finetune_trainer.causes.table import TABLE

PAGE = Path(__file__).parent / "exit-codes.md"
BEGIN, END = "<!-- causes: python -m docs.generate_causes -->\n", "<!-- end of causes -->\n"

_CONSEQUENCES = {
    EndKind.FINAL: "final",
    EndKind.COUNTED: "next attempt, counted",
    EndKind.UNCOUNTED: "next attempt, not counted",
}
_EXCEPTIONS = {
    INVALID_JOB_FILE: "waits for another image",
    STOPPED_WITHOUT_SAVE: "next attempt, not counted when the pod was disrupted or suspended",
}


def render() -> str:
    """The page, with the table as the code has it."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{_table()}{END}{after}"


def _table() -> str:
    lines = ["| reason | code | what happened | field or part | what helps | then |", "|---|---|---|---|---|---|"]
    for code in ExitCode:
        lines += [_row(cause) for cause in TABLE if cause.code is code]
    return "\n".join(lines) + "\n"


def _row(cause: Cause) -> str:
    then = _EXCEPTIONS.get(cause.reason, _CONSEQUENCES[EXITS[cause.code]])
    cells = [f"`{cause.reason}`", str(int(cause.code)), cause.what, cause.part, _small(cause.cure), then]
    return f"| {' | '.join(cells)} |"


def _small(text: str) -> str:
    return text[0].lower() + text[1:]


if __name__ == "__main__":
    PAGE.write_text(render())
