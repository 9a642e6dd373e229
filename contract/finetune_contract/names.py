"""Names that stand on both sides: labels, annotations, ports, paths inside a pod, environment variables."""

GROUP = "finetune.dev"
VERSION = "v1alpha1"

# --- labels and annotations --------------------------------------------------------------------------------------
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "finetune-operator"
LABEL_JOB_NAME = f"{GROUP}/job-name"
LABEL_RUN = f"{GROUP}/run"
LABEL_ATTEMPT = f"{GROUP}/attempt"
LABEL_ROLE = f"{GROUP}/role"
"""`prepare` or `train`."""
ANNOTATION_RESTARTED_AT = f"{GROUP}/restartedAt"
"""Set on a FineTuneJob to start a new run without a change of spec, as `kubectl rollout restart` does."""
ANNOTATION_CONFIG_HASH = f"{GROUP}/config-hash"
"""On every child: what it was rendered from. A child of our name with another hash or owner is a Conflict."""

# --- inside a pod ------------------------------------------------------------------------------------------------
JOB_FILE = "/etc/finetune/job.json"
CREDENTIALS_DIR = "/var/run/secrets/finetune/s3"
"""The job's Secret: files `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, optionally `AWS_SESSION_TOKEN`, `ca.crt`."""
CLAIMS_DIR = "/mnt/claims"
"""Each PersistentVolumeClaim named by a pvc:// source is mounted read-only at `<CLAIMS_DIR>/<claim>`."""
SCRATCH_DIR = "/scratch"
"""emptyDir: the only writable place besides /dev/shm."""
TERMINATION_LOG = "/dev/termination-log"
PORT_METRICS = 9400
"""`/metrics` (Prometheus) on every node's first rank, `/progress` (a ProgressRecord) on rank 0."""
PORT_NAME_METRICS = "metrics"
PORT_RENDEZVOUS = 29500

# --- environment variables ---------------------------------------------------------------------------------------
ENV_JOB_FILE = "FINETUNE_JOB_FILE"
ENV_CREDENTIALS_DIR = "FINETUNE_CREDENTIALS_DIR"
ENV_SCRATCH_DIR = "FINETUNE_SCRATCH_DIR"
ENV_TERMINATION_LOG = "FINETUNE_TERMINATION_LOG"
ENV_METRICS_PORT = "FINETUNE_METRICS_PORT"
ENV_NODE_RANK = "JOB_COMPLETION_INDEX"
"""Set by the Job controller for Indexed Jobs."""
ENV_MASTER_ADDR = "MASTER_ADDR"
"""Host name of node 0 behind the headless Service; absent on one node (the supervisor then takes 127.0.0.1)."""


def attempt_name(job: str, run: int, attempt: int) -> str:
    """Name of the Job of a training attempt."""
    return f"{job}-r{run}-a{attempt}"


def prepare_name(job: str, run: int, attempt: int) -> str:
    """Name of the Job of a preparation."""
    return f"{job}-r{run}-p{attempt}"


def service_name(job: str, run: int) -> str:
    """Name of the headless Service of a run on several nodes."""
    return f"{job}-r{run}"
