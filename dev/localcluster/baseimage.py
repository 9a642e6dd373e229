"""The base image where no registry can be reached: Debian by debootstrap, with what python:3-slim has besides."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from dev.localcluster.commands import output_of

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
PACKAGES = ("ca-certificates", "libpython3-dev", "python3", "python3-venv")  # the headers: torch.compile wants them
CONTAINERFILE = """\
FROM scratch
ADD root.tar /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \\
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \\
    PIP_CERT=/etc/ssl/certs/ca-certificates.crt
"""


def digest() -> str:
    """Changes with the list of packages."""
    words = "\0".join([SUITE, MIRROR, *PACKAGES, CONTAINERFILE])
    return hashlib.sha256(words.encode()).hexdigest()[:12]


def write_context(folder: Path) -> None:
    """A build context with the root file system and its Containerfile."""
    root = folder / "root"
    output_of("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, root, MIRROR, timeout=1800)
    for waste in ("var/cache/apt/archives", "var/lib/apt/lists", "var/log"):
        shutil.rmtree(root / waste, ignore_errors=True)
        (root / waste).mkdir(parents=True)
    output_of("tar", "-C", root, "-cf", folder / "root.tar", ".")
    shutil.rmtree(root)
    (folder / "Containerfile").write_text(CONTAINERFILE)
