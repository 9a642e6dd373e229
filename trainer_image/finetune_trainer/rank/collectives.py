"""What the ranks of one attempt exchange besides gradients: flags, small objects, barriers.

Over their own gloo groups: no GPU is synchronised for it, and a rank may wait for an upload longer than the training's
time-out allows.
"""

import os
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

Thing = TypeVar("Thing")
_LONGEST_WAIT = timedelta(hours=2)


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
