"""The operator killed, stopped, doubled and cut off: the job ends as if nothing had been."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dev.kit.apiserver import ApiServer
from dev.localcluster.cluster import Cluster
from dev.localcluster.errors import UnsupportedError
from dev.localcluster.waiting import until
from finetune_operator.ports import FINETUNEJOBS, JOBS, LEASES
from tests.api.fakekubelet import FakeKubelet
from tests.api.operatorprocess import OperatorProcess, trouble
from tests.builders.records import failed_record, prepared_record, trained_record

pytestmark = pytest.mark.races

_ERRORS = "finetune_operator_reconcile_errors_total"
Own = tuple[FakeKubelet, OperatorProcess]


def test_a_kill_in_each_phase_changes_nothing(own: Own) -> None:
    kubelet, operator = own
    kubelet.apply("kill")
    operator.restart()
    pods = kubelet.run("kill", "kill-r1-p1")
    operator.kill()
    kubelet.end(pods, 0, prepared_record())  # while nobody looks
    operator.start()
    kubelet.job("kill", "kill-r1-a1")
    operator.restart()
    pods = kubelet.run("kill", "kill-r1-a1")
    operator.kill()
    kubelet.end(pods, 0, trained_record())
    operator.start()
    job = kubelet.wait_finished("kill")

    assert (job["status"]["run"], job["status"]["attempt"], job["status"]["prepareAttempt"]) == (1, 1, 1)
    assert [entry["role"] for entry in job["status"]["history"]] == ["train", "prepare"]
    operator.restart()
    assert kubelet.get("kill")["status"] == job["status"]


def test_kills_at_random_moments_leave_one_job_of_each_kind(own: Own, figure: Callable[[str, object], None]) -> None:
    kubelet, operator = own
    seed = random.SystemRandom().randrange(10_000)
    figure("seed", seed)
    moments = random.Random(seed)
    for index in range(3):
        kubelet.apply(f"chaos-{index}")
        time.sleep(moments.uniform(0, 0.25))
        operator.kill()
        operator.start()
    for index in range(3):
        name = f"chaos-{index}"
        kubelet.prepare(name, prepared_record())
        kubelet.end(kubelet.run(name, f"{name}-r1-a1"), 0, trained_record())
        kubelet.wait_finished(name)
        assert len(kubelet.api.children(JOBS, kubelet.namespace, name)) <= 2


@pytest.mark.parametrize("is_stopped", [False, True], ids=["operator runs", "operator is stopped"])
def test_a_job_can_be_deleted_in_each_phase(own: Own, is_stopped: bool) -> None:
    kubelet, operator = own
    kubelet.apply("preparing")
    kubelet.run("preparing", "preparing-r1-p1")
    kubelet.apply("training")
    kubelet.prepare("training", prepared_record())
    kubelet.run("training", "training-r1-a1")
    kubelet.apply("suspended", suspend=True)
    kubelet.wait("suspended", "suspended", lambda job: (job.get("status") or {}).get("phase") == "Suspended")
    kubelet.apply("backing-off")
    record = failed_record(75, "StorageUnavailable", "503", role="prepare")
    kubelet.end(kubelet.run("backing-off", "backing-off-r1-p1"), 75, record)
    kubelet.wait("backing-off", "backing off", lambda job: job["status"].get("nextAttemptTime"))
    kubelet.apply("succeeded")
    kubelet.prepare("succeeded", prepared_record())
    kubelet.end(kubelet.run("succeeded", "succeeded-r1-a1"), 0, trained_record())
    kubelet.wait_finished("succeeded")

    if is_stopped:
        assert operator.stop() == 0
    everything = [job["metadata"]["name"] for job in kubelet.api.list(FINETUNEJOBS, kubelet.namespace)]
    assert len(everything) == 5
    for name in everything:
        kubelet.delete(name)
    for name in everything:
        kubelet.wait_gone(name)

    if is_stopped:
        operator.start()
    kubelet.apply("training")  # a namesake of a deleted one
    job = kubelet.wait("training", "planned", lambda job: (job.get("status") or {}).get("run") == 1)
    assert not job["status"].get("attempt")


def test_the_api_server_may_be_restarted(own: Own, control_plane: Cluster) -> None:
    kubelet, operator = own
    kubelet.apply("cut-off")
    kubelet.prepare("cut-off", prepared_record())
    pods = kubelet.run("cut-off", "cut-off-r1-a1")
    pid = operator.pid
    try:
        control_plane.restart_api_server()
    except UnsupportedError as error:
        pytest.skip(str(error))
    kubelet.end(pods, 0, trained_record())
    kubelet.wait("cut-off", "finished", lambda job: job["status"]["phase"] == "Succeeded", seconds=300)
    assert operator.pid == pid
    assert operator.is_running()
    assert operator.probe("/healthz") == 200


def test_two_operators_at_once_make_one_job(own: Own, kubeconfig: Path, tmp_path: Path) -> None:
    kubelet, _ = own
    other = OperatorProcess(kubeconfig, tmp_path / "other.log", kubelet.namespace)
    other.start()
    try:
        for index in range(3):
            kubelet.apply(f"both-{index}")
        for index in range(3):
            name = f"both-{index}"
            kubelet.prepare(name, prepared_record())
            kubelet.end(kubelet.run(name, f"{name}-r1-a1"), 0, trained_record())
            job = kubelet.wait_finished(name)
            assert (job["status"]["attempt"], job["status"]["prepareAttempt"]) == (1, 1)
    finally:
        assert other.stop() == 0
    assert not trouble(other.log())


def test_a_paused_leader_is_replaced_and_ends_when_it_wakes(
    control_plane: Cluster, api: ApiServer, kubeconfig: Path, tmp_path: Path
) -> None:
    from tests.api.conftest import scene

    with scene(control_plane, api, "lead") as kubelet:
        env = {"FINETUNE_LEADER_ELECTION": "true", "POD_NAMESPACE": kubelet.namespace}
        first, second = (
            OperatorProcess(kubeconfig, tmp_path / f"{name}.log", kubelet.namespace, env=env | {"POD_NAME": name})
            for name in ("first", "second")
        )
        kubelet.log = second.log
        first.start()
        until("the first one leads", lambda: first.metric("finetune_operator_leader"), seconds=300, explain=first.log)
        second.start()  # ready, as a stand-by
        try:
            assert _leader(api, kubelet.namespace).startswith("first")
            assert second.metric("finetune_operator_leader") == 0
            first.pause()
            kubelet.apply("orphan")
            kubelet.job("orphan", "orphan-r1-p1")
            assert _leader(api, kubelet.namespace).startswith("second")
            first.resume()
            assert first.wait_ended() != 0
            second.stop()
            assert _leader(api, kubelet.namespace) == ""  # released: the next one does not have to wait
        finally:
            first.kill()
            second.kill()


def test_revoked_rights_are_counted_and_their_return_needs_no_restart(
    control_plane: Cluster, api: ApiServer, kubeconfig: Path, tmp_path: Path
) -> None:
    from tests.api.conftest import scene

    kubectl = control_plane.kubectl
    with scene(control_plane, api, "rights") as kubelet:
        name = kubelet.namespace
        kubectl("create", "serviceaccount", name, "-n", name)
        account = f"--serviceaccount={name}:{name}"
        grant = ("create", "clusterrolebinding", name, "--clusterrole=cluster-admin", account)
        token = kubectl("create", "token", name, "-n", name).strip()
        kubectl(*grant)
        operator = OperatorProcess(_with_token(kubeconfig, token, tmp_path), tmp_path / "operator.log", name)
        kubelet.log = operator.log
        try:
            operator.start()
            pid = operator.pid
            kubelet.apply("revoked")
            pods = kubelet.run("revoked", "revoked-r1-p1")
            kubectl("delete", "clusterrolebinding", name)
            kubelet.end(pods, 0, prepared_record())
            until("an error is counted", lambda: operator.metric(_ERRORS) > 0, seconds=300, explain=operator.log)
            kubectl(*grant)
            kubelet.wait("revoked", "training", lambda job: job["status"].get("attempt") == 1, seconds=240)
            assert operator.pid == pid
            assert operator.is_running()
        finally:
            operator.kill()
            kubectl("delete", "clusterrolebinding", name, "--ignore-not-found")


def _with_token(kubeconfig: Path, token: str, folder: Path) -> Path:
    """The same cluster, as whom this token belongs to."""
    config = yaml.safe_load(kubeconfig.read_text())
    for user in config["users"]:
        user["user"] = {"token": token}
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


def _leader(api: ApiServer, namespace: str) -> str:
    return str(api.get(LEASES, namespace, "finetune-operator")["spec"].get("holderIdentity"))
