"""The chart, rendered by the real Helm. Needs no cluster."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.localcluster.helm import ensure
from dev.localcluster.layout import Layout

CHART = Path(__file__).parents[2] / "helm" / "finetune-operator"
Object = dict[str, Any]


class ChartError(Exception):
    """Helm refused; the text is what a user reads."""


class Rendered:
    """What Helm would send to the cluster."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.objects: list[Object] = [document for document in yaml.safe_load_all(text) if document]

    def all(self, kind: str) -> list[Object]:
        return [one for one in self.objects if one["kind"] == kind]

    def names(self, kind: str) -> list[str]:
        return [one["metadata"]["name"] for one in self.all(kind)]

    def one(self, kind: str, name: str | None = None) -> Object:
        [found] = [one for one in self.all(kind) if name is None or one["metadata"]["name"] == name]
        return found


class Helm:
    def __init__(self, program: Path) -> None:
        self.program = program

    def __call__(self, *words: str, values: Mapping[str, Any] | None = None) -> str:
        stdin = json.dumps(values or {})
        done = subprocess.run([self.program, *words], input=stdin, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ChartError(done.stderr)
        return done.stdout

    @functools.cache  # noqa: B019 - one Helm for the whole session
    def _template(self, values: str, words: tuple[str, ...]) -> str:
        arguments = ("template", "finetune-operator", str(CHART), "--namespace", "finetune-system", "--values", "-")
        return self(*arguments, *words, values=json.loads(values))

    def template(self, values: Mapping[str, Any] | None = None, *words: str) -> Rendered:
        return Rendered(self._template(json.dumps(values or {}), words))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first one may have to wait until Helm is compiled, beside a Kubernetes that is compiled, too."""
    for item in items:
        if "helm" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Helm of the PATH, else built from its Go module."""
    return Helm(ensure(Layout.default().cache))


@pytest.fixture(scope="session")
def render(helm: Helm) -> Callable[..., Rendered]:
    """Renders the chart with these values over its own."""
    return helm.template
