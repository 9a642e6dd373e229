"""One leader among the replicas, elected by a Lease with client-go's rules and timings.

A leader that cannot renew in time must stop writing at once: `is_certain` turns False by itself, `lead` returns, and
the caller ends the process without ceremony. Only server-ordered writes and this process's monotonic clock decide;
another replica's clock never.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from finetune_operator.ports import LEASES, AlreadyExists, ApiError, Clock, Conflict, Json, KubeApi, NotFound

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Terms:
    """Seconds, as in client-go."""

    lease: float = 15.0
    """Without a renewal for this long, another replica may take over."""
    renewal: float = 10.0
    """A leader that could not renew for this long gives up."""
    retry: float = 2.0


class Election:
    """This replica's part in the election.

    Args:
        identity: of this process; must differ between restarts of the same pod.
        on_change: called with True when this replica becomes the leader, False when it no longer is.
    """

    def __init__(
        self,
        api: KubeApi,
        clock: Clock,
        *,
        namespace: str,
        identity: str,
        name: str = "finetune-operator",
        terms: Terms | None = None,
        on_change: Callable[[bool], None] = lambda is_leader: None,
    ) -> None:
        self._api = api
        self._clock = clock
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._terms = terms or Terms()
        self._on_change = on_change
        self._seen: Json | None = None
        self._seen_at = 0.0
        self._renewed_at: float | None = None

    @property
    def is_certain(self) -> bool:
        """May this process write? Also False in a process that was paused and does not know it yet."""
        return self._renewed_at is not None and _monotonic() - self._renewed_at < self._terms.renewal

    async def acquire(self) -> None:
        """Wait until this replica is the leader."""
        while not await self._try_to_hold(self._terms.renewal):  # noqa: ASYNC110 - nobody can wake us
            await asyncio.sleep(self._terms.retry)
        logger.info("became the leader as %s", self._identity)
        self._on_change(True)

    async def lead(self) -> None:
        """Renew until that fails for too long; after it returns, this process must not write."""
        while self.is_certain:
            await asyncio.sleep(self._terms.retry)
            left = self._terms.renewal - (_monotonic() - (self._renewed_at or 0.0))
            if left <= 0 or (not await self._try_to_hold(left) and self._is_held_by_another()):
                break
        self._renewed_at = None
        self._on_change(False)
        logger.error("lost the leadership: the Lease %s/%s was not renewed in time", self._namespace, self._name)

    async def release(self) -> None:
        """Let the next replica take over at once; for a clean end only."""
        try:
            lease = await self._api.get(LEASES, self._namespace, self._name)
            if lease["spec"].get("holderIdentity") == self._identity:
                await self._api.replace(LEASES, {**lease, "spec": {**lease["spec"], "holderIdentity": ""}})
        except ApiError as error:
            logger.info("the Lease was not released, it expires: %s", error)

    async def _try_to_hold(self, seconds: float) -> bool:
        """One round, within so many seconds. The term runs from before the request: the server may take its time."""
        started = _monotonic()
        try:
            async with asyncio.timeout(seconds):
                held = await self._hold()
        except (AlreadyExists, Conflict):
            return False  # another replica was faster
        except (ApiError, TimeoutError) as error:
            logger.warning("the Lease %s/%s cannot be held: %s", self._namespace, self._name, error or "no answer")
            return False
        if held:
            self._renewed_at = started
        return held

    async def _hold(self) -> bool:
        try:
            lease = await self._api.get(LEASES, self._namespace, self._name)
        except NotFound:
            await self._api.create(LEASES, self._namespace, self._new_lease())
            return True
        self._observe(lease)
        if lease["spec"].get("holderIdentity") == self._identity:
            await self._write(lease, {})
            return True
        if not self._is_free(lease):
            return False
        transitions = int(lease["spec"].get("leaseTransitions") or 0) + 1
        await self._write(
            lease,
            {"holderIdentity": self._identity, "acquireTime": self._timestamp(), "leaseTransitions": transitions},
        )
        return True

    async def _write(self, lease: Json, changes: Json) -> None:
        spec = {**lease["spec"], "renewTime": self._timestamp(), "leaseDurationSeconds": int(self._terms.lease)}
        self._observe(await self._api.replace(LEASES, {**lease, "spec": {**spec, **changes}}))

    def _observe(self, lease: Json) -> None:
        """Remember when the Lease last moved, by our own clock."""
        if self._seen is None or self._seen["spec"] != lease["spec"]:
            self._seen = lease
            self._seen_at = _monotonic()

    def _is_free(self, lease: Json) -> bool:
        duration = float(lease["spec"].get("leaseDurationSeconds") or self._terms.lease)
        return not lease["spec"].get("holderIdentity") or _monotonic() - self._seen_at > duration

    def _is_held_by_another(self) -> bool:
        return self._seen is not None and self._seen["spec"].get("holderIdentity") not in {self._identity, ""}

    def _new_lease(self) -> Json:
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(self._terms.lease),
                "acquireTime": self._timestamp(),
                "renewTime": self._timestamp(),
                "leaseTransitions": 0,
            },
        }

    def _timestamp(self) -> str:
        """MicroTime."""
        return self._clock.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _monotonic() -> float:
    return asyncio.get_running_loop().time()
