"""Recognises what a library raised. An exception that no row of the table knows is a bug of ours."""

from collections.abc import Iterator
from contextlib import contextmanager

from finetune_contract.exitcodes import ExitCode
from finetune_trainer.causes.cause import Cause
from finetune_trainer.causes.libraries import RAISED_BY_LIBRARIES
from finetune_trainer.errors import AcceleratorOutOfMemory, ConfigurationError, TrainerError, Transient


def foreseen(error: BaseException) -> TrainerError | None:
    """The error as one of ours; None for a bug. What an exception was raised from counts as well."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, TrainerError):
            return link
        for cause in RAISED_BY_LIBRARIES:
            if (said := cause.line_of(link)) is not None:
                return _as_ours(cause, said)
        link = link.__cause__
    return None


def raise_fault_of_pod(error: BaseException) -> None:
    """Where a library reads what a stranger wrote, every error is the file's: except memory, disk, devices, network."""
    known = foreseen(error)
    if known is not None and not isinstance(known, ConfigurationError):
        raise known from error


@contextmanager
def foreseen_ends() -> Iterator[None]:
    """Raises what is foreseen as ours, and leaves the rest as it is."""
    try:
        yield
    except TrainerError:
        raise
    except Exception as error:
        if (ours := foreseen(error)) is None:
            raise
        raise ours from error


def _as_ours(cause: Cause, said: str) -> TrainerError:
    message = cause.message(said)
    if cause.code is ExitCode.ACCELERATOR_OUT_OF_MEMORY:
        return AcceleratorOutOfMemory(message, reason=cause.reason)
    if cause.code is ExitCode.TRANSIENT:
        return Transient(message, reason=cause.reason)
    field = next(word.rstrip(",") for word in cause.part.split() if word.startswith("spec."))
    return ConfigurationError(message, field=field, reason=cause.reason)
