"""One rank of a training of several: `python -m tests.trainer.rank '{"root": …, "scratch": …}'`."""

import json
import os
import sys
from pathlib import Path

from finetune_contract.jobspec import JobFile
from finetune_trainer.rank.collectives import part
from finetune_trainer.rank.device import Process
from finetune_trainer.training import train
from tests.trainer.folders import FolderStorage
from tests.trainer.hooks import NoHooks


def main(order: dict[str, str]) -> None:
    scratch = Path(order["scratch"])
    job = JobFile.parse((scratch / "job.json").read_text())
    resume = Path(order["resume"]) if order.get("resume") else None
    result = train.run(job, FolderStorage(Path(order["root"]) / "s3"), scratch, NoHooks(resume))
    if Process.from_environment().is_first:
        report = {
            "losses": [entry["loss"] for entry in result.metrics["lossHistory"]],
            "evaluation": result.evaluation and result.evaluation.model_dump(),
            "directory": str(result.directory),
        }
        (scratch / "report.json").write_text(json.dumps(report))
    part()
    sys.stdout.flush()
    os._exit(0)  # as the command does: nothing that a library does at an interpreter's end decides


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
