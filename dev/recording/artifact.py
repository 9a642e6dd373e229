"""Fetches what the demo's newest run published."""

from __future__ import annotations

from pathlib import Path

from dev.demo.story import EXAMPLE, NAMESPACE
from dev.kit.jobs import Jobs, load_example
from dev.localcluster import connect
from dev.localcluster.errors import CurableError

FILES = ("manifest.json", "README.md")


def fetch(folder: Path) -> None:
    """`manifest.json` and `README.md` of the adapter, into `folder`.

    Raises:
        CurableError: the demo's job has no adapter yet.
    """
    cluster = connect()
    name = load_example(EXAMPLE)[0]["metadata"]["name"]
    jobs = Jobs(cluster.kubectl, NAMESPACE)
    artifact = jobs.get(name).get("status", {}).get("artifact") if jobs.exists(name) else None
    if not artifact:
        raise CurableError(f"FineTuneJob {name} in {NAMESPACE} has published nothing.", "Run `make demo` first.")
    bucket, prefix = artifact["uri"].removeprefix("s3://").rstrip("/").split("/", 1)
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        cluster.s3.client().download_file(bucket, f"{prefix}/{file}", str(folder / file))
