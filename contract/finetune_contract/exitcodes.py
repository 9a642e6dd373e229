"""Exit codes, the verdict a training pod hands to the operator (docs/exit-codes.md).

The meanings only: what follows from a code is the operator's to decide (`finetune_operator.core.classify`)."""

from enum import IntEnum


class ExitCode(IntEnum):
    """A code counts only together with a `TerminationRecord` that carries the same number:
    1 and 2 are also Python's own, and the kernel may kill a rank and spare PID 1."""

    SUCCEEDED = 0
    """Done, the artifact is published and verified."""
    INVALID_CONFIGURATION = 2
    """The user's configuration; a model, path or bucket that is not there."""
    INVALID_DATA = 3
    """The user's data; the message names file, row and field."""
    NO_VALID_CHECKPOINT = 4
    """Manifests of this run exist and none verifies."""
    ACCELERATOR_OUT_OF_MEMORY = 71
    DIVERGED = 72
    """The loss became NaN or infinite."""
    TRANSIENT = 75
    """Storage, network or download: worth another try."""
    STOPPED_AFTER_SAVE = 85
    """Stopped on request after a verified save (preemption, drain, suspend)."""
