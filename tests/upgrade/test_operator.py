"""From the released operator and its CRDs to today's, in both orders, while jobs are in each phase of their life.

The old operator is a process of the released commit. An upgrade that uses no new field is no reason for a new run, for
another attempt or for a final state, whichever part comes first.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.kit.apiserver import ApiServer, Object
from dev.kit.jobs import condition, is_observed
from dev.localcluster.cluster import Cluster
from dev.localcluster.waiting import until
from finetune_operator.ports import JOBS
from tests.api import crds
from tests.api.conftest import scene
from tests.api.fakekubelet import FakeKubelet
from tests.api.operatorprocess import OperatorProcess, trouble
from tests.upgrade.lives import LIVES
from tests.upgrade.released import FIXTURES

pytestmark = [pytest.mark.cluster, pytest.mark.serial]

NEW_FIELD = "fieldOfTomorrow"
"""Below spec.training of the new CRD: so that it differs from the old one also while nothing else does."""
RUN_HASH_PREFIX = "v2:"
"""Of a run hash that today's operator has taken over."""


@dataclass(frozen=True)
class State:
    """What of a job an upgrade must not touch.

    The phase is left out: these pods run without a node, and each time the scheduler says so a training job is Pending.
    """

    run: int
    attempt: int
    prepare_attempt: int
    failures: int
    history: int
    succeeded: str
    children: frozenset[tuple[str, str]]
    """Name and uid of its Jobs: one that is made anew has another uid."""

    def differences(self, job: str, after: State) -> list[str]:
        """A line for each field that is not what it was."""
        was, is_ = asdict(self), asdict(after)
        return [f"{job}: {name} was {was[name]}, is {is_[name]}" for name in was if was[name] != is_[name]]


class Crds:
    """Of the release or of today, on a server that has only one of them."""

    def __init__(self, kubectl: Any, api: crds.Api) -> None:
        self._kubectl, self._api = kubectl, api

    def install_released(self) -> None:
        for path in sorted((FIXTURES / "crds").glob("*.yaml")):
            self._apply(yaml.safe_load(path.read_text()))
        until("the CRDs of the release are served", lambda: not self._has_new_field())

    def install_todays(self) -> None:
        """With one field more, which has no default, as new fields have none."""
        jobs = crds.crd("FineTuneJob")
        [version] = jobs["spec"]["versions"]
        training = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["training"]
        training["properties"][NEW_FIELD] = {"type": "integer", "description": "For this test."}
        for document in (jobs, crds.crd("GPUClass")):
            self._apply(document)
        until("the CRDs of today are served", self._has_new_field)

    def restore(self) -> None:
        crds.install(self._kubectl)

    def _apply(self, document: Object) -> None:
        self._kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump(document))

    def _has_new_field(self) -> bool:
        """Asked of the server: it takes up a schema a moment after it has stored it."""
        job = copy.deepcopy(crds.JOB)
        job["spec"]["training"][NEW_FIELD] = 1
        return self._api.refusal(job) is None


class Upgrade:
    """One control plane that is taken from the release to today, part by part."""

    def __init__(self, kubelet: FakeKubelet, versions: Crds, old: OperatorProcess, new: OperatorProcess) -> None:
        self.kubelet, self._versions, self._old, self._new = kubelet, versions, old, new
        self._edits = 3

    def crds(self) -> None:
        self._versions.install_todays()

    def operator(self) -> None:
        assert self._old.stop() == 0, self._old.log()
        self._new.start()

    def state(self) -> dict[str, State]:
        return {name: self._state_of(name) for name in LIVES}

    def _state_of(self, name: str) -> State:
        job = self.kubelet.get(name)
        status: Object = job["status"]
        children = self.kubelet.api.children(JOBS, self.kubelet.namespace, name)
        return State(
            run=status["run"],
            attempt=status.get("attempt", 0),
            prepare_attempt=status.get("prepareAttempt", 0),
            failures=status.get("failures", 0),
            history=len(status.get("history", [])),
            succeeded=condition(job, "Succeeded")["status"],
            children=frozenset((child["metadata"]["name"], child["metadata"]["uid"]) for child in children),
        )

    def explain(self) -> str:
        return "\n".join(self.kubelet.explain(name) for name in LIVES)

    def edit_all(self) -> None:
        """A field that trains nothing. The operator that has observed it has also compared run hashes."""
        self._edits += 1
        for name in LIVES:
            self.kubelet.change(name, retries=self._edits)
        for name in LIVES:
            self.kubelet.wait(name, "observed", is_observed)


ORDERS: dict[str, tuple[Callable[[Upgrade], None], ...]] = {
    "operator first": (Upgrade.operator, Upgrade.crds),
    "CRDs first": (Upgrade.crds, Upgrade.operator),
}


@pytest.fixture
def upgrade(
    control_plane: Cluster, api: ApiServer, kubeconfig: Path, release: Path, tmp_path: Path
) -> Iterator[Upgrade]:
    asked = crds.Api(kubeconfig, None)
    versions = Crds(control_plane.kubectl, asked)
    with closing(asked), scene(control_plane, api, "upgrade") as kubelet:
        path = {"PYTHONPATH": f"{release}/operator:{release}/trainer_image"}
        assert_imports_from(release, path)
        old = OperatorProcess(kubeconfig, tmp_path / "old.log", kubelet.namespace, env=path)
        new = OperatorProcess(kubeconfig, tmp_path / "new.log", kubelet.namespace)
        kubelet.log = lambda: f"{old.log()}\n--- the new operator\n{new.log()}"
        try:
            versions.install_released()
            old.start()
            yield Upgrade(kubelet, versions, old, new)
            found = trouble(new.log(), api_server_was_away=True)
            assert not found, found
        finally:
            old.stop()
            new.stop()
            versions.restore()


@pytest.mark.parametrize("order", ORDERS)
def test_no_job_loses_its_run_or_attempt_in_an_upgrade(upgrade: Upgrade, order: str) -> None:
    lives = [life(upgrade.kubelet, name) for name, life in LIVES.items()]
    for life in lives:
        next(life)
    upgrade.edit_all()
    before = upgrade.state()

    for part in ORDERS[order]:
        part(upgrade)
        upgrade.edit_all()
        after = upgrade.state()
        touched = [line for name in LIVES for line in before[name].differences(name, after[name])]
        assert not touched, "\n".join([f"touched by the upgrade of the {part.__name__}:", *touched, upgrade.explain()])

    hashes = {name: upgrade.kubelet.get(name)["status"]["runHash"] for name in LIVES}
    assert {name: hash_ for name, hash_ in hashes.items() if not hash_.startswith(RUN_HASH_PREFIX)} == {}
    for life in lives:
        assert list(life) == []  # to its end


def assert_imports_from(release: Path, environment: dict[str, str]) -> None:
    """Else the test would upgrade from today to today."""
    code = "import finetune_operator, finetune_contract; print(finetune_operator.__file__, finetune_contract.__file__)"
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert all(path.startswith(str(release)) for path in answer.stdout.split()), answer.stdout
