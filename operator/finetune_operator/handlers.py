"""kopf's events, passed on. No decision is taken below a decorator, and nothing is ever returned to kopf."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import kopf

from finetune_operator.ports import Json, Resource
from finetune_operator.settings import configure_kopf

Observe = Callable[[Resource, str | None, Json], None]


def make_registry(
    resources: Iterable[Resource], observe: Observe, login: Callable[[], Awaitable[kopf.ConnectionInfo]]
) -> kopf.OperatorRegistry:
    """All handlers of this operator.

    Args:
        resources: what is watched.
        observe: takes resource, type of the event (None: of an initial list) and object.
        login: how to reach the API server; asked again when a token is refused.
    """
    registry = kopf.OperatorRegistry()

    @kopf.on.startup(registry=registry)  # type: ignore[untyped-decorator]
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        configure_kopf(settings)

    @kopf.on.login(registry=registry)  # type: ignore[untyped-decorator]
    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        return await login()

    for resource in resources:
        _watch(registry, resource, observe)
    return registry


def _watch(registry: kopf.OperatorRegistry, resource: Resource, observe: Observe) -> None:
    @kopf.on.event(resource.group, resource.version, resource.plural, registry=registry, id=resource.plural)  # type: ignore[untyped-decorator]
    async def on_event(event: kopf.RawEvent, **_: Any) -> None:
        observe(resource, event["type"], dict(event["object"]))
