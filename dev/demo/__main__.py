"""Run the demo: `python -m dev.demo`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console

from dev.demo import report
from dev.demo.verifier import verify_in_pod
from dev.demo.watch import Watch
from dev.kit import assets, namespaces
from dev.kit.chart import NAMESPACE as SYSTEM
from dev.kit.chart import Chart, image_values, prepare_cluster
from dev.kit.jobs import Jobs, Object, condition, load_example
from dev.localcluster import connect
from dev.localcluster.cluster import choose
from dev.localcluster.images import IMAGES

NAMESPACE = "finetune-demo"
EXAMPLE = "quickstart.yaml"
PROGRESS_INTERVAL_SECONDS = 5
WAYS = {
    "local": "a Kubernetes of our own, two nodes",
    "kind": "kind, by kind-config.yaml",
    "context": "the cluster that KUBE_CONTEXT names",
}


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else 110)
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
    jobs = Jobs(cluster.kubectl, NAMESPACE)
    with stage(console, f"job: kubectl apply -f examples/{EXAMPLE}"):
        name, run = start_run(
            jobs, adapted(load_example(EXAMPLE)[0], cluster.s3.bucket, cluster.s3.endpoint_in_cluster)
        )
    with stage(console, "training"):
        job = Watch(console).until_finished(jobs, name, run=run)
    if condition(job, "Succeeded")["status"] != "True":
        console.print(f"[red]✗[/] {condition(job, 'Succeeded')['message']}")
        return 1
    questions = [sample["question"] for sample in job["status"].get("evaluation", {}).get("samples", [])][:2]
    with stage(console, "verification: adapter downloaded in a pod, digests checked, two questions asked"):
        verified = verify_in_pod(cluster.kubectl, NAMESPACE, images["trainer"], job, questions)
    report.show(console, job, verified, NAMESPACE)
    console.print(f"[green]✓[/] done in {time.monotonic() - started:.0f} s")
    return 0


@contextmanager
def stage(console: Console, title: str) -> Iterator[None]:
    """One line when it is over, with its time."""
    started = time.monotonic()
    yield
    console.print(f"[green]✓[/] {title} [dim]{time.monotonic() - started:.0f} s[/]", highlight=False)


def start_run(jobs: Jobs, job: Object) -> tuple[str, int]:
    """Apply it; where it is there already, ask for a new run. Returns its name and the number of the run to come."""
    name = job["metadata"]["name"]
    there = jobs.exists(name)
    former = jobs.get(name).get("status", {}).get("run", 0) if there else 0
    if there:
        job["metadata"].setdefault("annotations", {})["finetune.dev/restartedAt"] = datetime.now(UTC).isoformat()
    jobs.apply(job)
    return name, former + 1


def adapted(job: Object, bucket: str, endpoint: str) -> Object:
    """The example for somebody else's storage: bucket and endpoint of the cluster in place of the local ones."""
    import json

    text = json.dumps(job)
    text = text.replace("s3://finetune/", f"s3://{bucket}/").replace("http://s3.storage.svc:8333", endpoint)
    return dict(json.loads(text))


if __name__ == "__main__":
    sys.exit(main())
