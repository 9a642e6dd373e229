"""`python -m finetune_operator`: put the parts together, run until a signal, leave nothing half done."""

import argparse
import asyncio
import logging
import os
import secrets
import signal
import sys
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import aiohttp
import kopf

from finetune_operator import __version__, cache, handlers, health, kube
from finetune_operator.events import KubeEvents
from finetune_operator.feed import Feed
from finetune_operator.kinds import KINDS, Dispatcher, Tools, watched_by
from finetune_operator.leader import Election
from finetune_operator.logs import configure_logs
from finetune_operator.metrics import EndedAttempts, Metrics, phase_counts
from finetune_operator.polling import ProgressPoller, fetch_from
from finetune_operator.ports import FINETUNEJOBS, PODS, ApiError, Key, NotFound, Retryable
from finetune_operator.settings import VARIABLES, Settings, SettingsError, read_settings
from finetune_operator.workqueue import RetryLater, WorkQueue, work

logger = logging.getLogger("finetune_operator")

WORKERS = 8
_EXIT_CONFIGURATION = 2
_EXIT_LOST_LEADERSHIP = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    _parser().parse_args(argv)
    try:
        settings = read_settings()
        configure_logs(settings.log_level, settings.log_format)
        return asyncio.run(Operator(settings).run())
    except (SettingsError, kube.NoClusterError) as error:
        print(f"finetune-operator: {error}", file=sys.stderr)
        return _EXIT_CONFIGURATION


def _parser() -> argparse.ArgumentParser:
    width = max(len(name) for name in VARIABLES)
    variables = "\n".join(f"  {name:{width}}  {text}" for name, text in VARIABLES.items())
    parser = argparse.ArgumentParser(
        prog="finetune-operator",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Turns FineTuneJobs into verified adapters in S3. Runs until it gets SIGTERM; the Helm chart "
        "starts it.\nOutside a cluster it uses KUBECONFIG, and the CRDs have to be there: kubectl apply -f crds/",
        epilog=f"environment variables:\n{variables}\n\nexample:\n"
        "  FINETUNE_TRAINER_IMAGE=localhost/finetune-trainer:dev KUBECONFIG=~/.kube/config python -m finetune_operator",
    )
    parser.add_argument("--version", action="version", version=__version__)
    return parser


class SystemClock:
    """`ports.Clock`."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class Operator:
    """The process: its parts, their start and their end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cache = cache.Cache(watched_by(KINDS))
        self._queue: WorkQueue[Key] = WorkQueue(on_wait=lambda seconds: self._metrics.waited(seconds))
        self._metrics = Metrics(
            __version__,
            count_jobs=lambda: phase_counts(self._cache.all(FINETUNEJOBS)),
            queue_depth=lambda: len(self._queue),
        )
        self._is_standby = False
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> int:
        """Until a signal; returns the exit code."""
        self._on_signals()
        configuration = await kube.load_configuration()
        async with AsyncExitStack() as stack:
            api = await stack.enter_async_context(kube.connect(configuration, self._metrics.requested))
            session = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
            await stack.enter_async_context(health.Server(self._checks(), self._settings.http_port))
            self._assemble(api, session)
            logger.info("finetune-operator %s, %s", __version__, configuration.host)
            starting = asyncio.create_task(self._start(api, configuration), name="start")
            stopping = asyncio.create_task(self._stopping.wait(), name="stop")
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                code = await self._watch_until_stopped(configuration)
            else:
                code = 0
            await self._stop(starting, stopping)
            if self._settings.leader_election:
                await self._election.release()
        logger.info("stopped")
        return code

    # --- parts ----------------------------------------------------------------------------------------------------
    def _assemble(self, api: kube.KubeClient, session: aiohttp.ClientSession) -> None:
        settings, clock = self._settings, SystemClock()
        self._api = api
        self._events = KubeEvents(api, clock, instance=settings.pod_name)
        self._progress = ProgressPoller(
            lambda: self._cache.all(PODS),
            fetch_from(session),
            interval_seconds=settings.progress_interval_seconds,
            on_change=self._queue.add,
        )
        self._feed = Feed(
            self._cache, self._queue, KINDS, [EndedAttempts(self._metrics.attempt_ended), self._progress.forget]
        )
        self._dispatcher = Dispatcher(
            KINDS, Tools(api, self._cache, self._progress, self._events, clock, settings.options)
        )
        self._election = Election(
            api,
            clock,
            namespace=settings.pod_namespace,
            identity=f"{settings.pod_name}-{secrets.token_hex(4)}",
            on_change=self._metrics.leads,
        )

    def _checks(self) -> health.Checks:
        return health.Checks(
            stalled_for=self._queue.stalled_for,
            silent_for=lambda: 0.0 if self._is_standby else self._cache.silent_for(),
            is_synced=lambda: self._is_standby or self._cache.is_synced,
            render_metrics=self._metrics.render,
        )

    # --- start and end --------------------------------------------------------------------------------------------
    async def _start(self, api: kube.KubeClient, configuration: Any) -> None:
        """Lead, list everything, and only then work: an absence means nothing before the first list."""
        if self._settings.leader_election:
            self._is_standby = True
            await self._election.acquire()
            self._is_standby = False
            api.fence(lambda: self._election.is_certain)
            self._spawn("leader", self._lead())
        else:
            self._metrics.leads(True)
        await self._resync()
        self._spawn("workers", work(self._queue, self._handle, workers=WORKERS, on_error=self._count_error))
        self._spawn("progress", self._progress.run())
        self._spawn("events", self._events.run())
        self._spawn("resync", cache.resync_forever(self._resync, sleep=asyncio.sleep))

    async def _watch_until_stopped(self, configuration: Any) -> int:
        """kopf's part. It would take over the signals, and count our tasks as its own: hence in two steps."""

        async def login() -> kopf.ConnectionInfo:
            return _connection_info(await kube.access(configuration))

        ours = await _all_tasks()
        namespaces = self._settings.watch_namespaces
        stop_watching = asyncio.Event()
        kopf_tasks = await kopf.spawn_tasks(
            registry=handlers.make_registry(self._cache.watched, self._feed.observe, login),
            clusterwide=not namespaces,
            namespaces=namespaces,
            standalone=True,
            identity=self._settings.pod_name,  # else kopf looks up the user, and the image's uid has no name
            stop_flag=stop_watching,
        )
        self._on_signals()
        watching = asyncio.create_task(kopf.run_tasks(kopf_tasks, ignored=ours), name="watch")
        stopped = asyncio.create_task(self._stopping.wait(), name="stopped")
        await asyncio.wait({watching, stopped, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        code = 0 if self._stopping.is_set() else 1
        await _cancel(stopped, *self._tasks)
        if code == 0:
            logging.getLogger("kopf").setLevel(logging.CRITICAL)  # it reports requests that we cut off as errors
        stop_watching.set()
        try:
            await watching
        except Exception:
            logger.exception("the watches ended")
            code = 1
        return code

    async def _stop(self, *more: asyncio.Task[Any]) -> None:
        await _cancel(*self._tasks, *more)

    def _spawn(self, name: str, awaitable: Awaitable[None]) -> None:
        async def guarded() -> None:
            try:
                await awaitable
            except asyncio.CancelledError:
                raise
            except BaseException:
                logger.exception("%s ended unexpectedly", name)
                raise

        self._tasks.append(asyncio.create_task(guarded(), name=name))

    def _on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)

    async def _lead(self) -> None:
        await self._election.lead()
        # At once and without ceremony: another replica may be at work already.
        logging.shutdown()
        os._exit(_EXIT_LOST_LEADERSHIP)

    # --- work -----------------------------------------------------------------------------------------------------
    async def _handle(self, key: Key) -> float | None:
        started = asyncio.get_running_loop().time()
        try:
            return (await self._dispatcher.reconcile(key)).requeue_after
        except Retryable as error:
            raise RetryLater(str(error), error.delay) from error
        finally:
            self._metrics.reconciled(asyncio.get_running_loop().time() - started)

    def _count_error(self, key: Key, error: Exception) -> None:
        self._metrics.failed(type(error.__cause__ or error).__name__)

    async def _resync(self) -> None:
        """Once, however long the API server is away."""
        pause = 0.5
        while True:
            try:
                missed = await cache.resync(self._cache, self._api, self._settings.watch_namespaces)
            except ApiError as error:
                logger.warning("the cluster cannot be listed; retrying in %.0f s: %s", pause, _with_cure(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, 30)
            else:
                break
        self._feed.announce(missed)
        self._feed.wake_unfinished()
        logger.debug("listed: %d objects were new, changed or gone", len(missed))


def _connection_info(access: kube.Access) -> kopf.ConnectionInfo:
    scheme, _, token = (access.authorization or "").partition(" ")
    return kopf.ConnectionInfo(
        server=access.server,
        ca_path=access.ca_path,
        insecure=not access.is_verified,
        certificate_path=access.certificate_path,
        private_key_path=access.key_path,
        scheme=scheme.capitalize() or None,
        token=token or None,
    )


def _with_cure(error: ApiError) -> str:
    if isinstance(error, NotFound):
        return f"{error} (are the CRDs installed? kubectl apply -f crds/)"
    return str(error)


async def _all_tasks() -> set[asyncio.Task[Any]]:
    return set(asyncio.all_tasks())


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    sys.exit(main())
