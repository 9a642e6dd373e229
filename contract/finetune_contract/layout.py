"""Where things lie below `output.uri` (design: S3 is the only hand-over between pods).

<output.uri>/.finetune/prepared/<digest>/             rows of a preparation, by content
<output.uri>/.finetune/runs/<uid>-r<N>/checkpoints/step-00000042.e00000003/   step, and the writer's fencing token
<output.uri>/.finetune/runs/<uid>-r<N>/inputs.json                           base model and data, by file and digest
<output.uri>/.finetune/runs/<uid>-r<N>/epochs/00000001                           one fencing token per start
<output.uri>/<name>-r<N>-<uid8>/                      the result of a run
<output.uri>/latest.json                              which result is the newest
"""

from finetune_contract.jobspec import Identity


def _root(output_uri: str) -> str:
    return output_uri.rstrip("/")


def prepared_uri(output_uri: str, digest: str) -> str:
    return f"{_root(output_uri)}/.finetune/prepared/{digest}"


def run_uri(output_uri: str, identity: Identity) -> str:
    """Carries the object's uid: a job deleted and created again must not find the checkpoints of another."""
    return f"{_root(output_uri)}/.finetune/runs/{identity.uid}-r{identity.run}"


def run_inputs_uri(output_uri: str, identity: Identity) -> str:
    return f"{run_uri(output_uri, identity)}/inputs.json"


def checkpoints_uri(output_uri: str, identity: Identity) -> str:
    return f"{run_uri(output_uri, identity)}/checkpoints"


def fencing_tokens_uri(output_uri: str, identity: Identity) -> str:
    return f"{run_uri(output_uri, identity)}/epochs"


def artifact_uri(output_uri: str, identity: Identity) -> str:
    return f"{_root(output_uri)}/{identity.name}-r{identity.run}-{identity.uid[:8]}"


def latest_uri(output_uri: str) -> str:
    return f"{_root(output_uri)}/latest.json"
