"""Objectives are found by the stage of a job, and the preparation needs no torch for one."""

import subprocess
import sys
from typing import Any

import pytest

from finetune_contract.jobspec import Dataset
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.objectives.chat import Chat
from finetune_trainer.objectives.objective import BatchLoss, Collator, Objective, Renderer, TokenRow
from finetune_trainer.objectives.registry import OBJECTIVES, objective_for


class Toy:
    """Everything that an objective has to provide."""

    def row_options(self, dataset: Dataset) -> dict[str, Any]:
        return {"objective": "toy"}

    def renderer(self, chat: Chat, dataset: Dataset) -> Renderer:
        raise NotImplementedError

    def learned_tokens(self, row: TokenRow) -> int:
        return row.length

    def collator(self, pad: int, multiple: int) -> Collator:
        raise NotImplementedError

    def loss(self, model: Any) -> BatchLoss:
        raise NotImplementedError

    def count(self, batch: Any) -> Any:
        raise NotImplementedError


def test_a_registered_objective_is_found_by_its_stage() -> None:
    toy: Objective = Toy()
    assert objective_for("toy", {**OBJECTIVES, "toy": toy}) is toy
    assert objective_for("sft") is OBJECTIVES["sft"]


def test_an_unknown_stage_names_the_field_and_the_stages_there_are() -> None:
    with pytest.raises(ConfigurationError) as rejected:
        objective_for("dpo")
    assert (rejected.value.field, rejected.value.reason, rejected.value.code) == ("spec.stage", "UnknownStage", 2)
    assert rejected.value.message == (
        "spec.stage: this trainer has no objective 'dpo'; use one of sft, or a trainer image that has it"
    )


def test_the_preparation_imports_no_torch_for_its_objective() -> None:
    program = (
        "import sys\n"
        "from finetune_trainer.objectives.registry import objective_for\n"
        "import finetune_trainer.prepare.preparation\n"
        "objective_for('sft').renderer\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
