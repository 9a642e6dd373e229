"""Write an image of one layer without any tool: enough for the pause container."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path


def write(path: Path, reference: str, program: Path) -> None:
    """A docker archive whose only file, and entry point, is `program`."""
    layer = _tar({program.name: (program.read_bytes(), 0o755)})
    diff = hashlib.sha256(layer).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"User": "65532", "Entrypoint": [f"/{program.name}"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff}"]},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [reference], "Layers": [f"{diff}/layer.tar"]}]
    files = {
        name: (config, 0o644),
        "manifest.json": (json.dumps(manifest).encode(), 0o644),
        f"{diff}/layer.tar": (layer, 0o644),
    }
    path.write_bytes(_tar(files))


def _tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, (content, mode) in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), mode
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
