"""One writer per run: each start takes the next fencing token, and a superseded start commits nothing.

A pod on a node that the cluster cannot reach may still run and write. Tokens are objects `<n:08d>` that only a
conditional PUT creates, so exactly one start gets each. They have no gaps: whether a newer one exists is one HEAD,
which S3 answers consistently where a listing may lag.
"""

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.errors import Superseded


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Fence:
    storage: Storage
    uri: str
    token: int
    attempt: int

    @classmethod
    def take(
        cls, storage: Storage, uri: str, *, attempt: int, pod: str, now: Callable[[], datetime] = _utc_now
    ) -> "Fence":
        """Takes the next token.

        Raises:
            Superseded: a later attempt has begun already.
        """
        nonce = uuid.uuid4().hex
        body = json.dumps({"attempt": attempt, "pod": pod, "time": now().isoformat(timespec="seconds"), "token": nonce})
        taken = [int(item.path) for item in storage.list(uri) if item.path.isdecimal()]
        token = max(taken, default=0)
        if taken:
            _refuse_after_later_attempt(storage, uri, token, attempt)
        while True:
            token += 1
            if storage.put_bytes(_object(uri, token), body.encode(), if_none_match=True):
                return cls(storage, uri, token, attempt)
            # Taken in the meantime: by another start, or by our own PUT whose response was lost.
            if _refuse_after_later_attempt(storage, uri, token, attempt) == nonce:
                return cls(storage, uri, token, attempt)

    def check(self) -> None:
        """Called before each commit.

        Raises:
            Superseded: a newer start has begun.
        """
        if self.storage.exists(_object(self.uri, self.token + 1)):
            raise Superseded(
                f"a newer start of this run has begun (fencing token {self.token + 1}; this one, of attempt "
                f"{self.attempt}, has {self.token}): nothing more is committed"
            )


def _object(uri: str, token: int) -> str:
    return f"{uri}/{token:08d}"


def _refuse_after_later_attempt(storage: Storage, uri: str, token: int, attempt: int) -> str:
    """Returns the nonce of the token's holder. The attempts of holders never decrease from one token to the next."""
    holder = json.loads(storage.get_bytes(_object(uri, token)) or b"{}")
    if holder.get("attempt", 0) > attempt:
        raise Superseded(
            f"attempt {holder['attempt']} has begun (pod {holder.get('pod')}): attempt {attempt} is superseded"
        )
    return str(holder.get("token", ""))
