"""One writer per run: each start takes the next epoch, and who has been overtaken commits nothing.

A pod on a node that the cluster cannot reach may still run and write. Epochs are objects `<n:08d>` that only a
conditional PUT makes, so exactly one start gets each. They have no gaps: whether a newer one exists is one HEAD, which
S3 answers consistently where a listing may lag.
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
    epoch: int
    attempt: int

    @classmethod
    def take(
        cls, storage: Storage, uri: str, *, attempt: int, pod: str, now: Callable[[], datetime] = _utc_now
    ) -> "Fence":
        """Takes the next epoch.

        Raises:
            Superseded: a later attempt has begun already.
        """
        token = uuid.uuid4().hex
        body = json.dumps({"attempt": attempt, "pod": pod, "time": now().isoformat(timespec="seconds"), "token": token})
        taken = [int(item.path) for item in storage.list(uri) if item.path.isdecimal()]
        epoch = max(taken, default=0)
        if taken:
            _refuse_after_later_attempt(storage, uri, epoch, attempt)
        while True:
            epoch += 1
            if storage.put_bytes(_object(uri, epoch), body.encode(), if_none_match=True):
                return cls(storage, uri, epoch, attempt)
            # Taken meanwhile: by another start, or by our own PUT whose answer was lost.
            if _refuse_after_later_attempt(storage, uri, epoch, attempt) == token:
                return cls(storage, uri, epoch, attempt)

    def check(self) -> None:
        """To be called before each commit.

        Raises:
            Superseded: a newer start has begun.
        """
        if self.storage.exists(_object(self.uri, self.epoch + 1)):
            raise Superseded(
                f"a newer start of this run has begun (epoch {self.epoch + 1}; this one, of attempt {self.attempt}, "
                f"has {self.epoch}): nothing more is committed"
            )


def _object(uri: str, epoch: int) -> str:
    return f"{uri}/{epoch:08d}"


def _refuse_after_later_attempt(storage: Storage, uri: str, epoch: int, attempt: int) -> str:
    """Returns the token of that epoch's holder. An epoch's attempt is never below that of the epochs before it."""
    holder = json.loads(storage.get_bytes(_object(uri, epoch)) or b"{}")
    if holder.get("attempt", 0) > attempt:
        raise Superseded(f"attempt {holder['attempt']} has begun (pod {holder.get('pod')}): attempt {attempt} is late")
    return str(holder.get("token", ""))
