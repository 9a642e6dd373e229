"""Tells whoever watches this rank how the training goes: see rank/heartbeat.py."""

from typing import Any

from transformers import TrainerCallback

from finetune_trainer.rank import heartbeat


class LivenessCallback(TrainerCallback):  # type: ignore[misc]
    """Comes last."""

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        heartbeat.beat()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        heartbeat.step(state.global_step)
        if control.should_save:
            heartbeat.enter("saving")
