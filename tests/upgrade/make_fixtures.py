"""`python -m tests.upgrade.make_fixtures`: make tests/upgrade/<version> anew, by the released version itself.

Its commit is unpacked into a temporary folder with its own locked environment, and trains there. Takes a minute.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.upgrade.released import COMMIT, FIXTURES, unpack

_HERE = Path(__file__).parent
_MAX_BYTES = 300_000


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="finetune-release-") as name:
        checkout = unpack(Path(name))
        (checkout / "tests" / "upgrade").mkdir()
        shutil.copy(_HERE / "recorder.py", checkout / "tests" / "upgrade")
        for folder in ("s3", "crds", "golden"):
            shutil.rmtree(FIXTURES / folder, ignore_errors=True)
        shutil.copytree(checkout / "crds", FIXTURES / "crds")
        (FIXTURES / "golden").mkdir()
        for path in (checkout / "tests" / "contract" / "golden").glob("job-*-v1.json"):
            shutil.copy(path, FIXTURES / "golden")
        _run(checkout, "uv", "sync", "--frozen", "--quiet")
        _run(checkout, "uv", "run", "--frozen", "pytest", "-q", "tests/upgrade/recorder.py")
    size = sum(path.stat().st_size for path in FIXTURES.rglob("*") if path.is_file())
    assert size <= _MAX_BYTES, f"{size} bytes are too many for files in the repository: make the model smaller"
    print(f"{FIXTURES}: {size:,} bytes, by {COMMIT}")


def _run(checkout: Path, *argv: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    subprocess.run(argv, cwd=checkout, check=True, env={**environment, "UPGRADE_FIXTURES": str(FIXTURES)})


if __name__ == "__main__":
    main()
