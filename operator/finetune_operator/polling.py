"""Progress of running jobs, pulled from rank 0 of their pods.

What a pod says is text from outside: bounded in size and time, never followed elsewhere, and only ever shown; no
verdict rests on it. A pod that does not answer is asked again later and is no error.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import aiohttp

from finetune_contract.names import LABEL_ATTEMPT, LABEL_ROLE, LABEL_RUN, PORT_METRICS
from finetune_contract.progress import ProgressRecord
from finetune_operator.core.stages import STAGES
from finetune_operator.ports import FINETUNEJOBS, Change, Json, Key, job_key_of

logger = logging.getLogger(__name__)

MAX_BYTES = 64 * 1024
TIMEOUT_SECONDS = 3.0
_TICK_SECONDS = 1.0
_SHARE_OF_RUN = 0.02
_LONGEST_PAUSE_SECONDS = 300.0
_AT_ONCE = 16
_LABEL_INDEX = "batch.kubernetes.io/job-completion-index"
_ROLES = {stage.role for stage in STAGES}

Fetch = Callable[[str], Awaitable[ProgressRecord | None]]
"""From the address of a pod to what it says; None when it says nothing usable."""


@dataclass(frozen=True)
class Target:
    """Rank 0 of an attempt."""

    key: Key
    run: int
    attempt: int
    uid: str
    address: str


def targets(pods: Iterable[Json]) -> list[Target]:
    """The pods that have something to say: running, of a stage that reports progress, rank 0."""
    return [_target(pod) for pod in pods if _is_asked(pod)]


class ProgressPoller:
    """`ports.ProgressSource`.

    Args:
        pods: the pods of all jobs.
        fetch: see `fetch_from`.
        interval_seconds: between two questions to the same pod; longer for a long run.
        on_change: called with the key when its record differs from the previous one.
    """

    def __init__(
        self,
        pods: Callable[[], Iterable[Json]],
        fetch: Fetch,
        *,
        interval_seconds: float,
        on_change: Callable[[Key], None],
    ) -> None:
        self._pods = pods
        self._fetch = fetch
        self._interval = interval_seconds
        self._on_change = on_change
        self._records: dict[Key, ProgressRecord] = {}
        self._next: dict[str, float] = {}  # by uid of the pod
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def latest(self, key: Key, run: int, attempt: int) -> ProgressRecord | None:
        record = self._records.get(key)
        return record if record is not None and (record.run, record.attempt) == (run, attempt) else None

    def forget(self, change: Change) -> None:
        """Nothing is kept of a FineTuneJob that is gone."""
        if change.resource == FINETUNEJOBS and change.after is None:
            self._records.pop(change.key, None)

    async def run(self) -> None:
        """Ask whoever is due, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                for target in self._due():
                    group.create_task(self._ask(target))
                await asyncio.sleep(_TICK_SECONDS)

    def _due(self) -> list[Target]:
        now = asyncio.get_running_loop().time()
        running = targets(self._pods())
        self._next = {target.uid: self._next.get(target.uid, now) for target in running}
        due = [target for target in running if self._next[target.uid] <= now]
        for target in due:
            self._next[target.uid] = float("inf")  # until it has answered
        return due

    async def _ask(self, target: Target) -> None:
        async with self._slots:
            record = await self._fetch(target.address)
        now = asyncio.get_running_loop().time()
        share = min(_SHARE_OF_RUN * _seconds_of_run(record), _LONGEST_PAUSE_SECONDS)
        self._next[target.uid] = now + max(self._interval, share)
        if record is None or (record.run, record.attempt) != (target.run, target.attempt):
            return
        if record != self._records.get(target.key):
            self._records[target.key] = record
            self._on_change(target.key)


def fetch_from(session: aiohttp.ClientSession, port: int = PORT_METRICS) -> Fetch:
    """Over HTTP, from `/progress` of a pod."""

    async def fetch(address: str) -> ProgressRecord | None:
        host = f"[{address}]" if ":" in address else address
        try:
            async with session.get(
                f"http://{host}:{port}/progress",
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
            ) as response:
                if response.status != 200:
                    return None
                return ProgressRecord.model_validate_json(await _bounded(response.content))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            logger.debug("no progress from %s: %s", address, error or type(error).__name__)
            return None

    return fetch


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    """All of it; ValueError when that is too much."""
    data = b""
    async for chunk in content.iter_any():
        data += chunk
        if len(data) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
    return data


def _seconds_of_run(record: ProgressRecord | None) -> float:
    """The whole run's length, extrapolated from what is left of it; 0 while nobody knows."""
    if record is None or not record.eta_seconds or record.eta_seconds < 0 or record.total_steps <= record.step:
        return 0.0
    return record.eta_seconds * record.total_steps / (record.total_steps - record.step)


def _labels(pod: Json) -> dict[str, str]:
    return pod["metadata"].get("labels") or {}


def _is_asked(pod: Json) -> bool:
    labels, status = _labels(pod), pod.get("status") or {}
    return (
        labels.get(LABEL_ROLE) in _ROLES
        and labels.get(_LABEL_INDEX, "0") == "0"
        and status.get("phase") == "Running"
        and bool(status.get("podIP"))
        and not pod["metadata"].get("deletionTimestamp")
        and job_key_of(pod) is not None
    )


def _target(pod: Json) -> Target:
    labels = _labels(pod)
    key = job_key_of(pod)
    assert key is not None  # see _is_asked
    return Target(
        key=key,
        run=int(labels.get(LABEL_RUN, 0)),
        attempt=int(labels.get(LABEL_ATTEMPT, 0)),
        uid=pod["metadata"]["uid"],
        address=pod["status"]["podIP"],
    )
