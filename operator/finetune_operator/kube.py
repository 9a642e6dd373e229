"""The API server, through the official client: the only module that imports it.

Objects stay raw JSON: decoding into the client's models costs ten times the time and three times the memory. Errors of
HTTP become the errors of `ports`; nothing is retried here, the work queue does that.
"""

import json
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio import client, config

from finetune_operator import __version__
from finetune_operator.ports import (
    LEASES,
    AlreadyExists,
    ApiError,
    Conflict,
    Json,
    Listing,
    NotFound,
    Propagation,
    Resource,
    Retryable,
    Terminal,
)

USER_AGENT = f"finetune-operator/{__version__}"
PAGE = 500
"""Objects in one answer of a list."""
_TIMEOUT_SECONDS = 30.0
_SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
# What the RBAC authorizer says; an admission plugin (quota, policy) also answers 403, in other words.
_NO_RIGHTS = re.compile(r'\bUser "[^"]*" cannot ')


class NoClusterError(Exception):
    """No service account or kubeconfig leads to a cluster; the message says what to do."""


@dataclass(frozen=True)
class Access:
    """How to reach the API server, for the second client in the process (kopf's watches)."""

    server: str
    ca_path: str | None
    certificate_path: str | None
    key_path: str | None
    authorization: str | None
    """Value of the header."""
    is_verified: bool


async def load_configuration(kubeconfig: Path | None = None) -> client.Configuration:
    """A kubeconfig, else the pod's service account, else KUBECONFIG or ~/.kube/config. Raises NoClusterError."""
    configuration = client.Configuration()
    try:
        if kubeconfig is not None:
            await config.load_kube_config(str(kubeconfig), client_configuration=configuration)
        elif _SERVICE_ACCOUNT_TOKEN.is_file():  # noqa: ASYNC240 - once, at the start
            config.load_incluster_config(client_configuration=configuration)
        else:
            # Named, as the client has read KUBECONFIG when it was imported.
            await config.load_kube_config(_kubeconfig(), client_configuration=configuration)
    except (config.ConfigException, OSError) as error:
        raise NoClusterError(
            f"no cluster: {error}. Inside a cluster, the pod needs its service account token; "
            "outside a cluster, set KUBECONFIG to a file with a current context"
        ) from error
    return configuration


def _kubeconfig() -> str:
    return os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")


async def access(configuration: client.Configuration) -> Access:
    """Reads a rotated token again."""
    return Access(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        certificate_path=configuration.cert_file,
        key_path=configuration.key_file,
        authorization=await configuration.get_api_key_with_prefix("BearerToken", alias="authorization"),
        is_verified=configuration.verify_ssl,
    )


@asynccontextmanager
async def connect(
    configuration: client.Configuration, on_request: Callable[[str, str, str], None] = lambda verb, resource, code: None
) -> AsyncIterator["KubeClient"]:
    """A client that is open inside the `with` block."""
    async with client.ApiClient(configuration) as api_client:
        api_client.user_agent = USER_AGENT
        yield KubeClient(api_client, on_request)


class KubeClient:
    """`ports.KubeApi`.

    Args:
        api_client: of `kubernetes.aio`.
        on_request: called with verb, resource and code (`error` without an answer) of each request.
    """

    def __init__(self, api_client: client.ApiClient, on_request: Callable[[str, str, str], None]) -> None:
        self._client = api_client
        self._on_request = on_request
        self._may_write: Callable[[], bool] = lambda: True

    def fence(self, may_write: Callable[[], bool]) -> None:
        """Refuse every write except to a Lease while this returns False: the last guard against two leaders."""
        self._may_write = may_write

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Json:
        return await self._request("get", "GET", resource, path_to(resource, namespace, name))

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> Listing:
        query = {"limit": str(PAGE)}
        if labels:
            query["labelSelector"] = _selector(labels)
        if fields:
            query["fieldSelector"] = _selector(fields)
        items: list[Json] = []
        while True:
            page = await self._request("list", "GET", resource, path_to(resource, namespace), query=query)
            # The server leaves apiVersion and kind out of the items of a list.
            items += [{"apiVersion": resource.api_version, "kind": resource.kind, **item} for item in page["items"]]
            metadata = page["metadata"]
            if not metadata.get("continue"):
                return Listing(items, metadata["resourceVersion"])
            query["continue"] = metadata["continue"]

    async def create(self, resource: Resource, namespace: str | None, body: Json) -> Json:
        return await self._request("create", "POST", resource, path_to(resource, namespace), body=body)

    async def replace(self, resource: Resource, body: Json) -> Json:
        return await self._request("update", "PUT", resource, _path_of(resource, body), body=body)

    async def replace_status(self, resource: Resource, body: Json) -> Json:
        return await self._request("update_status", "PUT", resource, _path_of(resource, body) + "/status", body=body)

    async def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str,
        propagation: Propagation = "Background",
    ) -> None:
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
            "preconditions": {"uid": uid},
        }
        await self._request("delete", "DELETE", resource, path_to(resource, namespace, name), body=options)

    async def _request(
        self,
        verb: str,
        method: str,
        resource: Resource,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
    ) -> Json:
        what = f"{verb} {path}"
        if method != "GET" and resource != LEASES and not self._may_write():
            raise Retryable(f"{what}: not the leader (any more)")
        code = "error"
        try:
            response = await self._client.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json"},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=_TIMEOUT_SECONDS,
            )
            async with response:
                code = str(response.status)
                text = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Retryable(f"{what}: {error or type(error).__name__}") from error
        finally:
            self._on_request(verb, resource.plural, code)
        if response.status < 300:
            return _parse(text, what)
        raise error_of(what, response.status, text, response.headers)


def error_of(what: str, status: int, text: bytes, headers: Mapping[str, str]) -> ApiError:
    """The error of `ports` for an answer other than 2xx."""
    answer = _status_object(text)
    reason = str(answer.get("reason") or f"Http{status}")
    message = f"{what}: {answer.get('message') or text[:200].decode(errors='replace') or f'HTTP {status}'}"
    causes = {cause.get("reason") for cause in (answer.get("details") or {}).get("causes") or ()}
    delay = _retry_after(headers, answer)
    match status:
        case 404:
            return NotFound(message)
        case 409 if reason == "AlreadyExists":
            return AlreadyExists(message)
        case 409 if what.startswith("create"):
            return Retryable(message, delay)  # a quota's own counter was contended, not our object
        case 409:
            return Conflict(message)
        case 403 if "NamespaceTerminating" in causes:
            return NotFound(message)
        case 401 | 403 if status == 401 or _NO_RIGHTS.search(message):
            return Retryable(message, delay)
        case 400 | 403 | 405 | 413 | 415 | 422:
            return Terminal(reason, message)
        case _:
            return Retryable(message, delay)


def _retry_after(headers: Mapping[str, str], answer: Json) -> float | None:
    value = headers.get("Retry-After") or (answer.get("details") or {}).get("retryAfterSeconds")
    try:
        return float(value) if value else None
    except ValueError:  # a date, which the API server never sends
        return None


def _status_object(text: bytes) -> Json:
    try:
        answer = json.loads(text)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) and answer.get("kind") == "Status" else {}


def _parse(text: bytes, what: str) -> Json:
    try:
        answer: Any = json.loads(text)
    except ValueError as error:
        raise Retryable(f"{what}: an answer that is not JSON") from error
    if not isinstance(answer, dict):
        raise Retryable(f"{what}: an answer that is not an object")
    return answer


def _selector(terms: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(terms.items()))


def _path_of(resource: Resource, body: Json) -> str:
    return path_to(resource, body["metadata"].get("namespace"), body["metadata"]["name"])


def path_to(resource: Resource, namespace: str | None, name: str | None = None) -> str:
    """Of the collection, or of one object in it, as the API server serves it."""
    root = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{scope}/{resource.plural}" + (f"/{name}" if name else "")
