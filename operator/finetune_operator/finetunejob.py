"""FineTuneJobs: what is observed of one, and how the plan for it comes about. Children are created and deleted here.

Reads come from the cache. Before anything is created or deleted, and before a conclusion is drawn from an absence, the
same decision is taken again on what the server says now (`Trust`).
"""

from contextlib import suppress
from dataclasses import replace

from finetune_contract import names
from finetune_operator.core.decide import decide
from finetune_operator.core.objects import ChildJob, FineTuneJob
from finetune_operator.core.options import Options
from finetune_operator.core.plan import Action, Create, DeleteJob, Plan, Trust
from finetune_operator.core.snapshot import Obstacle, ObstacleKind, Snapshot, Warning, parse_jobs, parse_pods
from finetune_operator.core.status import Status
from finetune_operator.ports import (
    EVENTS,
    FINETUNEJOBS,
    JOBS,
    PODS,
    SERVICES,
    AlreadyExists,
    Clock,
    Json,
    Key,
    KubeApi,
    NotFound,
    Observed,
    ProgressSource,
    Terminal,
)

_CHILD_RESOURCES = {"Job": JOBS, "Service": SERVICES}
_MAX_ROUNDS = 8
"""Of observing and deciding in one reconcile: each raises the trust, or takes in what was done."""


class JobPlanner:
    """`reconciler.Planner` of FineTuneJobs."""

    def __init__(
        self,
        api: KubeApi,
        observed: Observed,
        progress: ProgressSource,
        clock: Clock,
        options: Options,
    ) -> None:
        self._api = api
        self._observed = observed
        self._progress = progress
        self._clock = clock
        self._options = options

    async def plan(self, key: Key, raw: Json) -> tuple[Json, Plan]:
        snapshot = self._from_cache(key, raw)
        for _ in range(_MAX_ROUNDS):
            plan = decide(snapshot)
            following = await self._follow(key, snapshot, plan)
            if following is None:
                return dict(snapshot.job.raw), plan
            snapshot = following
        raise AssertionError(f"{key}: no decision after {_MAX_ROUNDS} rounds, the last is {plan}")

    async def _follow(self, key: Key, snapshot: Snapshot, plan: Plan) -> Snapshot | None:
        """The snapshot after what the plan asks for first; None when only the status is left to write."""
        if plan.needs > snapshot.trust:
            return await self._from_server(key, snapshot, plan.needs)
        if plan.actions:
            return await self._act(snapshot, plan.actions)
        if plan.explain and snapshot.warning is None:
            return replace(snapshot, warning=await self._newest_warning(key, plan.explain))
        return None

    # --- observe ------------------------------------------------------------------------------------------------
    def _from_cache(self, key: Key, raw: Json) -> Snapshot:
        job, status = FineTuneJob(raw), Status.parse(raw.get("status") or {})
        snapshot = Snapshot(
            job=job,
            status=status,
            now=self._clock.now(),
            options=self._options,
            jobs=parse_jobs(self._observed.child_jobs(key)),
            pods=parse_pods(self._observed.child_pods(key), self._observed.departed_pods(key), job.uid),
            fleet=self._observed.fleet(),
        )
        number = snapshot.stage.number_in(status)
        return replace(snapshot, progress=self._progress.latest(key, status.run, number))

    async def _from_server(self, key: Key, snapshot: Snapshot, trust: Trust) -> Snapshot:
        raw = await self._api.get(FINETUNEJOBS, key.namespace, key.name)
        self._observed.note(FINETUNEJOBS, raw)
        fresh = replace(self._from_cache(key, raw), trust=Trust.LIVE_JOB, now=snapshot.now)
        return await self._with_live_children(key, fresh) if trust >= Trust.LIVE_CHILDREN else fresh

    async def _with_live_children(self, key: Key, snapshot: Snapshot) -> Snapshot:
        labels = {names.LABEL_MANAGED_BY: names.MANAGED_BY, names.LABEL_JOB_NAME: key.name}
        jobs = await self._api.list(JOBS, key.namespace, labels=labels)
        pods = await self._api.list(PODS, key.namespace, labels=labels)
        return replace(
            snapshot,
            jobs=parse_jobs(jobs.items),
            pods=parse_pods(pods.items, self._observed.departed_pods(key), snapshot.job.uid),
            trust=Trust.LIVE_CHILDREN,
        )

    async def _newest_warning(self, key: Key, name: str) -> Warning:
        """About the pod or Job of that name; empty when there is none."""
        fields = {"involvedObject.name": name, "type": "Warning"}
        events = (await self._api.list(EVENTS, key.namespace, fields=fields)).items
        newest = max(events, key=_event_time, default=None)
        return Warning("", "") if newest is None else Warning(newest.get("reason", ""), newest.get("message", ""))

    # --- act ----------------------------------------------------------------------------------------------------
    async def _act(self, snapshot: Snapshot, actions: tuple[Action, ...]) -> Snapshot:
        for action in actions:
            do = self._create(snapshot, action) if isinstance(action, Create) else self._delete_job(snapshot, action)
            snapshot = await do
            if snapshot.obstacle is not None:
                break
        return snapshot

    async def _delete_job(self, snapshot: Snapshot, action: DeleteJob) -> Snapshot:
        with suppress(NotFound):  # Somebody was faster, or an earlier try of ours was committed.
            await self._api.delete(JOBS, snapshot.job.namespace, action.name, uid=action.uid, propagation="Background")
        return snapshot.without_job(action.uid)

    async def _create(self, snapshot: Snapshot, action: Create) -> Snapshot:
        body = dict(action.body)
        resource = _CHILD_RESOURCES[body["kind"]]
        try:
            stored = await self._api.create(resource, snapshot.job.namespace, body)
        except AlreadyExists:
            stored = await self._api.get(resource, snapshot.job.namespace, body["metadata"]["name"])
            obstacle = _obstacle(stored, body)
            if obstacle is not None:
                return replace(snapshot, obstacle=obstacle)
        except Terminal as refusal:
            child = f"{body['kind']} {body['metadata']['name']}"
            return replace(snapshot, obstacle=Obstacle(ObstacleKind.REFUSED, child, f"{refusal.reason}: {refusal}"))
        if resource != JOBS:
            return snapshot
        self._observed.note(JOBS, stored)
        return snapshot.with_created(ChildJob.parse(stored))


def _event_time(event: Json) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")


def _obstacle(stored: Json, wanted: Json) -> Obstacle | None:
    """None when the object that is there is the one that was wanted: an earlier try of ours, or another replica's."""
    child = f"{wanted['kind']} {wanted['metadata']['name']}"
    if stored["metadata"].get("deletionTimestamp"):
        return Obstacle(ObstacleKind.LEFT_OVER, child, "it is being deleted")
    owner, ours = _controller(stored), _controller(wanted)
    if owner.get("uid") != ours["uid"]:
        if owner.get("kind") == ours["kind"] and owner.get("name") == ours["name"]:
            return Obstacle(ObstacleKind.LEFT_OVER, child, "the garbage collector has not removed it yet")
        whose = f"{owner['kind']} {owner['name']}" if owner else "nobody"
        return Obstacle(ObstacleKind.FOREIGN, child, f"owned by {whose}")
    if _config_hash(stored) != _config_hash(wanted):
        return Obstacle(ObstacleKind.FOREIGN, child, "made from another configuration")
    return None


def _controller(obj: Json) -> Json:
    owners = obj["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), {})


def _config_hash(obj: Json) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(names.ANNOTATION_CONFIG_HASH, ""))
