"""The command line: it teaches, and a wrong setting ends it with the cure instead of a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_operator.__main__ import main
from finetune_operator.settings import VARIABLES


def test_help_names_every_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(name in said for name in VARIABLES)
    assert "kubectl apply -f crds/" in said


@pytest.mark.parametrize(
    ("variable", "value", "want"),
    [
        ("FINETUNE_TRAINER_IMAGE", "", "FINETUNE_TRAINER_IMAGE is not set"),
        ("FINETUNE_HTTP_PORT", "http", "FINETUNE_HTTP_PORT='http' is not a number"),
        ("KUBECONFIG", "/nowhere", "no cluster"),
    ],
)
def test_a_wrong_setting_ends_it_with_the_cure(
    variable: str, value: str, want: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FINETUNE_TRAINER_IMAGE", "registry/trainer:1")
    monkeypatch.setenv("FINETUNE_HTTP_PORT", "0")
    monkeypatch.setattr("finetune_operator.kube._SERVICE_ACCOUNT_TOKEN", Path("/nowhere/token"))
    monkeypatch.setattr("finetune_operator.__main__.configure_logs", lambda level, form: None)
    monkeypatch.setenv(variable, value)
    assert main([]) == 2
    assert want in capsys.readouterr().err
