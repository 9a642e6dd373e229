"""Fencing on a real S3 server: one winner per token, and a superseded start commits nothing."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from finetune_trainer.artifacts.fence import Fence
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.errors import Superseded
from tests.trainer.conftest import S3


def test_each_start_takes_the_next_token(s3: S3, storage: Storage) -> None:
    uri = s3.prefix()
    assert [Fence.take(storage, uri, attempt=1, pod="p").token for _ in range(3)] == [1, 2, 3]


@pytest.mark.races
def test_two_starts_never_get_the_same_token_in_50_races(s3: S3, storage: Storage) -> None:
    contenders = 2
    with ThreadPoolExecutor(contenders) as pool:
        for _ in range(50):
            uri, line = s3.prefix(), threading.Barrier(contenders)

            def start(number: int, uri: str = uri, line: threading.Barrier = line) -> Fence:
                line.wait()
                return Fence.take(storage, uri, attempt=1, pod=f"pod-{number}")

            fences = list(pool.map(start, range(contenders)))
            assert sorted(fence.token for fence in fences) == [1, 2]
            assert [fence.token for fence in fences if _may_commit(fence)] == [2]


def test_a_start_of_an_earlier_attempt_is_refused(s3: S3, storage: Storage) -> None:
    uri = s3.prefix()
    Fence.take(storage, uri, attempt=2, pod="new")
    with pytest.raises(Superseded, match="attempt 2 has begun") as caught:
        Fence.take(storage, uri, attempt=1, pod="late")
    assert (caught.value.code, caught.value.reason) == (75, "Superseded")
    assert len(storage.list(uri)) == 1


def test_a_resumed_start_of_the_same_attempt_continues(s3: S3, storage: Storage) -> None:
    uri = s3.prefix()
    before = Fence.take(storage, uri, attempt=1, pod="suspended")
    after = Fence.take(storage, uri, attempt=1, pod="resumed")
    after.check()
    with pytest.raises(Superseded):
        before.check()


def test_a_response_that_was_lost_costs_no_token(s3: S3, storage: Storage) -> None:
    """The PUT was done, botocore saw a broken connection and tried again: it meets its own object."""
    lost = iter([True])

    def twice(model: Any, params: Any, request_signer: Any, **_: Any) -> None:
        if next(lost, False):
            s3.client().put_object(Bucket="team", Key=params["url_path"].lstrip("/"), Body=params["body"])

    storage._client.meta.events.register("before-call.s3.PutObject", twice)
    uri = s3.prefix()
    assert Fence.take(storage, uri, attempt=1, pod="p").token == 1
    assert len(storage.list(uri)) == 1


def test_a_lagging_listing_does_not_matter(s3: S3, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = s3.prefix()
    Fence.take(storage, uri, attempt=1, pod="a")
    monkeypatch.setattr(storage, "list", lambda uri, **_: ())
    assert Fence.take(storage, uri, attempt=1, pod="b").token == 2
    Fence.take(storage, uri, attempt=2, pod="c")
    with pytest.raises(Superseded):
        Fence.take(storage, uri, attempt=1, pod="late")


def _may_commit(fence: Fence) -> bool:
    try:
        fence.check()
    except Superseded:
        return False
    return True
