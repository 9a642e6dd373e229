"""`/healthz`, `/readyz` and `/metrics` on one port.

Alive means: workers take keys, and the API server was heard of. Ready means: the cluster was listed once.
"""

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from finetune_operator.metrics import CONTENT_TYPE

STALLED_AFTER_SECONDS = 300.0
SILENT_AFTER_SECONDS = 1500.0
"""More than two resyncs: an API server that is away for a while is no reason for a restart."""


@dataclass(frozen=True)
class Checks:
    """Questions, answered when a probe asks."""

    stalled_for: Callable[[], float]
    silent_for: Callable[[], float]
    is_synced: Callable[[], bool]
    render_metrics: Callable[[], bytes]

    def what_is_wrong(self) -> str | None:
        if (stalled := self.stalled_for()) > STALLED_AFTER_SECONDS:
            return f"no worker took a key for {stalled:.0f} s although some wait"
        if (silent := self.silent_for()) > SILENT_AFTER_SECONDS:
            return f"neither an event nor a list arrived for {silent:.0f} s"
        return None


def application(checks: Checks) -> web.Application:
    async def healthz(_: web.Request) -> web.Response:
        wrong = checks.what_is_wrong()
        return web.Response(text=wrong or "ok", status=503 if wrong else 200)

    async def readyz(_: web.Request) -> web.Response:
        ready = checks.is_synced()
        return web.Response(text="ok" if ready else "the cluster is not listed yet", status=200 if ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=checks.render_metrics(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    return app


class Server:
    """Serves until the block is left."""

    def __init__(self, checks: Checks, port: int) -> None:
        # Access lines would be most of the log: a probe asks every few seconds.
        self._runner = web.AppRunner(application(checks), access_log=None)
        self._port = port

    async def __aenter__(self) -> "Server":
        await self._runner.setup()
        await web.TCPSite(self._runner, port=self._port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def port(self) -> int:
        """The one in use, where 0 was asked for: of IPv4, since IPv6 then has one of its own."""
        return next(int(address[1]) for address in self._runner.addresses if len(address) == 2)
