"""Can the model fit the device at all? Asked between preparation and training: the parameters are known by then."""

from finetune_operator.core.conditions import ConditionStatus, ConditionType, Reason, compose
from finetune_operator.core.draft import Draft
from finetune_operator.core.memory import cures_of_bound, predicted_bytes
from finetune_operator.core.outcomes import fail_run
from finetune_operator.core.quantity import gib
from finetune_operator.core.world import plan_world


def check_fit(draft: Draft) -> Draft:
    status, spec = draft.status, draft.snapshot.job.spec
    gpu_class = draft.snapshot.gpu_class(spec.resources.gpu_class)
    parameters = int(status.prepared.get("parameters", 0))
    if not draft.stage.shape.needs_class or draft.number or not parameters or gpu_class is None:
        return draft
    world = plan_world(spec.resources, gpu_class)
    predicted = predicted_bytes(spec, world, parameters)
    known = draft.update(plan={**status.plan, "predictedMemory": gib(predicted)})
    if not world.gpus_per_node or gpu_class.memory is None or predicted <= gpu_class.memory:
        return known
    message = compose(
        f"{parameters / 1e9:.2f} billion parameters with method {spec.method.type} need at least {gib(predicted)} on "
        f"each device; class {gpu_class.name} has {gib(gpu_class.memory)}.",
        cure=f"What helps: {cures_of_bound(spec)}.",
    )
    refused = known.condition(ConditionType.PLANNED, ConditionStatus.FALSE, Reason.DOES_NOT_FIT, message)
    return fail_run(refused, Reason.DOES_NOT_FIT, message)
