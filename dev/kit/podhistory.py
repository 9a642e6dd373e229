"""Every pod that ever lived in a namespace, from a watch: which ranks started twice, which attempts overlapped."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from dev.localcluster.kubectl import Kubectl
from finetune_contract import names

Rank = tuple[str, str, str, str]
"""FineTuneJob, run, attempt, completion index."""


class PodHistory:
    """Use as a context manager around a test; survives a restart of the API server."""

    def __init__(self, kubectl: Kubectl, namespace: str) -> None:
        self._argv = [
            *kubectl.argv, "-n", namespace, "get", "pods", "-l", f"{names.LABEL_ROLE}=train",
            "--watch", "--output-watch-events", "-o", "json",
        ]  # fmt: skip
        self.pods: dict[str, dict[str, Any]] = {}
        self.overlaps: list[str] = []
        self._stopped = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._follow, name="pod history", daemon=True)

    def __enter__(self) -> PodHistory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        if self._process:
            self._process.terminate()
        self._thread.join(timeout=10)

    def uids_by_rank(self) -> dict[Rank, set[str]]:
        """More than one uid: the rank was started twice."""
        uids: dict[Rank, set[str]] = defaultdict(set)
        for uid, pod in self.pods.items():
            uids[_rank(pod)].add(uid)
        return dict(uids)

    def _follow(self) -> None:
        while not self._stopped.is_set():
            self._process = subprocess.Popen(
                self._argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1
            )
            with self._process as process:  # waits for its end, and closes the pipe
                assert process.stdout is not None
                self._read(process.stdout)
            time.sleep(0.2)

    def _read(self, lines: Iterable[str]) -> None:
        decoder, buffer = json.JSONDecoder(), ""
        for text in lines:
            buffer = (buffer + text).lstrip()
            try:
                event, end = decoder.raw_decode(buffer)
            except ValueError:
                continue
            buffer = buffer[end:]
            self._note(event)

    def _note(self, event: dict[str, Any]) -> None:
        pod = event["object"]
        self.pods[pod["metadata"]["uid"]] = {**pod, "_gone": event["type"] == "DELETED"}
        alive = [other for other in self.pods.values() if _is_alive(other)]
        by_job: dict[str, set[str]] = defaultdict(set)
        for other in alive:
            by_job[_rank(other)[0]].add("a".join(_rank(other)[1:3]))
        for job, attempts in by_job.items():
            if len(attempts) > 1:
                self.overlaps.append(f"{job}: attempts {sorted(attempts)} alive at once")


def _rank(pod: dict[str, Any]) -> Rank:
    labels = pod["metadata"]["labels"]
    index = labels.get("batch.kubernetes.io/job-completion-index", "0")
    return labels[names.LABEL_JOB_NAME], labels[names.LABEL_RUN], labels[names.LABEL_ATTEMPT], index


def _is_alive(pod: dict[str, Any]) -> bool:
    return not pod["_gone"] and pod["status"].get("phase") in {"Pending", "Running"}
