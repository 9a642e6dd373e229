"""No broken input ends in a traceback, in code 1, in another try, or in a success: each is refused in words.

The functions behind the commands, in this process; how many inputs there were is printed.
"""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from finetune_contract.exitcodes import ExitCode
from finetune_contract.termination import TerminationRecord
from finetune_trainer.pod import outcome
from finetune_trainer.prepare import preparation
from tests.trainer.builders import make_job
from tests.trainer.folders import FolderStorage
from tests.trainer.fuzz import broken
from tests.trainer.models import save_tiny_model

FINAL = {ExitCode.INVALID_CONFIGURATION, ExitCode.INVALID_DATA}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
    (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.7}')
    return folder


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def line(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}", end="", flush=True)

    return line


@pytest.mark.parametrize(
    ("what", "inputs"),
    [
        pytest.param("rows with a wrong value", broken.wrong_values, id="rows with a wrong value"),
        pytest.param("broken text files", broken.broken_text, id="broken text files"),
        pytest.param("broken binary files", broken.broken_binaries, id="broken binary files"),
    ],
)
def test_broken_data_is_refused_by_its_place(
    what: str,
    inputs: Callable[[], Iterable[broken.Broken]],
    model: Path,
    tmp_path: Path,
    say: Callable[[str], None],
) -> None:
    problems, count = [], 0
    for count, (name, file, content) in enumerate(inputs(), start=1):
        data = tmp_path / str(count) / file
        data.parent.mkdir()
        data.write_bytes(content)
        record = _prepare(tmp_path / str(count), model, data)
        if problem := _problem(record, names=file):
            problems.append(f"{name}: {problem}")
    say(f"{what}: {count} tried, {count - len(problems)} refused")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("what", "mutations"),
    [
        pytest.param("broken model folders", broken.broken_models, id="broken model folders"),
        pytest.param("broken weights", broken.broken_weights, id="broken weights"),
    ],
)
def test_a_broken_model_is_refused_before_a_gpu_is_asked_for(
    what: str,
    mutations: Callable[[], Iterable[broken.Mutation]],
    model: Path,
    tmp_path: Path,
    say: Callable[[str], None],
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_bytes(broken.jsonl(broken.ALPACA))
    assert _prepare(tmp_path / "good", model, data).exit_code == 0
    problems, count = [], 0
    for count, (name, mutate) in enumerate(mutations(), start=1):
        folder = tmp_path / f"model-{count}"
        shutil.copytree(model, folder)
        mutate(folder)
        record = _prepare(tmp_path / str(count), folder, data)
        if problem := _problem(record, names="spec.model"):
            problems.append(f"{name}: {problem}")
        shutil.rmtree(folder)
    say(f"{what}: {count} tried, {count - len(problems)} refused")
    assert not problems, "\n".join(problems)


def _prepare(scratch: Path, model: Path, data: Path) -> TerminationRecord:
    """As the command concludes it."""
    job = make_job({"training": {"maxLength": 256}}, model=model, train=data)
    try:
        prepared = preparation.run(job, FolderStorage(scratch / "s3"), scratch / "scratch", lambda line: None)
    except BaseException as error:  # noqa: BLE001 - what the command does
        return outcome.failure("prepare", error)
    return outcome.success("prepare", "prepared", prepared=prepared)


def _problem(record: TerminationRecord, names: str) -> str | None:
    if record.code not in FINAL:
        return f"code {record.exit_code} {record.reason}: {record.message[:200]}"
    return None if names in record.message else f"does not name {names}: {record.message[:200]}"


def test_the_mutations_are_many() -> None:
    counts: dict[str, int] = {
        name: sum(1 for _ in inputs())
        for name, inputs in dict[str, Any](
            rows=broken.wrong_values,
            text=broken.broken_text,
            binaries=broken.broken_binaries,
            models=broken.broken_models,
            weights=broken.broken_weights,
        ).items()
    }
    assert sum(counts.values()) >= 500, counts
