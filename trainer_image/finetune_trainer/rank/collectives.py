"""What the ranks of one attempt exchange besides gradients: flags, small objects, barriers.

Over their own gloo groups: no GPU is synchronised for it, and a rank may wait for an upload longer than the training's
time-out allows.
"""

import os
import time
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

Thing = TypeVar("Thing")
_LONGEST_WAIT = timedelta(days=1)
"""Whoever waits here waits for an upload or for a start; what hangs is found by its heartbeat (heartbeat.py)."""
_PAUSE_SECONDS = 0.02


class Ranks:
    """All ranks. Constructed on every rank at the same point, after torch.distributed is ready."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.per_node = int(os.environ.get("LOCAL_WORLD_SIZE", str(self.size)))
        self._group = dist.new_group(backend="gloo", timeout=_LONGEST_WAIT) if self.size > 1 else None

    def any_rank(self, flag: bool) -> bool:
        """True on all ranks when it is true on one."""
        if self._group is None:
            return flag
        tensor = torch.tensor([int(flag)])
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self._group)
        return bool(tensor.item())

    def from_rank_zero(self, thing: Thing) -> Thing:
        """What rank 0 has."""
        if self._group is None:
            return thing
        box: list[Any] = [thing]
        dist.broadcast_object_list(box, src=0, group=self._group)
        value: Thing = box[0]
        return value

    def barrier(self) -> None:
        if self._group is not None:
            dist.barrier(group=self._group)


def part() -> None:
    """The last thing that ranks do together: none ends before all have come here, and rank 0 ends last.

    A rank that ends closes its connections. Another that has not yet been woken from the same collective would then
    find a broken connection in the place of its result; and rank 0 keeps the store that the others talk to. So this
    goes through the store, not through a collective.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    from torch.distributed.distributed_c10d import _get_default_store

    store, rank, ranks = _get_default_store(), dist.get_rank(), range(dist.get_world_size())
    store.set(f"finetune/done/{rank}", "")
    _await(store, [f"finetune/done/{other}" for other in ranks])
    store.set(f"finetune/left/{rank}", "")
    if rank == 0:
        _await(store, [f"finetune/left/{other}" for other in ranks])


def _await(store: Any, keys: list[str]) -> None:
    """In short questions: a long one would not hear a signal."""
    while not store.check(keys):
        time.sleep(_PAUSE_SECONDS)


class Nodes:
    """The first rank of each node, for their background threads only. Constructed on every rank, as `Ranks` is."""

    def __init__(self, ranks: Ranks) -> None:
        self.rank = ranks.rank // ranks.per_node
        self.size = ranks.size // ranks.per_node
        members = range(0, ranks.size, ranks.per_node)
        several = self.size > 1
        self._group = dist.new_group(list(members), backend="gloo", timeout=_LONGEST_WAIT) if several else None

    def gather(self, thing: Thing) -> list[Thing]:
        """What each node has, by node rank."""
        if self._group is None:
            return [thing]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, thing, group=self._group)
        return found
