"""The API server as a test drives it: raw JSON, resources by the operator's own names, no process per call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kubernetes import client, config
from urllib3.exceptions import HTTPError

from dev.kit.specs import Object
from dev.localcluster.errors import CurableError
from finetune_contract import names
from finetune_operator.kube import path_to
from finetune_operator.ports import Resource

Objects = list[Object]

_MERGE_PATCH = "application/merge-patch+json"


class Missing(Exception):
    """404."""


class ApiServer:
    """Synchronous; one connection pool.

    Args:
        context: of the kubeconfig; its current one when left out.
    """

    def __init__(self, kubeconfig: Path, context: str | None = None) -> None:
        self._client = config.new_client_from_config(config_file=str(kubeconfig), context=context)
        self._client.configuration.retries = 3

    def close(self) -> None:
        self._client.close()

    def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        return self._call("GET", path_to(resource, namespace, name))

    def list(self, resource: Resource, namespace: str | None = None, **labels: str) -> Objects:
        query = [("labelSelector", ",".join(f"{key}={value}" for key, value in labels.items()))] if labels else []
        return list(self._call("GET", path_to(resource, namespace), query=query)["items"])

    def children(self, resource: Resource, namespace: str, job: str, **labels: str) -> Objects:
        """What works for a FineTuneJob, oldest first."""
        found = self.list(resource, namespace, **{names.LABEL_JOB_NAME: job, **labels})
        return sorted(found, key=lambda obj: (obj["metadata"]["creationTimestamp"], obj["metadata"]["name"]))

    def create(self, resource: Resource, namespace: str | None, body: Object) -> Object:
        return self._call("POST", path_to(resource, namespace), body=body)

    def patch(
        self, resource: Resource, namespace: str | None, name: str, body: Object, subresource: str = ""
    ) -> Object:
        path = path_to(resource, namespace, name) + (f"/{subresource}" if subresource else "")
        return self._call("PATCH", path, body=body, content_type=_MERGE_PATCH)

    def delete(self, resource: Resource, namespace: str | None, name: str, **options: Any) -> None:
        self._call("DELETE", path_to(resource, namespace, name), body={"propagationPolicy": "Background", **options})

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        try:
            response = self._client.call_api(
                path,
                method,
                query_params=query,
                header_params={"Accept": "application/json", "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=30,
            )
        except client.ApiException as error:
            if error.status == 404:
                raise Missing(path) from error
            raise AssertionError(f"{method} {path}: {error.status} {error.body}") from error
        except HTTPError as error:
            raise CurableError(
                f"The API server at {self._client.configuration.host} does not answer: {error}",
                "Look at it with `make status`; `make up` starts what is missing of the local cluster.",
            ) from error
        return dict(json.loads(response.data))
