"""How fast the trainer trains, against what this CPU can do at most.

SmolLM2-135M-Instruct, LoRA rank 16 on all linear layers, 256 rows of building-permit questions, batch 8, bf16. Speed is
in real tokens a second (padding does not count), from the second half of an epoch, when everything is warm. The share
is 4 × parameters FLOPs a token (forward 2, backward through frozen weights 2) over the bf16 rate of a 2048³ matmul,
measured in the same run. `python -m tests.benchmarks.bench_trainer` writes `build/bench/trainer.json` and prints a
table.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dev.kit.sample_data import faq_alpaca, smollm2_gguf
from finetune_contract.jobspec import Prepared
from finetune_trainer.prepare import preparation
from finetune_trainer.training import train
from tests.trainer.builders import make_job
from tests.trainer.folders import FolderStorage
from tests.trainer.hooks import NoHooks

PARAMETERS = 134_515_008
FLOPS_A_TOKEN = 4 * PARAMETERS
CASES: dict[str, dict[str, Any]] = {
    "compiled": {"compile": True},
    "default": {},
    "SDPA attention": {"attention": "sdpa"},
    "rows in random order": {"groupByLength": False},
    "gradient checkpointing": {"gradientCheckpointing": True},
}


@dataclass(frozen=True)
class Outcome:
    case: str
    tokens_per_second: float
    """Steady state."""
    gflops: float
    """Measured bf16 matmul rate, mean of before and after."""
    share: float
    seconds: float
    """Whole training, compilation included."""
    loss: float
    """Mean of the last 8 steps."""
    peak_gib: float


class _Clock:
    """Times each step: a callback that is called as a TrainerCallback would be."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, int]] = []

    def callback(self) -> Any:
        from transformers import TrainerCallback

        clock = self

        class Clock(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                clock.marks.append((time.perf_counter(), state.num_input_tokens_seen))

        return Clock()

    def tokens_per_second(self) -> float:
        half = self.marks[len(self.marks) // 2 :]
        return (half[-1][1] - half[0][1]) / (half[-1][0] - half[0][0])


def matmul_gflops(seconds: float = 1.5) -> float:
    """bf16, 2048 × 2048 × 2048."""
    import torch

    a = torch.randn(2048, 2048, dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        a @ a
        count += 1
    return float(2 * 2048**3 * count / (time.perf_counter() - start) / 1e9)


def run_case(case: str, rows: int, steps: int, folder: Path) -> Outcome:
    spec = {
        "dataset": {"maxSamples": rows, "splitFraction": 0},
        "method": {"type": "lora", "lora": {"rank": 16}},
        "training": {
            "learningRate": 1e-3,
            "perDeviceBatchSize": 8,
            "gradientAccumulationSteps": 1,
            "gradientCheckpointing": False,
            "precision": "bf16",
            "epochs": 1,
            "loggingSteps": 1,
            "maxSteps": steps,
            **CASES[case],
        },
        "evaluation": {"sampleAnswers": 0},
        "checkpoint": {"everySteps": 100_000},
    }
    storage, clock = FolderStorage(folder / "s3"), _Clock()
    job = make_job(spec, model=smollm2_gguf(), train=faq_alpaca())
    result = preparation.run(job, storage, folder / "prepare", lambda line: None)
    job = job.model_copy(update={"prepared": Prepared(uri=result.uri, digest=result.digest)})
    before = matmul_gflops()
    trained = train.run(job, storage, folder / case.replace(" ", "-"), NoHooks(callbacks=[clock.callback()]))
    gflops = statistics.mean([before, matmul_gflops()])
    speed = clock.tokens_per_second()
    return Outcome(
        case=case,
        tokens_per_second=round(speed, 1),
        gflops=round(gflops, 1),
        share=round(FLOPS_A_TOKEN * speed / gflops / 1e9, 4),
        seconds=trained.metrics["trainSeconds"],
        loss=round(statistics.mean(entry["loss"] for entry in trained.metrics["lossHistory"][-8:]), 4),
        peak_gib=round(trained.metrics["peakMemoryBytes"] / 2**30, 2),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=["default", "compiled"], help=f"of: {', '.join(CASES)}")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--steps", type=int, default=32)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = [run_case(case, arguments.rows, arguments.steps, Path(folder)) for case in arguments.cases]
    document = {"machine": _machine(), "rows": arguments.rows, "cases": [asdict(outcome) for outcome in outcomes]}
    target = Path("build/bench/trainer.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\n{document['machine']}")
    titles = ("tokens/s", "share", "matmul GFLOP/s", "seconds", "loss", "GiB")
    print(f"{'case':26} {titles[0]:>9} {titles[1]:>6} {titles[2]:>15} {titles[3]:>8} {titles[4]:>7} {titles[5]:>5}")
    for outcome in outcomes:
        print(
            f"{outcome.case:26} {outcome.tokens_per_second:9.0f} {outcome.share:6.1%} {outcome.gflops:15.0f} "
            f"{outcome.seconds:8.1f} {outcome.loss:7.3f} {outcome.peak_gib:5.1f}"
        )


def _machine() -> str:
    import torch

    name = torch.cpu.get_capabilities().get("cpu_name", platform.processor())
    return f"{name}, {torch.get_num_threads()} threads of {os.cpu_count()} CPUs, torch {torch.__version__}"


if __name__ == "__main__":
    main()
