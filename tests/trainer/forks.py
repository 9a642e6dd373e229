"""A fork server: `python -m tests.trainer.forks` has imported everything that a rank needs, and has run no operation.

Each child is a rank as the supervisor would start it, without the seconds of imports. A line of JSON in, a line out:

    {"do": "rank", "env": {…}, "log": path, "die_at": n, "gates": […]}  →  {"pid": …}
    {"wait": pid}                                                        →  {"status": exit code, or minus the signal}

`die_at`: the child kills itself with SIGKILL at its n-th operation on files or sockets, counted from the first step of
training on, in whichever thread: in a save, in an upload, in the publishing. Without it the child writes how many there
were to `<log>.operations`.

`gates`: pairs of a place and a FIFO. The thread that comes to the place waits there until the other end of the FIFO has
been opened and closed: what a test does in between happens at that place, however slow or fast the machine is.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn


def _import_all() -> None:
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import transformers
    import transformers.models.qwen2.modeling_qwen2

    from finetune_trainer import start  # noqa: F401
    from finetune_trainer.training import assembly, callbacks  # noqa: F401
    from tests.trainer import models  # noqa: F401

    _ = (transformers.Trainer, transformers.AutoModelForCausalLM, transformers.AutoTokenizer)


def main() -> None:
    from finetune_trainer.rank import libraries

    libraries.set_up("file://")
    _import_all()
    import torch

    assert not torch.cuda.is_initialized()
    print(json.dumps({"ready": True}), flush=True)
    children: set[int] = set()
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            children.discard(order["wait"])
            answer = {"status": os.waitstatus_to_exitcode(status)}
        else:
            pid = os.fork()
            if pid == 0:
                _child(order)
            children.add(pid)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)
    for pid in children:
        os.kill(pid, signal.SIGKILL)  # what a failed test left at a gate


def _child(order: dict[str, Any]) -> NoReturn:
    from finetune_trainer import __main__ as command
    from tests.trainer.models import save_tiny_model

    os.setsid()
    with Path(order["log"]).open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = (open(stream, "w", buffering=1, closefd=False) for stream in (1, 2))  # noqa: SIM115
    os.environ.update(order["env"])
    if order["do"] == "model":
        save_tiny_model(Path(order["folder"]))
        os._exit(0)
    job, scratch = Path(os.environ["FINETUNE_JOB_FILE"]), Path(os.environ["FINETUNE_SCRATCH_DIR"])
    if order["do"] == "prepare":
        command.prepare(job, scratch)
    _count_operations(order.get("die_at"), Path(order["log"] + ".operations"))
    _wait_at(order.get("gates", []))
    command.rank(job, scratch)
    raise AssertionError("a command ends its process")


_OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "socket.connect"}


def _count_operations(die_at: int | None, report: Path) -> None:
    """Operations from the first step on. The count is a place in the program, whatever the machine's pace."""
    from finetune_trainer import __main__ as command
    from finetune_trainer import start

    seen, counting = 0, False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if counting and event in _OPERATIONS:
            seen += 1
            if seen == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    enter, leave = start.Start.enter, command._exit

    def activity(self: start.Start, name: Any) -> None:
        nonlocal counting
        enter(self, name)
        counting = counting or name == "training"

    def end(record: Any) -> NoReturn:
        report.write_text(str(seen))
        leave(record)

    start.Start.enter = activity  # type: ignore[method-assign]
    command._exit = end
    sys.addaudithook(hook)


def _wait_at(gates: Sequence[tuple[Mapping[str, Any], str]]) -> None:
    """One after another. A place is what the progress record is about to say, or a step whose gradients are there."""
    import transformers

    from finetune_trainer.pod.record_keeper import RecordKeeper

    closed = list(gates)

    def come_to(**places: Any) -> None:
        if closed and all(_has_come(places.get(name), want) for name, want in closed[0][0].items()):
            _, fifo = closed.pop(0)
            _wait_until_open(fifo)

    update, training_step = RecordKeeper.update, transformers.Trainer.training_step

    def update_and_come(self: RecordKeeper, **fields: Any) -> None:
        update(self, **fields)
        come_to(**fields)

    def step_and_come(self: Any, *arguments: Any, **options: Any) -> Any:
        loss = training_step(self, *arguments, **options)
        come_to(within_step=self.state.global_step + 1)
        return loss

    RecordKeeper.update = update_and_come  # type: ignore[method-assign]
    transformers.Trainer.training_step = step_and_come


def _wait_until_open(fifo: str) -> None:
    """Not in one read: a signal that comes just before it would be heard only when the gate opens."""
    with open(fifo, "rb") as gate:
        os.set_blocking(gate.fileno(), False)
        while gate.read() is None:  # b"" once the other end is closed
            time.sleep(0.01)


def _has_come(value: Any, want: Any) -> bool:
    return bool(value is not None and (value >= want if isinstance(want, int) else value == want))


if __name__ == "__main__":
    main()
