"""The operator as a real process against a real API server, and what it may say in its log."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from dev.kit.ports import ReservedPort
from dev.localcluster.waiting import until

ROOT = Path(__file__).parents[2]
TRAINER_IMAGE = "localhost/finetune-trainer:api-test"

_TROUBLE = re.compile(r" (ERROR|CRITICAL) |^Traceback |Warning: |never awaited", re.MULTILINE)
_API_SERVER_AWAY = re.compile(r"Request attempt #\d+ failed; will retry|Cannot connect to host|Server disconnected")


class OperatorProcess:
    """`python -m finetune_operator`; several lives, one log.

    Args:
        kubeconfig: with one context.
        log: file that all lives append to.
        namespaces: watched; empty watches all.
    """

    def __init__(self, kubeconfig: Path, log: Path, *namespaces: str, env: Mapping[str, str] | None = None) -> None:
        self._log = log
        self._port = ReservedPort()  # across all lives
        self.port = self._port.number
        self._env = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}/operator:{ROOT}/trainer_image",
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "default,ignore::ResourceWarning",  # sockets cut off at the end
            "KUBECONFIG": str(kubeconfig),
            "FINETUNE_TRAINER_IMAGE": TRAINER_IMAGE,
            "FINETUNE_WATCH_NAMESPACES": ",".join(namespaces),
            "FINETUNE_HTTP_PORT": str(self.port),
            "FINETUNE_PROGRESS_INTERVAL_SECONDS": "1",
            **(env or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    # --- life -----------------------------------------------------------------------------------------------------
    def start(self, *, wait: bool = True) -> None:
        with self._log.open("ab") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "finetune_operator"], env=self._env, stdout=sink, stderr=sink, cwd="/"
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        until("the operator is ready", self.is_ready, seconds=60, explain=self.log)

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: nothing can be put in order."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.kill()
        self.start()

    def wait_ended(self) -> int:
        assert self._process is not None
        return self._process.wait(timeout=300)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: int) -> int:
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.send_signal(number)
        return process.wait(timeout=300)

    # --- what it says ---------------------------------------------------------------------------------------------
    def is_ready(self) -> bool:
        assert self.is_running(), f"the operator ended\n{self.log()}"
        return self.probe("/readyz") == 200

    def probe(self, path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def metric(self, name: str, **labels: str) -> float:
        """The sum over all series with these labels; 0 where there is none."""
        return sum(sample.value for sample in self._samples(name) if labels.items() <= sample.labels.items())

    def writes(self) -> Counter[str]:
        """Requests that change something, by verb and resource; without Leases."""
        found: Counter[str] = Counter()
        for sample in self._samples("finetune_operator_kube_api_requests_total"):
            verb, resource = sample.labels["verb"], sample.labels["resource"]
            if verb not in {"get", "list"} and resource != "leases":
                found[f"{verb} {resource}"] += int(sample.value)
        return found

    def _samples(self, name: str) -> list[Sample]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        families = text_string_to_metric_families(text)
        return [sample for family in families for sample in family.samples if sample.name == name]

    def rss_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""


def trouble(log: str, *, api_server_was_away: bool = False) -> list[str]:
    """Lines that no healthy operator writes; kopf reports each failed request as an error."""
    lines = [line for line in log.splitlines() if _TROUBLE.search(line)]
    return [line for line in lines if not (api_server_was_away and _API_SERVER_AWAY.search(line))]
