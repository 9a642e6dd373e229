"""Never back in time, no ghosts, and the words of pods that are gone."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from finetune_contract import names
from finetune_operator.cache import Cache
from finetune_operator.kinds import KINDS, watched_by
from finetune_operator.ports import FINETUNEJOBS, JOBS, NODES, PODS, Json

WATCHED = watched_by(KINDS)
KEY = FINETUNEJOBS.key("ns", "faq")


def an_object(name: str = "faq", version: int = 1, uid: str = "u1", *, child: bool = False, **more: Any) -> Json:
    labels = {names.LABEL_JOB_NAME: "faq", names.LABEL_MANAGED_BY: names.MANAGED_BY} if child else {}
    metadata = {"namespace": "ns", "name": name, "uid": uid, "resourceVersion": str(version), "labels": labels}
    return {"metadata": metadata, "spec": {}, **more}


def a_pod(name: str, version: int, uid: str, owner: str = "job-uid") -> Json:
    pod = an_object(name, version, uid, child=True)
    pod["metadata"]["ownerReferences"] = [{"uid": owner, "controller": True}]
    return pod


def a_node(version: int, **labels: str) -> Json:
    node = an_object("node", version, "n1")
    del node["metadata"]["namespace"]
    node["metadata"]["labels"] = labels
    return node


def test_an_older_event_does_not_replace_a_newer_object() -> None:
    cache = Cache(WATCHED)
    assert cache.take(FINETUNEJOBS, "MODIFIED", an_object(version=7, status={"phase": "Training"}))
    assert not cache.take(FINETUNEJOBS, "MODIFIED", an_object(version=5))
    assert cache.find(KEY)["status"]["phase"] == "Training"  # type: ignore[index]


def test_versions_are_numbers_not_text() -> None:
    cache = Cache(WATCHED)
    cache.take(FINETUNEJOBS, "ADDED", an_object(version=9))
    assert cache.take(FINETUNEJOBS, "MODIFIED", an_object(version=10))


def test_the_echo_of_an_own_write_still_counts_as_an_event() -> None:
    cache = Cache(WATCHED)
    cache.note(FINETUNEJOBS, an_object(version=3))
    assert cache.take(FINETUNEJOBS, "MODIFIED", an_object(version=3))
    assert not cache.take(FINETUNEJOBS, "MODIFIED", an_object(version=2))


def test_what_was_deleted_does_not_come_back_by_a_late_answer() -> None:
    cache = Cache(WATCHED)
    cache.take(FINETUNEJOBS, "ADDED", an_object(version=3))
    cache.take(FINETUNEJOBS, "DELETED", an_object(version=4))
    cache.note(FINETUNEJOBS, an_object(version=3))
    assert cache.find(KEY) is None


def test_a_namesake_of_a_deleted_object_is_another_object() -> None:
    cache = Cache(WATCHED)
    cache.take(FINETUNEJOBS, "ADDED", an_object(version=3, uid="old"))
    cache.take(FINETUNEJOBS, "ADDED", an_object(version=9, uid="new"))
    assert not cache.take(FINETUNEJOBS, "DELETED", an_object(version=8, uid="old"))
    assert cache.find(KEY)["metadata"]["uid"] == "new"  # type: ignore[index]


def test_a_list_shows_ghosts_and_spares_what_is_newer_than_it() -> None:
    cache = Cache(WATCHED)
    cache.take(FINETUNEJOBS, "ADDED", an_object("ghost", 5, "g"))
    cache.take(FINETUNEJOBS, "ADDED", an_object("stays", 6, "s"))
    cache.take(FINETUNEJOBS, "ADDED", an_object("young", 50, "y"))
    changed = cache.replace(FINETUNEJOBS, None, [an_object("stays", 6, "s"), an_object("missed", 8, "m")], "20")
    assert {change.obj["metadata"]["name"] for change in changed} == {"ghost", "missed"}
    assert {obj["metadata"]["name"] for obj in cache.all(FINETUNEJOBS)} == {"stays", "missed", "young"}


def test_the_list_of_one_namespace_says_nothing_about_another() -> None:
    cache = Cache(WATCHED)
    cache.take(FINETUNEJOBS, "ADDED", an_object("here", 5, "h"))
    assert cache.replace(FINETUNEJOBS, "elsewhere", [], "20") == []
    assert cache.find(FINETUNEJOBS.key("ns", "here")) is not None


def test_children_are_found_by_label_and_leave_with_it() -> None:
    cache = Cache(WATCHED)
    cache.take(JOBS, "ADDED", an_object("faq-r1-a1", 2, "j", child=True))
    assert [job["metadata"]["name"] for job in cache.child_jobs(KEY)] == ["faq-r1-a1"]
    cache.take(JOBS, "MODIFIED", an_object("faq-r1-a1", 3, "j"))
    assert cache.child_jobs(KEY) == []


def test_a_deleted_pod_is_remembered_until_its_job_is_gone() -> None:
    cache = Cache(WATCHED)
    job = an_object("faq-r1-a1", 2, "job-uid", child=True)
    cache.take(JOBS, "ADDED", job)
    cache.take(PODS, "ADDED", a_pod("p", 3, "p1"))
    cache.take(PODS, "DELETED", {**a_pod("p", 4, "p1"), "status": {"phase": "Succeeded"}})
    assert cache.child_pods(KEY) == []
    assert [pod["status"]["phase"] for pod in cache.departed_pods(KEY)] == ["Succeeded"]
    cache.take(JOBS, "DELETED", job)
    assert cache.departed_pods(KEY) == []


def test_a_deleted_pod_of_nobody_is_not_remembered() -> None:
    cache = Cache(WATCHED)
    cache.take(PODS, "ADDED", a_pod("p", 3, "p1"))
    cache.take(PODS, "DELETED", a_pod("p", 4, "p1"))
    assert cache.departed_pods(KEY) == []


def test_the_heartbeat_of_a_node_is_no_news_and_a_label_is() -> None:
    cache = Cache(WATCHED)
    assert cache.take(NODES, "ADDED", a_node(1, gpu="a100"))
    beat = a_node(2, gpu="a100")
    beat["status"] = {"conditions": [{"type": "MemoryPressure", "lastHeartbeatTime": "later"}]}
    assert not cache.take(NODES, "MODIFIED", beat)
    assert cache.take(NODES, "MODIFIED", a_node(3, gpu="h100"))


def test_managed_fields_are_not_kept() -> None:
    cache = Cache(WATCHED)
    obj = an_object()
    obj["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    cache.take(FINETUNEJOBS, "ADDED", obj)
    assert "managedFields" not in cache.find(KEY)["metadata"]  # type: ignore[index]
    assert "managedFields" in obj["metadata"]


@given(st.data())
def test_any_order_of_events_and_lists_ends_at_the_truth(data: st.DataObject) -> None:
    """A history of one name; its events arrive late, doubled, out of order or not at all; then a list."""
    history, version = [], 0
    for incarnation in range(data.draw(st.integers(1, 3))):
        uid = f"u{incarnation}"
        for step in range(data.draw(st.integers(1, 4))):
            version += 1
            history.append(("MODIFIED", an_object(version=version, uid=uid, status={"step": step})))
        version += 1
        history.append(("DELETED", an_object(version=version, uid=uid)))
    if data.draw(st.booleans()):
        history.pop()
    truth = history[-1][1] if history[-1][0] != "DELETED" else None

    cache = Cache(WATCHED)
    newest = 0
    for event, obj in data.draw(st.lists(st.sampled_from(history), max_size=20)):
        cache.take(FINETUNEJOBS, event, copy.deepcopy(obj))
        seen = cache.find(KEY)
        if seen is not None:
            assert int(seen["metadata"]["resourceVersion"]) >= newest or event == "DELETED"
            newest = int(seen["metadata"]["resourceVersion"])
    cache.replace(FINETUNEJOBS, None, [truth] if truth else [], str(version))
    found = cache.find(KEY)
    assert (found and found["status"]) == (truth and truth["status"])
