"""A local registry between image builds and nodes, so that a node pulls only the layers it lacks."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import yaml

from dev.localcluster.daemons import Daemon
from dev.localcluster.layout import Layout

NAME = "registry"
# containerd and buildah speak plain HTTP to a registry called localhost, without any configuration.
HOST = "localhost:5000"
_MANIFEST_TYPES = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"


def daemon(layout: Layout) -> Daemon:
    config = layout.daemons / NAME / "config.yml"
    return Daemon(NAME, ("docker-registry", "serve", str(config)), files={config: render(layout.cache / "registry")})


def render(folder: Path) -> str:
    """The registry's configuration: open, as it listens on the loopback only."""
    return yaml.safe_dump(
        {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder)}, "delete": {"enabled": True}},
            "http": {"addr": "127.0.0.1:5000"},
        }
    )


def is_ready() -> bool:
    """Whether it answers."""
    return _request(f"http://{HOST}/v2/") is not None


def holds(reference: str) -> bool:
    """Whether `localhost:5000/name:tag` was pushed."""
    _, _, rest = reference.partition("/")
    repository, _, tag = rest.rpartition(":")
    return _request(f"http://{HOST}/v2/{repository}/manifests/{tag}", Accept=_MANIFEST_TYPES) is not None


def _request(url: str, **headers: str) -> bytes | None:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:
            body: bytes = answer.read()
            return body
    except (urllib.error.URLError, OSError):
        return None
