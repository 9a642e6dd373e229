"""Every variable, and what is said about a wrong one."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import islice
from pathlib import Path

import kopf
import pytest

from finetune_operator import __version__
from finetune_operator.core.options import Options
from finetune_operator.settings import VARIABLES, Settings, SettingsError, configure_kopf, read_settings

ROOT = Path(__file__).parents[3]
IMAGE = {"FINETUNE_TRAINER_IMAGE": "registry/trainer:1"}


def test_the_image_alone_is_enough() -> None:
    settings = read_settings(IMAGE)
    assert settings.trainer_image == "registry/trainer:1"
    assert settings.watch_namespaces == ()
    assert not settings.leader_election


def test_every_variable_is_taken_up() -> None:
    settings = read_settings(
        IMAGE
        | {
            "FINETUNE_TRAINER_IMAGE_PULL_POLICY": "always",
            "FINETUNE_WATCH_NAMESPACES": " b, a ,,b",
            "FINETUNE_PROGRESS_INTERVAL_SECONDS": "2.5",
            "FINETUNE_ALLOW_CPU_FOR_GPU": "true",
            "FINETUNE_LEADER_ELECTION": "True",
            "FINETUNE_HTTP_PORT": "9000",
            "FINETUNE_LOG_LEVEL": "debug",
            "FINETUNE_LOG_FORMAT": "json",
            "FINETUNE_TERMINATION_GRACE_SECONDS": "7",
            "FINETUNE_IMAGE_PULL_SECRETS": "registry",
            "POD_NAME": "pod",
            "POD_NAMESPACE": "system",
        }
    )
    assert settings == Settings(
        trainer_image="registry/trainer:1",
        trainer_image_pull_policy="Always",
        watch_namespaces=("a", "b"),
        progress_interval_seconds=2.5,
        allow_cpu_for_gpu=True,
        leader_election=True,
        http_port=9000,
        log_level="DEBUG",
        log_format="json",
        termination_grace_seconds=7,
        image_pull_secrets=("registry",),
        pod_name="pod",
        pod_namespace="system",
    )


def test_the_core_is_told_what_is_about_every_job() -> None:
    settings = replace(
        read_settings(IMAGE),
        trainer_image_pull_policy="Never",
        image_pull_secrets=("registry",),
        termination_grace_seconds=7,
        progress_interval_seconds=2.5,
        allow_cpu_for_gpu=True,
    )
    assert settings.options == Options(
        trainer_image="registry/trainer:1",
        image_pull_policy="Never",
        image_pull_secrets=("registry",),
        termination_grace_seconds=7,
        progress_interval_seconds=2.5,
        allow_cpu_for_gpu=True,
    )


def test_an_empty_value_counts_as_absent() -> None:
    empty = dict.fromkeys(VARIABLES, "") | IMAGE
    assert read_settings(empty) == read_settings(IMAGE)


@pytest.mark.parametrize(
    ("name", "value", "cure"),
    [
        ("FINETUNE_TRAINER_IMAGE", " ", "for example"),
        ("FINETUNE_TRAINER_IMAGE_PULL_POLICY", "Sometimes", "Always, IfNotPresent, Never"),
        ("FINETUNE_ALLOW_CPU_FOR_GPU", "maybe", "neither true nor false"),
        ("FINETUNE_PROGRESS_INTERVAL_SECONDS", "soon", "not a number"),
        ("FINETUNE_PROGRESS_INTERVAL_SECONDS", "nan", "out of range"),
        ("FINETUNE_HTTP_PORT", "70000", "between 0 and 65535"),
        ("FINETUNE_LOG_LEVEL", "LOUD", "DEBUG, INFO, WARNING, ERROR"),
        ("FINETUNE_LOG_FORMAT", "xml", "text, json"),
        ("FINETUNE_TERMINATION_GRACE_SECONDS", "0", "between 1"),
    ],
)
def test_a_wrong_value_is_refused_with_name_and_cure(name: str, value: str, cure: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(cure)) as caught:
        read_settings(IMAGE | {name: value})
    assert str(caught.value).startswith(name)


def test_kopf_writes_nothing_and_never_gives_up() -> None:
    settings = kopf.OperatorSettings()
    configure_kopf(settings)
    assert settings.scanning.disabled
    assert not settings.posting.enabled
    assert settings.peering.standalone
    backoffs = settings.networking.error_backoffs
    for _ in range(2):  # each request begins anew
        delays = list(islice(iter(backoffs), 100))  # type: ignore[arg-type]
        assert delays[0] <= 1
        assert all(0.2 <= delay <= 30 for delay in delays)
        assert max(delays) > 16


def test_the_version_is_the_distributions() -> None:
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()
