"""Which error an answer of the API server becomes: the words are those of a real one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_operator.kube import error_of
from finetune_operator.ports import AlreadyExists, ApiError, Conflict, NotFound, Retryable, Terminal


def answer(what: str, code: int, reason: str = "", message: str = "m", **more: Any) -> ApiError:
    body = {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code, **more}
    return error_of(what, code, json.dumps(body).encode(), {})


RBAC = 'jobs.batch is forbidden: User "system:serviceaccount:s:o" cannot create resource "jobs" in API group "batch"'
QUOTA = 'pods "faq" is forbidden: exceeded quota: compute, requested: pods=1, used: pods=4, limited: pods=4'
TERMINATING = {"details": {"causes": [{"reason": "NamespaceTerminating"}]}}


@pytest.mark.parametrize(
    ("error", "want"),
    [
        pytest.param(answer("get /x", 404, "NotFound"), NotFound, id="an object that is not there"),
        pytest.param(answer("create /x", 409, "AlreadyExists"), AlreadyExists, id="a name that is taken"),
        pytest.param(answer("create /x", 409, "Conflict"), Retryable, id="a quota whose counter was contended"),
        pytest.param(answer("update_status /x", 409, "Conflict"), Conflict, id="another resourceVersion"),
        pytest.param(answer("delete /x", 409, "Conflict"), Conflict, id="another uid"),
        pytest.param(answer("create /x", 403, "Forbidden", RBAC), Retryable, id="rights that were revoked"),
        pytest.param(answer("create /x", 403, "Forbidden", QUOTA), Terminal, id="a quota that is used up"),
        pytest.param(answer("create /x", 403, "Forbidden", **TERMINATING), NotFound, id="a namespace that goes"),
        pytest.param(answer("get /x", 401, "Unauthorized"), Retryable, id="a token that is rotated"),
        pytest.param(answer("create /x", 422, "Invalid"), Terminal, id="a field that is refused"),
        pytest.param(answer("create /x", 400, "BadRequest"), Terminal, id="a request that makes no sense"),
        pytest.param(answer("list /x", 410, "Expired"), Retryable, id="a page that has expired"),
        pytest.param(answer("get /x", 500, "InternalError"), Retryable, id="a broken server"),
        pytest.param(error_of("get /x", 502, b"<html>bad gateway", {}), Retryable, id="a proxy"),
    ],
)
def test_an_answer_becomes_an_error(error: ApiError, want: type[ApiError]) -> None:
    assert type(error) is want


def test_a_refusal_keeps_the_servers_reason_and_words() -> None:
    error = answer("create /x", 403, "Forbidden", QUOTA)
    assert isinstance(error, Terminal)
    assert error.reason == "Forbidden"
    assert "exceeded quota: compute" in str(error)


@pytest.mark.parametrize(
    ("headers", "details", "want"),
    [
        ({"Retry-After": "7"}, {}, 7.0),
        ({}, {"retryAfterSeconds": 3}, 3.0),
        ({}, {}, None),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, {}, None),
    ],
)
def test_the_pause_that_the_server_asks_for_is_kept(
    headers: dict[str, str], details: dict[str, int], want: float | None
) -> None:
    body = {"kind": "Status", "reason": "TooManyRequests", "message": "m", "details": details}
    error = error_of("get /x", 429, json.dumps(body).encode(), headers)
    assert isinstance(error, Retryable)
    assert error.delay == want
