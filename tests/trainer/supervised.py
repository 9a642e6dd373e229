"""A supervisor as PID 1 would be, with scripts for ranks: `python -m tests.trainer.supervised ORDER`.

A process of its own, because a supervisor reaps every child it finds. Prints nothing of its own; leaves the record.
"""

import json
import os
import sys
from pathlib import Path

from finetune_contract.jobspec import World
from finetune_trainer.pod import outcome, supervisor


def main(order: dict[str, str]) -> None:
    world = World(nodes=int(order["nodes"]), processes_per_node=int(order["ranks"]), gpus_per_node=0, gpu_class="cpu")
    record = supervisor.supervise(
        world,
        command=(sys.executable, "-S", "-E", "-c", order["script"]),
        scratch=Path(order["scratch"]),
        patience_seconds=float(order["patience"]),
    )
    outcome.write_termination_message(record)
    os._exit(record.exit_code)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
