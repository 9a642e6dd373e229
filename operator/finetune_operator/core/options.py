"""What the operator's admin decides for every job: filled by `settings`, taken as given by the core."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    trainer_image: str
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    """Names of Secrets in the job's namespace."""
    termination_grace_seconds: int = 300
    """For finishing the step, saving and uploading after SIGTERM."""
    progress_interval_seconds: float = 30.0
    """Progress goes into status at most this often."""
    allow_cpu_for_gpu: bool = False
    """Tests only: fake GPUs have no device behind them."""
    backoff_base_seconds: float = 10.0
    """Wait before the next attempt after the first counted failure; doubles with each further one."""
    backoff_max_seconds: float = 600.0
    stuck_after_seconds: float = 10.0
    """A pod that has not started for so long is explained from its events."""
