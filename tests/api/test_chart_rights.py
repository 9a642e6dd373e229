"""The chart against a real API server: what it renders is valid there, and the operator gets by with its rights."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.kit.ports import ReservedPort
from dev.kit.specs import Object, minimal_job
from dev.localcluster.commands import CommandError, output_of
from dev.localcluster.waiting import until
from tests.api.crds import install

pytestmark = pytest.mark.cluster

CHART = Path(__file__).parents[2] / "helm" / "finetune-operator"
EVERYTHING = {"replicaCount": 2, "networkPolicy": {"enabled": True}}
RIGHTS = {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}

MAY = [
    *(f"{verb} finetunejobs.finetune.dev" for verb in ("get", "list", "watch")),
    "update finetunejobs.finetune.dev/status",
    *(f"{verb} jobs.batch" for verb in ("create", "delete", "get", "list", "watch")),
    *(f"{verb} pods" for verb in ("list", "watch")),
    *(f"{verb} services" for verb in ("create", "get")),
    *(f"{verb} events" for verb in ("create", "list", "update")),
]
MAY_ON_THE_CLUSTER = [
    *(f"{verb} gpuclasses.finetune.dev" for verb in ("get", "list", "watch")),
    "update gpuclasses.finetune.dev/status",
    *(f"{verb} nodes" for verb in ("list", "watch")),
]
MAY_NOT = [
    "update finetunejobs.finetune.dev",
    "patch finetunejobs.finetune.dev",
    "delete finetunejobs.finetune.dev",
    "get secrets",
    "list secrets",
    "get configmaps",
    "create pods",
    "delete pods",
    "get pods/log",
    "create pods/exec",
    "update jobs.batch",
    "delete services",
    "update nodes",
    "create gpuclasses.finetune.dev",
]


@dataclass
class Release:
    """The chart's service account and roles, under names and in namespaces of their own."""

    cluster: Any
    values: dict[str, Any]
    name: str = field(default_factory=lambda: f"rights-{secrets.token_hex(3)}")

    @property
    def namespace(self) -> str:
        return self.name

    @property
    def account(self) -> str:
        return f"{self.name}-finetune-operator"

    def objects(self) -> list[Object]:
        words = ("--namespace", self.namespace, "--kube-version", "1.34.0", "--values", "-")
        text = output_of(
            self.cluster.helm, "template", self.name, str(CHART), *words, stdin=json.dumps(self.values), timeout=60
        )
        return [document for document in yaml.safe_load_all(text) if document]

    def may(self, what: str, namespace: str | None = None) -> bool:
        verb, resource = what.split()
        resource, _, subresource = resource.partition("/")
        words = [f"--subresource={subresource}"] if subresource else []
        who = f"--as=system:serviceaccount:{self.namespace}:{self.account}"
        try:
            self.cluster.kubectl("auth", "can-i", verb, resource, *words, who, "-n", namespace or self.namespace)
        except CommandError:
            return False
        return True

    def kubeconfig(self, folder: Path) -> Path:
        """The cluster's own, with the account's token."""
        config = yaml.safe_load(self.cluster.kubeconfig.read_text())
        token = self.cluster.kubectl("create", "token", self.account, "-n", self.namespace).strip()
        [context] = [one["context"] for one in config["contexts"] if one["name"] == self.cluster.context]
        config["current-context"] = self.cluster.context
        config["users"] = [{"name": context["user"], "user": {"token": token}}]
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return path


@pytest.fixture
def release(control_plane: Any) -> Iterator[Callable[..., Release]]:
    """Installs the rights of the chart with these values; gone afterwards."""
    made: list[Release] = []

    def make(values: dict[str, Any], *, watches_itself: bool = False) -> Release:
        install(control_plane.kubectl)
        one = Release(control_plane, values)
        if watches_itself:
            one.values = {**values, "watchNamespaces": [one.namespace]}
        made.append(one)
        control_plane.kubectl("create", "namespace", one.namespace)
        control_plane.kubectl.apply(*(each for each in one.objects() if each["kind"] in RIGHTS))
        return one

    yield make
    for one in made:
        control_plane.kubectl("delete", "namespace", one.namespace, "--wait=false")
        for kind in ("clusterrolebinding", "clusterrole"):
            control_plane.kubectl("delete", kind, "-l", f"app.kubernetes.io/instance={one.name}")


def test_every_object_of_the_chart_is_valid_for_the_api_server(control_plane: Any) -> None:
    install(control_plane.kubectl)
    chart = Release(control_plane, {**EVERYTHING, "watchNamespaces": ["default"]})
    objects = chart.objects()
    for one in objects:
        if "namespace" in one["metadata"]:
            one["metadata"]["namespace"] = "default"  # a dry run needs one that is there
        if one["kind"] == "GPUClass":
            one["metadata"]["name"] += ".dry-run"  # not the chart's that may be installed
    document = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    words = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
    printed = control_plane.kubectl(*words, stdin=document)
    assert len(printed.splitlines()) == len(objects)


def test_with_rights_in_all_namespaces_it_may_do_its_work_everywhere_and_nothing_else(release) -> None:
    one = release({})
    assert [what for what in MAY + MAY_ON_THE_CLUSTER if not one.may(what, "default")] == []
    assert [what for what in [*MAY_NOT, "get leases.coordination.k8s.io"] if one.may(what, "default")] == []


def test_with_rights_in_one_namespace_it_may_do_nothing_in_another(release) -> None:
    one = release({}, watches_itself=True)
    assert [what for what in MAY + MAY_ON_THE_CLUSTER if not one.may(what)] == []
    assert [what for what in MAY_NOT if one.may(what)] == []
    assert [what for what in MAY if one.may(what, "default")] == []


def test_a_lease_is_its_own_namespaces(release) -> None:
    one = release({"leaderElection": {"enabled": True}})
    leases = [f"{verb} leases.coordination.k8s.io" for verb in ("create", "get", "update")]
    assert all(one.may(what) for what in leases)
    assert not any(one.may(what, "default") for what in leases)


@pytest.mark.races
def test_the_operator_works_with_these_rights_and_is_never_forbidden_anything(release, tmp_path: Path) -> None:
    one = release({"leaderElection": {"enabled": True}}, watches_itself=True)
    kubectl, namespace, gpu_class = one.cluster.kubectl, one.namespace, one.name
    kubectl.apply(
        {"apiVersion": "finetune.dev/v1alpha1", "kind": "GPUClass", "metadata": {"name": gpu_class}, "spec": {}}
    )
    log = tmp_path / "operator.log"
    expect = partial(until, seconds=300)
    port = ReservedPort()
    process = _start_operator(one, port.number, tmp_path, log)
    try:
        until("the operator is ready", lambda: _answers(port.number, "/readyz"), seconds=300)
        job = minimal_job(changes={"resources.gpuClass": gpu_class})
        kubectl("create", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(job))

        def get(*words: str) -> Any:
            return kubectl.get("-n", namespace, *words)

        expect("the status is written", lambda: get("ftj", "faq").get("status", {}).get("observedGeneration") == 1)
        expect("a Job is created", lambda: get("jobs")["items"])
        expect("the class is counted", lambda: "nodes" in kubectl.get("gpuclass", gpu_class).get("status", {}))
        assert len(get("leases")["items"]) == 1
        kubectl("patch", "ftj", "faq", "-n", namespace, "--type=merge", "--patch", '{"spec": {"suspend": true}}')
        expect(
            "the Job is deleted", lambda: all("deletionTimestamp" in job["metadata"] for job in get("jobs")["items"])
        )
        expect("an event is posted", lambda: _events_about(get("events")["items"], "FineTuneJob"))
    finally:
        process.terminate()
        process.wait(timeout=300)
        kubectl("delete", "gpuclass", gpu_class)
    text = log.read_text()
    assert "forbidden" not in text.lower(), text
    assert "403" not in text, text


def _start_operator(one: Release, port: int, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "KUBECONFIG": str(one.kubeconfig(folder)),
        "FINETUNE_TRAINER_IMAGE": "image.invalid/trainer:none",
        "FINETUNE_WATCH_NAMESPACES": one.namespace,
        "FINETUNE_LEADER_ELECTION": "true",
        "FINETUNE_HTTP_PORT": str(port),
        "POD_NAME": "test",
        "POD_NAMESPACE": one.namespace,
    }
    with log.open("wb") as sink:
        argv = [sys.executable, "-m", "finetune_operator"]
        return subprocess.Popen(argv, env=environment, stdout=sink, stderr=sink)


def _answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _events_about(events: list[Object], kind: str) -> list[Object]:
    return [event for event in events if event["involvedObject"]["kind"] == kind]
