"""The same table against the in-memory API and the real API server: what the crash harness proves holds on both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from finetune_operator.ports import (
    EVENTS,
    FINETUNEJOBS,
    SERVICES,
    AlreadyExists,
    Conflict,
    Json,
    KubeApi,
    NotFound,
)
from tests.builders.jobs import make_job
from tests.fakes.clock import LoopClock
from tests.fakes.kubernetes import FakeCluster, FakeKubeApi

if TYPE_CHECKING:
    from finetune_operator.kube import KubeClient

Check = Callable[[KubeApi, str], Awaitable[None]]
CHECKS: list[Check] = []


def check(function: Check) -> Check:
    CHECKS.append(function)
    return function


def service(name: str, **labels: str) -> Json:
    ports = [{"name": "rendezvous", "port": 29500}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": labels},
        "spec": {"clusterIP": "None", "selector": {"a": "b"}, "ports": ports},
    }


def changed(obj: Json, **parts: Any) -> Json:
    return {**obj, **parts}


async def create_job(api: KubeApi, namespace: str, name: str = "faq") -> Json:
    return await api.create(FINETUNEJOBS, namespace, bare_job(name))


def bare_job(name: str = "faq") -> Json:
    return {**make_job(name).bare(), "metadata": {"name": name}}


# --- create and get ------------------------------------------------------------------------------------------
@check
async def what_is_not_there_is_not_found(api: KubeApi, namespace: str) -> None:
    with pytest.raises(NotFound):
        await api.get(FINETUNEJOBS, namespace, "nobody")


@check
async def a_created_object_has_its_identity_and_its_defaults(api: KubeApi, namespace: str) -> None:
    created = await create_job(api, namespace)
    assert created["metadata"]["generation"] == 1
    assert created["metadata"]["uid"]
    assert created["metadata"]["resourceVersion"]
    assert (created["apiVersion"], created["kind"]) == ("finetune.dev/v1alpha1", "FineTuneJob")
    assert created["spec"]["training"]["epochs"] == 3
    assert created["spec"]["checkpoint"]["everySteps"] == 100
    assert await api.get(FINETUNEJOBS, namespace, "faq") == created


@check
async def a_status_at_creation_is_ignored(api: KubeApi, namespace: str) -> None:
    created = await api.create(FINETUNEJOBS, namespace, changed(bare_job(), status={"phase": "Succeeded"}))
    assert "status" not in created


@check
async def a_name_is_used_once(api: KubeApi, namespace: str) -> None:
    await api.create(SERVICES, namespace, service("faq-r1"))
    with pytest.raises(AlreadyExists):
        await api.create(SERVICES, namespace, service("faq-r1"))


# --- the status subresource ----------------------------------------------------------------------------------
@check
async def a_status_write_changes_the_status_alone(api: KubeApi, namespace: str) -> None:
    created = await create_job(api, namespace)
    spec = {**created["spec"], "suspend": True}
    written = await api.replace_status(FINETUNEJOBS, changed(created, spec=spec, status={"phase": "Preparing"}))
    assert written["status"] == {"phase": "Preparing"}
    assert written["spec"] == created["spec"]
    assert written["metadata"]["generation"] == 1
    assert written["metadata"]["resourceVersion"] != created["metadata"]["resourceVersion"]


@check
async def a_status_write_on_an_old_version_is_a_conflict(api: KubeApi, namespace: str) -> None:
    created = await create_job(api, namespace)
    await api.replace_status(FINETUNEJOBS, changed(created, status={"phase": "Preparing"}))
    with pytest.raises(Conflict):
        await api.replace_status(FINETUNEJOBS, changed(created, status={"phase": "Training"}))


@check
async def a_status_write_that_changes_nothing_makes_no_version(api: KubeApi, namespace: str) -> None:
    created = await create_job(api, namespace)
    first = await api.replace_status(FINETUNEJOBS, changed(created, status={"phase": "Preparing"}))
    second = await api.replace_status(FINETUNEJOBS, first)
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


@check
async def a_status_write_to_a_deleted_object_is_not_found(api: KubeApi, namespace: str) -> None:
    created = await create_job(api, namespace)
    await api.delete(FINETUNEJOBS, namespace, "faq", uid=created["metadata"]["uid"])
    with pytest.raises(NotFound):
        await api.replace_status(FINETUNEJOBS, changed(created, status={"phase": "Preparing"}))


@check
async def a_status_write_never_reaches_a_namesake(api: KubeApi, namespace: str) -> None:
    former = await create_job(api, namespace)
    await api.delete(FINETUNEJOBS, namespace, "faq", uid=former["metadata"]["uid"])
    assert (await create_job(api, namespace))["metadata"]["uid"] != former["metadata"]["uid"]
    with pytest.raises(Conflict):
        await api.replace_status(FINETUNEJOBS, changed(former, status={"phase": "Preparing"}))


# --- replace -------------------------------------------------------------------------------------------------
@check
async def a_changed_spec_moves_the_generation(api: KubeApi, namespace: str) -> None:
    created = await create_job(api, namespace)
    body = changed(created, spec={**created["spec"], "suspend": True}, status={"phase": "Lost"})
    written = await api.replace(FINETUNEJOBS, body)
    assert written["metadata"]["generation"] == 2
    assert "status" not in written


@check
async def a_changed_annotation_does_not(api: KubeApi, namespace: str) -> None:
    created = await create_job(api, namespace)
    metadata = {**created["metadata"], "annotations": {"finetune.dev/restartedAt": "today"}}
    written = await api.replace(FINETUNEJOBS, changed(created, metadata=metadata))
    assert written["metadata"]["generation"] == 1
    assert written["metadata"]["annotations"] == {"finetune.dev/restartedAt": "today"}


@check
async def a_write_on_an_old_version_is_a_conflict(api: KubeApi, namespace: str) -> None:
    created = await create_job(api, namespace)
    await api.replace(FINETUNEJOBS, changed(created, spec={**created["spec"], "suspend": True}))
    with pytest.raises(Conflict):
        await api.replace(FINETUNEJOBS, changed(created, spec={**created["spec"], "retries": 7}))


# --- delete --------------------------------------------------------------------------------------------------
@check
async def a_delete_of_another_uid_is_a_conflict(api: KubeApi, namespace: str) -> None:
    created = await api.create(SERVICES, namespace, service("faq-r1"))
    with pytest.raises(Conflict):
        await api.delete(SERVICES, namespace, "faq-r1", uid="0b5e7f4c-0000-4000-8000-000000000000")
    assert (await api.get(SERVICES, namespace, "faq-r1"))["metadata"]["uid"] == created["metadata"]["uid"]


@check
async def what_was_deleted_is_gone(api: KubeApi, namespace: str) -> None:
    created = await api.create(SERVICES, namespace, service("faq-r1"))
    await api.delete(SERVICES, namespace, "faq-r1", uid=created["metadata"]["uid"])
    with pytest.raises(NotFound):
        await api.delete(SERVICES, namespace, "faq-r1", uid=created["metadata"]["uid"])


# --- list ----------------------------------------------------------------------------------------------------
@check
async def a_list_selects_by_labels(api: KubeApi, namespace: str) -> None:
    await api.create(SERVICES, namespace, service("one", job="a", role="train"))
    await api.create(SERVICES, namespace, service("two", job="b", role="train"))
    found = await api.list(SERVICES, namespace, labels={"job": "b", "role": "train"})
    assert [item["metadata"]["name"] for item in found.items] == ["two"]
    assert (found.items[0]["apiVersion"], found.items[0]["kind"]) == ("v1", "Service")
    assert found.resource_version


@check
async def a_list_selects_by_fields(api: KubeApi, namespace: str) -> None:
    for name, type_ in (("pod-a", "Warning"), ("pod-a", "Normal"), ("pod-b", "Warning")):
        event = {
            "metadata": {"name": f"{name}.{type_.lower()}"},
            "involvedObject": {"kind": "Pod", "namespace": namespace, "name": name},
            "type": type_,
            "reason": "FailedMount",
            "message": "secret not found",
        }
        await api.create(EVENTS, namespace, event)
    found = await api.list(EVENTS, namespace, fields={"involvedObject.name": "pod-a", "type": "Warning"})
    assert [item["metadata"]["name"] for item in found.items] == ["pod-a.warning"]


@check
async def a_list_of_nothing_is_empty(api: KubeApi, namespace: str) -> None:
    assert (await api.list(FINETUNEJOBS, namespace)).items == []


# --- on both -------------------------------------------------------------------------------------------------
def in_words(function: Check) -> str:
    return function.__name__.replace("_", " ")


@pytest.mark.parametrize("function", CHECKS, ids=in_words)
async def test_in_memory(function: Check) -> None:
    await function(FakeKubeApi(FakeCluster(LoopClock())), "team-a")


@pytest.mark.parametrize("function", CHECKS, ids=in_words)
async def test_on_the_real_server(function: Check, real_kube_api: KubeClient, namespace: str) -> None:
    await function(real_kube_api, namespace)
