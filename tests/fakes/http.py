"""The wire between `kube.KubeClient` and an API server in memory: requests and answers as the real client sees them."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune_operator.ports import (
    EVENTS,
    FINETUNEJOBS,
    GPUCLASSES,
    JOBS,
    LEASES,
    NODES,
    PODS,
    SERVICES,
    AlreadyExists,
    Conflict,
    Json,
    NotFound,
    Resource,
)
from tests.fakes.kubernetes import FakeKubeApi

_RESOURCES = {
    (each.group, each.plural): each for each in (EVENTS, FINETUNEJOBS, GPUCLASSES, JOBS, LEASES, NODES, PODS, SERVICES)
}
_ERRORS = {NotFound: (404, "NotFound"), AlreadyExists: (409, "AlreadyExists"), Conflict: (409, "Conflict")}


class FakeApiClient:
    """`kubernetes.aio.client.ApiClient`, as far as KubeClient uses it.

    Args:
        on_answer: called with method and resource when an answer is on its way back.
    """

    def __init__(
        self, connection: FakeKubeApi, on_answer: Callable[[str, Resource], None] = lambda method, resource: None
    ) -> None:
        self._connection = connection
        self._on_answer = on_answer

    async def call_api(
        self, path: str, method: str, *, query_params: Sequence[tuple[str, str]] = (), body: Any = None, **_: Any
    ) -> "_Response":
        resource, namespace, name, is_status = _parts(path)
        try:
            answer = await self._answer(method, resource, namespace, name, dict(query_params), body, is_status)
            response = _Response(200, answer)
        except tuple(_ERRORS) as error:
            status, reason = _ERRORS[type(error)]
            response = _Response(status, {"kind": "Status", "reason": reason, "message": str(error)})
        self._on_answer(method, resource)
        await asyncio.sleep(0)
        return response

    async def _answer(
        self,
        method: str,
        resource: Resource,
        namespace: str | None,
        name: str | None,
        query: Mapping[str, str],
        body: Json,
        is_status: bool,
    ) -> Json:
        connection = self._connection
        if method == "GET" and name is None:
            labels, fields = _terms(query.get("labelSelector")), _terms(query.get("fieldSelector"))
            listing = await connection.list(resource, namespace, labels=labels, fields=fields)
            return {"items": list(listing.items), "metadata": {"resourceVersion": listing.resource_version}}
        if method == "POST":
            return await connection.create(resource, namespace, body)
        if method == "PUT":
            return await (connection.replace_status if is_status else connection.replace)(resource, body)
        assert name is not None
        if method == "GET":
            return await connection.get(resource, namespace, name)
        await connection.delete(resource, namespace, name, uid=body["preconditions"]["uid"])
        return {}


class _Response:
    headers: Mapping[str, str] = {}

    def __init__(self, status: int, body: Json) -> None:
        self.status = status
        self._text = json.dumps(body).encode()

    async def __aenter__(self) -> "_Response":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def read(self) -> bytes:
        return self._text


def _parts(path: str) -> tuple[Resource, str | None, str | None, bool]:
    """Resource, namespace, name, and whether the status is meant."""
    _, root, *rest = path.split("/")
    group = rest.pop(0) if root == "apis" else ""
    rest.pop(0)  # version
    namespace = None
    if rest[0] == "namespaces":
        namespace = rest[1]
        rest = rest[2:]
    resource = _RESOURCES[group, rest[0]]
    return resource, namespace, rest[1] if len(rest) > 1 else None, rest[2:] == ["status"]


def _terms(selector: str | None) -> dict[str, str]:
    return dict(term.split("=", 1) for term in selector.split(",")) if selector else {}
