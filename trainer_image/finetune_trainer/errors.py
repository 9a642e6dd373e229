"""The ways a start can fail: each error carries the exit code and the reason that the operator reads.

Raised anywhere in the trainer, translated only in `__main__`. The message is for the author of the job: it names the
field, or file and row, and the cure.
"""

import copyreg
from typing import Any, ClassVar

from finetune_contract.exitcodes import ExitCode
from finetune_contract.termination import STOPPED_WITHOUT_SAVE


class TrainerError(Exception):
    """A foreseen end. Anything else is a bug, and ends with a traceback and without a code of the contract."""

    code: ClassVar[ExitCode]

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """An error of another process arrives as it was raised: without `__init__`, whose arguments it has used."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class ConfigurationError(TrainerError):
    """What the job asks for cannot be done, or what it names does not exist."""

    code = ExitCode.INVALID_CONFIGURATION

    def __init__(self, message: str, *, field: str, reason: str = "InvalidConfiguration") -> None:
        super().__init__(message if field in message else f"{field}: {message}", reason=reason)
        self.field = field


class DataError(TrainerError):
    """A row that cannot be trained on. `row` counts from 1, as an editor's line numbers do."""

    code = ExitCode.INVALID_DATA

    def __init__(
        self, message: str, *, file: str, row: int | None = None, field: str | None = None, reason: str = "InvalidData"
    ) -> None:
        place = [file, *([f"row {row}"] if row is not None else []), *([f"field {field!r}"] if field else [])]
        super().__init__(f"{', '.join(place)}: {message}", reason=reason)
        self.file = file
        self.row = row
        self.field = field


class NoValidCheckpoint(TrainerError):
    """Manifests of this run exist and none verifies: starting at step 0 would hide a loss of work."""

    code = ExitCode.NO_VALID_CHECKPOINT

    def __init__(self, message: str, *, reason: str = "NoValidCheckpoint") -> None:
        super().__init__(message, reason=reason)


class AcceleratorOutOfMemory(TrainerError):
    code = ExitCode.ACCELERATOR_OUT_OF_MEMORY

    def __init__(self, message: str, *, reason: str = "AcceleratorOutOfMemory") -> None:
        super().__init__(message, reason=reason)


class Diverged(TrainerError):
    """The loss became NaN or infinite."""

    code = ExitCode.DIVERGED

    def __init__(self, message: str, *, reason: str = "Diverged") -> None:
        super().__init__(message, reason=reason)


class Transient(TrainerError):
    """Storage, network or download: worth another attempt by the operator, once our own retries are used up."""

    code = ExitCode.TRANSIENT

    def __init__(self, message: str, *, reason: str = "StorageUnavailable") -> None:
        super().__init__(message, reason=reason)


class Superseded(Transient):
    """A newer start of the same run has begun: this one may no longer commit anything."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="Superseded")


class StoppedWithoutSave(Transient):
    """Stopped on request, and steps that were done are in no verified checkpoint: the next attempt does them again."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason=STOPPED_WITHOUT_SAVE)


class StoppedAfterSave(TrainerError):
    """Stopped on request, with nothing lost: a verified checkpoint holds every step that was done."""

    code = ExitCode.STOPPED_AFTER_SAVE

    def __init__(self, message: str, *, reason: str = "StoppedAfterSave") -> None:
        super().__init__(message, reason=reason)
