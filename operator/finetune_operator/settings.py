"""Settings: one frozen value, read from the environment, which the chart sets.

Also the one place that touches kopf's `OperatorSettings`.
"""

import os
import random
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Literal, TypeVar, get_args

import kopf

from finetune_contract.names import LABEL_MANAGED_BY, MANAGED_BY
from finetune_operator.core.options import Options

T = TypeVar("T")

PullPolicy = Literal["Always", "IfNotPresent", "Never"]
LogFormat = Literal["text", "json"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class SettingsError(Exception):
    """An environment variable is missing or invalid; the message names it and the cure."""


@dataclass(frozen=True)
class Settings:
    trainer_image: str
    trainer_image_pull_policy: PullPolicy = "IfNotPresent"
    watch_namespaces: tuple[str, ...] = ()
    """Empty: all of them."""
    progress_interval_seconds: float = 30.0
    allow_cpu_for_gpu: bool = False
    """Tests only: fake GPUs have no device behind them."""
    leader_election: bool = False
    http_port: int = 8080
    log_level: LogLevel = "INFO"
    log_format: LogFormat = "text"
    termination_grace_seconds: int = 300
    image_pull_secrets: tuple[str, ...] = ()
    pod_name: str = "local"
    pod_namespace: str = "default"

    @property
    def options(self) -> Options:
        """The part that concerns every job: the core sees nothing else."""
        return Options(
            trainer_image=self.trainer_image,
            image_pull_policy=self.trainer_image_pull_policy,
            image_pull_secrets=self.image_pull_secrets,
            termination_grace_seconds=self.termination_grace_seconds,
            progress_interval_seconds=self.progress_interval_seconds,
            allow_cpu_for_gpu=self.allow_cpu_for_gpu,
        )


VARIABLES: Mapping[str, str] = {
    "FINETUNE_TRAINER_IMAGE": "image of the training pods (required)",
    "FINETUNE_TRAINER_IMAGE_PULL_POLICY": "Always, IfNotPresent (default) or Never",
    "FINETUNE_WATCH_NAMESPACES": "comma-separated; empty (default) watches all",
    "FINETUNE_PROGRESS_INTERVAL_SECONDS": "how often progress is fetched from a running job; default 30",
    "FINETUNE_ALLOW_CPU_FOR_GPU": "true lets a pod that requested a GPU train on the CPU (tests only); default false",
    "FINETUNE_LEADER_ELECTION": "true when more than one replica runs; default false",
    "FINETUNE_HTTP_PORT": "of /healthz, /readyz and /metrics; default 8080",
    "FINETUNE_LOG_LEVEL": "DEBUG, INFO (default), WARNING or ERROR",
    "FINETUNE_LOG_FORMAT": "text (default) or json",
    "FINETUNE_TERMINATION_GRACE_SECONDS": "seconds that a training pod has to save after SIGTERM; default 300",
    "FINETUNE_IMAGE_PULL_SECRETS": "comma-separated Secrets in the job's namespace, for the trainer image",
    "POD_NAME": "identity of this replica; the chart takes it from the pod",
    "POD_NAMESPACE": "namespace of the Lease; the chart takes it from the pod",
}


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Raises SettingsError with the variable and the cure."""
    env = _Environment(environ)
    return Settings(
        trainer_image=env.text("FINETUNE_TRAINER_IMAGE", required=True, example="registry/finetune-trainer:0.1.0"),
        trainer_image_pull_policy=env.choice("FINETUNE_TRAINER_IMAGE_PULL_POLICY", "IfNotPresent", PullPolicy),
        watch_namespaces=env.words("FINETUNE_WATCH_NAMESPACES"),
        progress_interval_seconds=env.number("FINETUNE_PROGRESS_INTERVAL_SECONDS", 30.0, lowest=1.0),
        allow_cpu_for_gpu=env.flag("FINETUNE_ALLOW_CPU_FOR_GPU"),
        leader_election=env.flag("FINETUNE_LEADER_ELECTION"),
        http_port=int(env.number("FINETUNE_HTTP_PORT", 8080, lowest=0, highest=65535)),
        log_level=env.choice("FINETUNE_LOG_LEVEL", "INFO", LogLevel),
        log_format=env.choice("FINETUNE_LOG_FORMAT", "text", LogFormat),
        termination_grace_seconds=int(env.number("FINETUNE_TERMINATION_GRACE_SECONDS", 300, lowest=1)),
        image_pull_secrets=env.words("FINETUNE_IMAGE_PULL_SECRETS"),
        pod_name=env.text("POD_NAME") or socket.gethostname(),
        pod_namespace=env.text("POD_NAMESPACE") or "default",
    )


class _Environment:
    """Reads variables; an empty one counts as absent, as a chart's empty value does."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str, *, required: bool = False, example: str = "") -> str:
        value = self._environ.get(name, "").strip()
        if required and not value:
            raise SettingsError(f"{name} is not set: set it to the {VARIABLES[name]}, for example {example}")
        return value

    def words(self, name: str) -> tuple[str, ...]:
        return tuple(sorted({word.strip() for word in self.text(name).split(",") if word.strip()}))

    def flag(self, name: str) -> bool:
        value = self.text(name).lower()
        if value in {"", "false", "0", "no"}:
            return False
        if value in {"true", "1", "yes"}:
            return True
        raise SettingsError(f"{name}={value!r} is neither true nor false: set it to one of them or leave it out")

    def number(self, name: str, default: float, *, lowest: float, highest: float = 86400.0) -> float:
        text = self.text(name)
        try:
            value = float(text) if text else default
        except ValueError:
            raise SettingsError(f"{name}={text!r} is not a number: {VARIABLES[name]}") from None
        if not lowest <= value <= highest:
            raise SettingsError(f"{name}={text} is out of range: set it between {lowest:g} and {highest:g}")
        return value

    def choice(self, name: str, default: T, choices: object) -> T:
        text = self.text(name)
        for choice in get_args(choices):
            if text.lower() == choice.lower():
                return choice  # type: ignore[no-any-return]
        if text:
            raise SettingsError(f"{name}={text!r} is unknown: set it to one of {', '.join(get_args(choices))}")
        return default


class _ForEver:
    """Pauses between retries of kopf's requests: the operator outlives its API server.

    Re-iterable: each request starts its own count, quickly at first, then every 30 seconds at most.
    """

    def __iter__(self) -> Iterator[float]:
        for longest in chain((1, 2, 4, 8, 16), repeat(30)):
            yield random.uniform(0.2, longest)  # noqa: S311 - jitter


def configure_kopf(kopf_settings: kopf.OperatorSettings) -> None:
    """Watch and nothing else: no scanning, no events, no peering, no state on objects."""
    kopf_settings.scanning.disabled = True  # needs no RBAC on namespaces and CRDs
    kopf_settings.posting.enabled = False
    kopf_settings.peering.standalone = True  # leadership is a Lease (leader.py)
    kopf_settings.networking.request_timeout = 30
    kopf_settings.networking.connect_timeout = 10
    kopf_settings.networking.error_backoffs = _ForEver()
    kopf_settings.watching.connect_timeout = 10
    kopf_settings.watching.chunk_size = 500
    kopf_settings.queueing.worker_limit = None  # a limit can deadlock with kopf's own toggles
    kopf_settings.queueing.exit_timeout = 1.0
    kopf_settings.process.ultimate_exiting_timeout = 20
    ours = f"{LABEL_MANAGED_BY}={MANAGED_BY}"
    kopf_settings.watching.label_selectors["", "v1", "pods"] = ours
    kopf_settings.watching.label_selectors["batch", "v1", "jobs"] = ours
