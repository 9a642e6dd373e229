"""What a rank leaves out of its imports."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest

from finetune_trainer.rank import libraries
from tests.trainer.builders import make_job


@pytest.mark.parametrize(("training", "want"), [({}, False), ({"deepspeed": {"stage": 2}}, True)])
def test_deepspeed_is_importable_only_in_a_job_that_uses_it(
    training: dict[str, Any], want: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.delitem(sys.modules, "deepspeed")
    libraries.leave_out_unused(make_job({"training": training}))
    assert (importlib.util.find_spec("deepspeed") is not None) == want
