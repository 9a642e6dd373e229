"""How fast the trainer trains, against what this CPU can do at most.

SmolLM2-135M-Instruct, LoRA rank 16 on all linear layers, 256 rows of building-permit questions, batch 8, bf16. Speed is
in real tokens per second (padding does not count), from the second half of an epoch, when everything is warm. The share
is 4 × parameters FLOPs per token (forward 2, backward through frozen weights 2) over the bf16 rate of a 2048³ matmul,
measured in the same run. `python -m tests.benchmarks.bench_trainer` writes `build/bench/trainer.json` and prints a
table.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dev.kit import entrypoint
from dev.kit.sample_data import faq_alpaca, smollm2_gguf
from dev.localcluster.console import console, step
from finetune_contract.jobspec import Prepared
from finetune_trainer.prepare import preparation
from finetune_trainer.training import train
from tests.trainer.builders import make_job
from tests.trainer.folders import FolderStorage
from tests.trainer.hooks import NoHooks

PARAMETERS = 134_515_008
FLOPS_PER_TOKEN = 4 * PARAMETERS
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
    """Times each step and shows it: its callback is called as any TrainerCallback is."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self.marks: list[tuple[float, int]] = []
        self._show = show

    def callback(self) -> Any:
        from transformers import TrainerCallback

        clock = self

        class Clock(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                clock.marks.append((time.perf_counter(), state.num_input_tokens_seen))
                clock._show(f"step {state.global_step} of {state.max_steps}")

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
    storage = FolderStorage(folder / "s3")
    job = make_job(spec, model=smollm2_gguf(), train=faq_alpaca())
    with step(f"{case}: rows prepared") as show:
        result = preparation.run(job, storage, folder / "prepare", show)
    job = job.model_copy(update={"prepared": Prepared(uri=result.uri, digest=result.digest)})
    with step(f"{case}: matmul rate before"):
        before = matmul_gflops()
    with step(f"{case}: trained") as show:
        clock = _Clock(show)
        trained = train.run(job, storage, folder / case.replace(" ", "-"), NoHooks(callbacks=[clock.callback()]))
    with step(f"{case}: matmul rate after"):
        gflops = statistics.mean([before, matmul_gflops()])
    speed = clock.tokens_per_second()
    return Outcome(
        case=case,
        tokens_per_second=round(speed, 1),
        gflops=round(gflops, 1),
        share=round(FLOPS_PER_TOKEN * speed / gflops / 1e9, 4),
        seconds=trained.metrics["trainSeconds"],
        loss=round(statistics.mean(entry["loss"] for entry in trained.metrics["lossHistory"][-8:]), 4),
        peak_gib=round(trained.metrics["peakMemoryBytes"] / 2**30, 2),
    )


def main() -> int:
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
    return 0


def _machine() -> str:
    import torch

    name = torch.cpu.get_capabilities().get("cpu_name", platform.processor())
    return f"{name}, {torch.get_num_threads()} threads of {os.cpu_count()} CPUs, torch {torch.__version__}"


if __name__ == "__main__":
    interrupted = "Stopped; nothing was written."
    sys.exit(entrypoint.exit_code(main, console, cure="Run `make bench-trainer` again.", interrupted=interrupted))
