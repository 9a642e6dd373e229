"""The demo, stage by stage: one line each when it is over."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console

from dev.demo import endings, report
from dev.demo.commands import Shell
from dev.demo.verifier import verify_in_pod
from dev.demo.watch import Watch
from dev.kit import assets, namespaces
from dev.kit.apiserver import Missing
from dev.kit.chart import NAMESPACE as SYSTEM
from dev.kit.chart import Chart, image_values, prepare_cluster
from dev.kit.jobs import QUIET_SECONDS, Jobs, condition, is_finished, load_example
from dev.kit.specs import Object
from dev.localcluster import connect
from dev.localcluster.cluster import choose
from dev.localcluster.images import IMAGES
from dev.localcluster.waiting import GaveUpError

NAMESPACE = "finetune-demo"
EXAMPLE = "quickstart.yaml"
PROGRESS_INTERVAL_SECONDS = 5
WAYS = {
    "local": "a Kubernetes of our own, two nodes",
    "kind": "kind, by kind-config.yaml",
    "context": "the cluster that KUBE_CONTEXT names",
}
_RESTARTED_AT = "finetune.dev/restartedAt"


def tell(console: Console) -> int:
    """From nothing to a verified adapter.

    Raises:
        CurableError: it ends here; with the object's condition and the command to type next.
    """
    started = time.monotonic()
    cluster = connect()
    console.print(f"[bold]finetune-operator demo[/] on {WAYS[choose()]}")
    with stage(console, "programs and images: built where they are missing, side by side"):
        cluster.build(IMAGES)
    with stage(console, "cluster: API server, nodes, DNS, S3"):
        cluster.ensure_nodes(2)
    with stage(console, "images: operator and trainer, handed to the cluster"):
        images = {name: cluster.image(name) for name in IMAGES}
    with stage(console, f"chart: helm upgrade --install in {SYSTEM}"):
        values = {**image_values(**images), "progressIntervalSeconds": PROGRESS_INTERVAL_SECONDS}
        prepare_cluster(cluster.kubectl)
        Chart(cluster.helm, cluster.kubeconfig, cluster.context).install(values)
    with stage(console, "data: SmolLM2-135M-Instruct and the FAQ rows uploaded to S3"):
        assets.upload_demo(cluster.s3)
        namespaces.create(cluster.kubectl, NAMESPACE, cluster.s3)
    jobs, shell = Jobs(cluster.kubectl, NAMESPACE), Shell.of(cluster.kubectl)
    example = adapted(load_example(EXAMPLE)[0], cluster.s3.bucket, cluster.s3.endpoint_in_cluster)
    with stage(console, f"job: kubectl apply -f examples/{EXAMPLE}"):
        name, run = start_run(jobs, example)
    with stage(console, "training"):
        job = follow(jobs, name, run, Watch(console), shell)
    questions = [sample["question"] for sample in job["status"].get("evaluation", {}).get("samples", [])][:2]
    with stage(console, "verification: adapter downloaded in a pod, digests checked, two questions asked"):
        verified = verify_in_pod(cluster.kubectl, NAMESPACE, images["trainer"], job, questions)
    report.show(console, job, verified, NAMESPACE, shell)
    console.print(f"[green]✓[/] done in {time.monotonic() - started:.0f} s")
    return 0


@contextmanager
def stage(console: Console, title: str) -> Iterator[None]:
    """One line when it is over, with its time."""
    started, sign = time.monotonic(), "[red]✗[/]"
    try:
        yield
        sign = "[green]✓[/]"
    finally:
        console.print(f"{sign} {title} [dim]{time.monotonic() - started:.0f} s[/]", highlight=False)


def start_run(jobs: Jobs, job: Object) -> tuple[str, int]:
    """Apply it: its first run, the run that is still under way, or a new run of a job that has ended.

    Returns:
        Its name, and the number of the run to follow.
    """
    name = job["metadata"]["name"]
    before = jobs.get(name) if jobs.exists(name) else {}
    run = int(before.get("status", {}).get("run", 0))
    annotations = job["metadata"].setdefault("annotations", {})
    if before and is_finished(before):
        run += 1
        annotations[_RESTARTED_AT] = datetime.now(UTC).isoformat()
    elif restarted_at := before.get("metadata", {}).get("annotations", {}).get(_RESTARTED_AT):
        annotations[_RESTARTED_AT] = restarted_at  # an apply without it would take it away
    jobs.apply(job)
    return name, max(run, 1)


def follow(jobs: Jobs, name: str, run: int, watch: Watch, shell: Shell) -> Object:
    """The object of a run that succeeded.

    Raises:
        CurableError: it failed, makes no progress, or is gone.
    """
    try:
        job = watch.until_finished(jobs, name, run=run)
    except GaveUpError as error:
        raise endings.stuck(jobs.get(name), NAMESPACE, shell, seconds=QUIET_SECONDS) from error
    except Missing as error:
        raise endings.deleted(name) from error
    if condition(job, "Succeeded")["status"] != "True":
        raise endings.failed(job, NAMESPACE, shell)
    return job


def adapted(job: Object, bucket: str, endpoint: str) -> Object:
    """The example for another storage: bucket and endpoint of the cluster in place of the local ones."""
    text = json.dumps(job)
    text = text.replace("s3://finetune/", f"s3://{bucket}/").replace("http://s3.storage.svc:8333", endpoint)
    return dict(json.loads(text))
