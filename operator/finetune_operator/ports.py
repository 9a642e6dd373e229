"""What the reconciler needs from the outside, as protocols: the shell implements them, tests/fakes imitates them.

Objects cross this border as plain JSON dictionaries, exactly as the API server returns them. Every method may raise
`Retryable`; the other errors are named where they can occur. Nothing else may be raised: an unexpected exception is
a bug.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol

from finetune_contract.names import LABEL_JOB_NAME
from finetune_contract.progress import ProgressRecord
from finetune_operator.core.fleet import Fleet
from finetune_operator.core.plan import Event

Json = dict[str, Any]
"""An object of the API, as JSON. Treated as immutable once it has crossed the border."""


# --- resources ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Resource:
    """One kind of object of the API. `group` is empty for the core group."""

    group: str
    version: str
    plural: str
    kind: str
    is_namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def key(self, namespace: str | None, name: str) -> "Key":
        """Of the object of this name."""
        return Key(self.kind, namespace or "", name)


FINETUNEJOBS = Resource("finetune.dev", "v1alpha1", "finetunejobs", "FineTuneJob")
GPUCLASSES = Resource("finetune.dev", "v1alpha1", "gpuclasses", "GPUClass", is_namespaced=False)
JOBS = Resource("batch", "v1", "jobs", "Job")
PODS = Resource("", "v1", "pods", "Pod")
SERVICES = Resource("", "v1", "services", "Service")
NODES = Resource("", "v1", "nodes", "Node", is_namespaced=False)
EVENTS = Resource("", "v1", "events", "Event")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")


class Key(NamedTuple):
    """Which object has to be looked at."""

    kind: str
    namespace: str
    """Empty for cluster-scoped kinds."""
    name: str

    def __str__(self) -> str:
        """For logs: `default/faq` is a FineTuneJob, other kinds are named: `gpuclass/a100-80gb`."""
        kind = "" if self.kind == FINETUNEJOBS.kind else self.kind.lower()
        return "/".join(part for part in (kind, self.namespace, self.name) if part)


def key_of(resource: Resource, obj: Json) -> Key:
    """Of the object itself."""
    metadata = obj["metadata"]
    return resource.key(metadata.get("namespace"), metadata["name"])


def job_key_of(obj: Json) -> Key | None:
    """The FineTuneJob that this child works for, by its label; None when it works for none."""
    metadata = obj["metadata"]
    job = (metadata.get("labels") or {}).get(LABEL_JOB_NAME)
    return FINETUNEJOBS.key(metadata["namespace"], job) if job and metadata.get("namespace") else None


# --- errors ------------------------------------------------------------------------------------------------------
class ApiError(Exception):
    """Base of what a `KubeApi` raises; the text is fit for a condition's message."""


class NotFound(ApiError):
    """404: the object is not there (any more)."""


class AlreadyExists(ApiError):
    """409 on create: an object of that name is there."""


class Conflict(ApiError):
    """409 on replace (another resourceVersion) or delete (another uid): look again before deciding again."""


class Retryable(ApiError):
    """The same request may succeed later: 429, 5xx, time-out, connection lost, 401 and 403 of revoked rights.
    It may also *have been committed*: whatever follows must be idempotent."""

    def __init__(self, message: str, delay: float | None = None) -> None:
        super().__init__(message)
        self.delay = delay
        """Seconds the server asked to wait (Retry-After); None when it did not say."""


class Terminal(ApiError):
    """The server refuses this request and would refuse it again unchanged: 400, 403 of an admission check (quota,
    policy), 413, 422."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """CamelCase, from the server's Status object: `Invalid`, `Forbidden`, …"""


# --- the API server ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Listing:
    items: Sequence[Json]
    """Each item carries `apiVersion` and `kind` (the server leaves them out of lists: put them back)."""
    resource_version: str
    """Of the list: where a watch would resume."""


Propagation = Literal["Background", "Foreground", "Orphan"]


class KubeApi(Protocol):
    """The API server. `namespace` is None exactly for cluster-scoped resources (list: also for all namespaces)."""

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Json:
        """Raises NotFound."""
        ...

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> Listing:
        """All pages; equality selectors only. Consistent (never served from an older cache)."""
        ...

    async def create(self, resource: Resource, namespace: str | None, body: Json) -> Json:
        """POST; returns the stored object. Raises AlreadyExists, Terminal; NotFound when the namespace is gone."""
        ...

    async def replace(self, resource: Resource, body: Json) -> Json:
        """PUT; `body` carries metadata.resourceVersion. Raises Conflict, NotFound, Terminal."""
        ...

    async def replace_status(self, resource: Resource, body: Json) -> Json:
        """PUT of the status subresource; only `status` of `body` counts, and metadata.resourceVersion must match.
        Raises Conflict, NotFound, Terminal."""
        ...

    async def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str,
        propagation: Propagation = "Background",
    ) -> None:
        """With a uid precondition. Raises NotFound, and Conflict when the object of that name has another uid."""
        ...


# --- what is known without asking --------------------------------------------------------------------------------
@dataclass(frozen=True)
class Change:
    """Something in the cluster is new, changed or gone."""

    resource: Resource
    before: Json | None
    """None when the object is new."""
    after: Json | None
    """None when it is gone."""
    gpu_classes: frozenset[str] = frozenset()
    """Names of the GPUClasses whose definition, nodes or devices it moved."""

    @property
    def obj(self) -> Json:
        """The object as it is now, or as it was last seen."""
        found = self.after if self.after is not None else self.before
        assert found is not None
        return found

    @property
    def key(self) -> Key:
        """Of the object itself."""
        return key_of(self.resource, self.obj)


class Observed(Protocol):
    """The cache, fed by watches and repaired by lists. It may lag behind the server, never run ahead of it."""

    def find(self, key: Key) -> Json | None:
        """The object of that kind and name; None when there is none."""
        ...

    def child_jobs(self, key: Key) -> Sequence[Json]:
        """Jobs in the namespace with the labels managed-by and job-name of `key`, whoever owns them."""
        ...

    def child_pods(self, key: Key) -> Sequence[Json]:
        """Pods, likewise."""
        ...

    def departed_pods(self, key: Key) -> Sequence[Json]:
        """The last state that was seen of pods that are gone, while their Job is there: their termination records
        are evidence that nothing else carries (a Complete Job whose pods were deleted). Empty after a restart.
        Never to be counted as running, and older than what `child_pods` says of a resumed Job."""
        ...

    def fleet(self) -> Fleet:
        """Nodes and GPUClasses, parsed once for each change of one of them."""
        ...

    def note(self, resource: Resource, obj: Json) -> None:
        """Take in what a write of ours returned, unless the cache already has a newer resourceVersion."""
        ...


class ProgressSource(Protocol):
    def latest(self, key: Key, run: int, attempt: int) -> ProgressRecord | None:
        """The newest record pulled from rank 0 of that attempt; None when there is none."""
        ...


# --- time and events ---------------------------------------------------------------------------------------------
class Clock(Protocol):
    def now(self) -> datetime:
        """Wall-clock time, aware, UTC."""
        ...


class EventSink(Protocol):
    async def post(self, involved: Json, event: Event) -> None:
        """Best effort and bounded: never raises, may drop. `involved` is the object that the event is about."""
        ...


__all__ = [
    "EVENTS",
    "FINETUNEJOBS",
    "GPUCLASSES",
    "JOBS",
    "LEASES",
    "NODES",
    "PODS",
    "SERVICES",
    "AlreadyExists",
    "ApiError",
    "Change",
    "Clock",
    "Conflict",
    "Event",
    "EventSink",
    "Json",
    "Key",
    "KubeApi",
    "Listing",
    "NotFound",
    "Observed",
    "ProgressSource",
    "Propagation",
    "Resource",
    "Retryable",
    "Terminal",
    "job_key_of",
    "key_of",
]
