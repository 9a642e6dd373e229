"""Callbacks of the training itself; those of its surroundings come with the hooks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback


class CheckpointSidecar(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Keeps a small JSON file in each checkpoint: what a resumed run cannot compute again."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.value: dict[str, Any] | None = None

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.should_save and self.value is not None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (folder / self._name).write_text(json.dumps(self.value))

    def restore(self, checkpoint: Path) -> None:
        file = checkpoint / self._name
        self.value = json.loads(file.read_text()) if file.is_file() else None


class TrainBeginCallback(TrainerCallback):  # type: ignore[misc]
    """Calls `action` once the training is set up (model wrapped, checkpoint loaded), before the first step."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._action()
