"""The headless Service of a run on several nodes: a DNS name for each rank, from before it is ready."""

from typing import Any

from finetune_contract import names
from finetune_operator.core.objects import LABEL_JOB_UID
from finetune_operator.core.render.child import Child, labels, metadata


def render_service(child: Child, name: str) -> dict[str, Any]:
    """One a run, for all its attempts: the host names tell the attempts apart."""
    of_run = {key: value for key, value in labels(child).items() if key != names.LABEL_ATTEMPT}
    selector = {key: of_run[key] for key in (names.LABEL_JOB_NAME, LABEL_JOB_UID, names.LABEL_RUN, names.LABEL_ROLE)}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(child, name, of_run),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": selector,
            "ports": [{"name": "rendezvous", "port": names.PORT_RENDEZVOUS, "protocol": "TCP"}],
        },
    }
