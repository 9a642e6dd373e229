"""The command line: turns every end into an exit code and a record (docs/exit-codes.md), and does nothing else.

`prepare` and `train` are PID 1 of their pods, `train` starts `rank`, and `verify` is for people.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from finetune_contract import names
from finetune_contract.jobspec import JobFile
from finetune_contract.termination import INVALID_JOB_FILE, TerminationRecord
from finetune_trainer.causes.foreseeing import foreseen
from finetune_trainer.errors import ConfigurationError, StoppedAfterSave
from finetune_trainer.pod import outcome
from finetune_trainer.rank import libraries, reporting

app = typer.Typer(
    help=__doc__.splitlines()[0] if __doc__ else None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

JobOption = Annotated[
    Path,
    typer.Option(envvar=names.ENV_JOB_FILE, help="The job file that the operator mounts: identity, spec and world."),
]
ScratchOption = Annotated[
    Path, typer.Option(envvar=names.ENV_SCRATCH_DIR, help="A writable folder for downloads, checkpoints and results.")
]


@app.command()
def prepare(job: JobOption = Path(names.JOB_FILE), scratch: ScratchOption = Path(names.SCRATCH_DIR)) -> None:
    """Fetch, check, render and tokenise the rows of a job, and store them in S3 by content.

    Bad data ends here with code 3, naming file, row and field, before any GPU is requested.
    """

    def work() -> TerminationRecord:
        _end_on_sigterm("another preparation starts from the beginning")
        parsed = _read_job(job)
        libraries.set_up(parsed.spec.model.source)
        from finetune_trainer.artifacts.storage import Storage
        from finetune_trainer.pod.endpoint import Endpoint
        from finetune_trainer.pod.metrics import Metrics
        from finetune_trainer.pod.record_keeper import RecordKeeper
        from finetune_trainer.prepare import preparation

        storage, keeper, metrics = Storage.from_job(parsed), RecordKeeper(parsed), Metrics(parsed)
        metrics.enter("preparing")
        storage.probe(parsed.spec.output.uri)
        with Endpoint(metrics, keeper):
            prepared = preparation.run(parsed, storage, scratch, reporting.to_stdout, keeper.note_preparation)
        return outcome.success(
            "prepare", f"{prepared.train_rows} rows are prepared at {prepared.uri}", prepared=prepared
        )

    record = _concluded("prepare", work)
    outcome.write_termination_message(record)
    _exit(record)


@app.command()
def train(job: JobOption = Path(names.JOB_FILE), scratch: ScratchOption = Path(names.SCRATCH_DIR)) -> None:
    """Train on this node: start its ranks, pass SIGTERM on, report how they ended.

    Exits with 0 when the result is published and verified, with 85 when it was asked to stop and everything is saved.
    The other codes are in docs/exit-codes.md.
    """

    def work() -> TerminationRecord:
        from finetune_trainer.pod import supervisor

        world = _read_job(job).world
        os.environ.update({names.ENV_JOB_FILE: str(job), names.ENV_SCRATCH_DIR: str(scratch)})  # for the ranks
        return supervisor.supervise(world, scratch=scratch)

    record = _concluded("train", work)
    print(f"{record.reason}: {record.message}", flush=True)
    outcome.write_termination_message(record)
    _exit(record)


@app.command(hidden=True)
def rank(job: JobOption = Path(names.JOB_FILE), scratch: ScratchOption = Path(names.SCRATCH_DIR)) -> None:
    """One rank, as `train` starts it: needs RANK, WORLD_SIZE and the rest of torch's rendezvous in the environment."""

    def work() -> TerminationRecord:
        _end_on_sigterm(
            "training had not begun"
        )  # until the rank's own handler is installed: importing torch takes seconds
        outcome.watch_rank()
        parsed = _read_job(job)
        libraries.set_up_training(parsed)
        libraries.leave_out_unused(parsed)
        from finetune_trainer.pod.preemption import StopRequest
        from finetune_trainer.start import Start

        stop = StopRequest()
        stop.listen()
        return Start(parsed, scratch, stop).run()

    record = _concluded("train", work)
    outcome.write_rank_record(record)
    _exit(record)


@app.command()
def verify(
    uri: Annotated[str, typer.Argument(help="s3://bucket/prefix of a result: the folder that contains manifest.json.")],
    ask: Annotated[
        list[str] | None,
        typer.Option(help="A question to answer with the model before and after training. Repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")] = False,
    endpoint: Annotated[
        str | None, typer.Option(envvar="AWS_ENDPOINT_URL", help="Of an S3 service other than AWS: https://host:port.")
    ] = None,
    region: Annotated[str, typer.Option(envvar="AWS_REGION", help="Region of the bucket.")] = "us-east-1",
    scratch: ScratchOption = Path(names.SCRATCH_DIR),
) -> None:
    """Download a result, check every digest in its manifest, and ask it questions.

    Keys are read from the files of a mounted Secret, or found as any AWS tool finds them.
    """

    def work() -> TerminationRecord:
        from finetune_trainer import verify as verification

        return verification.run(
            uri, questions=ask or [], as_json=as_json, endpoint=endpoint, region=region, scratch=scratch
        )

    record = _concluded("train", work)
    if record.exit_code:
        print(f"{record.reason}: {record.message}", file=sys.stderr)
    _exit(record)


def _read_job(path: Path) -> JobFile:
    try:
        return JobFile.parse(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"the job file cannot be read: {error}", field=str(path)) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "job file"
        raise ConfigurationError(f"{first['msg']} ({path})", field=place, reason=INVALID_JOB_FILE) from error


def _concluded(role: outcome.Role, work: Callable[[], TerminationRecord]) -> TerminationRecord:
    try:
        return work()
    except BaseException as error:  # noqa: BLE001 - the last line of defence: even a bug must leave a record
        known = foreseen(error)
        if known is None:
            traceback.print_exc()
        else:
            print(f"{known.reason}: {known}", file=sys.stderr, flush=True)
        return outcome.failure(role, error)


def _end_on_sigterm(why_nothing_is_lost: str) -> None:
    def end(number: int, frame: object) -> NoReturn:
        raise StoppedAfterSave(f"stopped on request: {why_nothing_is_lost}")

    signal.signal(signal.SIGTERM, end)


def _exit(record: TerminationRecord) -> NoReturn:
    """At once: neither a broken process group nor a library's thread may delay or change the exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(record.exit_code)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
