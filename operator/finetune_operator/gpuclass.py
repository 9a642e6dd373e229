"""GPUClasses: what is observed of one. All that is to be done about it is its status."""

from finetune_operator.core.gpuclass import ClassSnapshot, decide_class
from finetune_operator.core.plan import Plan
from finetune_operator.ports import Json, Key, Observed


class ClassPlanner:
    """`reconciler.Planner` of GPUClasses."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    async def plan(self, key: Key, raw: Json) -> tuple[Json, Plan]:
        return raw, decide_class(ClassSnapshot(raw, self._observed.fleet()))
