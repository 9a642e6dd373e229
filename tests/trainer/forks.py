"""A fork server: `python -m tests.trainer.forks` has imported everything that a rank needs, and has run no operation.

Each child is a rank as the supervisor would start it, without the seconds of imports. A line of JSON in, a line out:

    {"do": "rank", "env": {…}, "log": path, "die_at": n}  →  {"pid": …}
    {"wait": pid}                                          →  {"status": exit code, or minus the signal}

`die_at`: the child kills itself with SIGKILL at its n-th operation on files or sockets, counted from the first step of
training on, in whichever thread: in a save, in an upload, in the publishing. Without it the child writes how many there
were to `<log>.operations`.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn


def _import_all() -> None:
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import transformers
    import transformers.models.qwen2.modeling_qwen2

    from finetune_trainer.training import train  # noqa: F401
    from tests.trainer import models  # noqa: F401

    _ = (transformers.Trainer, transformers.AutoModelForCausalLM, transformers.AutoTokenizer)


def main() -> None:
    from finetune_trainer.rank import libraries

    libraries.set_up("file://")
    _import_all()
    import torch

    assert not torch.cuda.is_initialized()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            answer = {"status": os.waitstatus_to_exitcode(status)}
        else:
            pid = os.fork()
            if pid == 0:
                _child(order)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


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

    enter, leave = start.Start.stage, command._exit

    def stage(self: start.Start, name: Any) -> None:
        nonlocal counting
        enter(self, name)
        counting = counting or name == "training"

    def end(record: Any) -> NoReturn:
        report.write_text(str(seen))
        leave(record)

    start.Start.stage = stage  # type: ignore[method-assign]
    command._exit = end
    sys.addaudithook(hook)


if __name__ == "__main__":
    main()
