"""Callbacks of the training itself; those of its surroundings come with the hooks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback


class CheckpointSidecars(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Keeps small JSON files in each checkpoint: what a resumed run cannot compute again.

    Args:
        names: of the files.
    """

    def __init__(self, *names: str) -> None:
        self._names = names
        self.values: dict[str, dict[str, Any]] = {}
        """By name; a file is written once its value is there."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.should_save:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            for name, value in self.values.items():
                (folder / name).write_text(json.dumps(value))

    def restore(self, checkpoint: Path) -> None:
        files = {name: checkpoint / name for name in self._names}
        self.values = {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}


class TrainBeginCallback(TrainerCallback):  # type: ignore[misc]
    """Calls `action` once the training is set up (model wrapped, checkpoint loaded), before the first step."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._action()
