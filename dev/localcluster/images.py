"""The project's images: which there are, what their content is called, and how to build them.

A reference names the content (Dockerfile, lock, code), so an image that exists under it needs no rebuild.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dev.localcluster import baseimage, buildstore
from dev.localcluster.buildstore import StoredImage
from dev.localcluster.commands import CommandError, output_of, succeeds
from dev.localcluster.console import step
from dev.localcluster.diagnosis import diagnose
from dev.localcluster.layout import ROOT, Layout

REPOSITORY = "finetune-operator"
HOST = "localhost"  # images are handed to the nodes, never pulled: no registry has this name
_PUSH = ("--compression-format=zstd", "--compression-level=1")
_IGNORED = {"__pycache__"}
_HOST_FILES = (  # what an image build needs of this machine where registries sit behind a private authority
    ("/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/certs/ca-certificates.crt"),
    ("/etc/pip.conf", "/etc/pip.conf"),
    ("/etc/uv/uv.toml", "/etc/uv/uv.toml"),
)


@dataclass(frozen=True)
class Image:
    """One Dockerfile with the paths that it copies."""

    name: str
    dockerfile: str
    code: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.dockerfile, "pyproject.toml", "uv.lock", *self.code)


OPERATOR = Image(
    "operator",
    "operator/Dockerfile",
    ("operator/finetune_operator", "contract/finetune_contract"),
)
TRAINER = Image(
    "trainer",
    "trainer_image/Dockerfile",
    ("trainer_image/build_shm_op.py", "trainer_image/finetune_trainer", "contract/finetune_contract"),
)
# Debian with Python alone: for tests that need a pod and no program of ours.
BASE = "base"
IMAGES = {image.name: image for image in (OPERATOR, TRAINER)}
NAMES = (*IMAGES, BASE)


def content_digest(root: Path, inputs: tuple[str, ...], *words: str) -> str:
    """A digest of the files at or below `inputs`: their paths, modes and contents."""
    digest = hashlib.sha256()
    for path in sorted(_files(root, inputs)):
        content = path.read_bytes()
        mode = "x" if os.access(path, os.X_OK) else "-"
        digest.update(f"{path.relative_to(root)}\0{mode}\0{len(content)}\0".encode() + content)
    for word in words:
        digest.update(f"{word}\0".encode())
    return digest.hexdigest()[:12]


def _files(root: Path, inputs: tuple[str, ...]) -> Iterator[Path]:
    for name in inputs:
        start = root / name
        if start.is_file():
            yield start
            continue
        for path in start.rglob("*"):
            if path.is_file() and path.suffix != ".pyc" and not _IGNORED.intersection(path.parts):
                yield path


def tag(name: str) -> str:
    """The tag of the image's present content."""
    if name == BASE:
        return baseimage.digest()
    if name not in IMAGES:
        raise KeyError(f"there is no image {name}: know {', '.join(NAMES)}")
    return content_digest(ROOT, IMAGES[name].inputs)


def reference(name: str, host: str) -> str:
    """`host/finetune-operator/name:tag`."""
    return f"{host}/{REPOSITORY}/{name}:{tag(name)}"


def was_built(layout: Layout, name: str) -> bool:
    """Whether any content of the image is in the build store, so that the layers of its dependencies are there too."""
    return any(f"/{REPOSITORY}/{name}:" in each for each in buildstore.names(layout.buildah))


def outdated(present: Iterable[str], name: str, current: str) -> list[str]:
    """Of these references those of the same image with another content, wherever they were meant for."""
    pattern = re.compile(rf"[^/]+/{REPOSITORY}/{name}:[0-9a-f]{{12}}")
    return sorted(each for each in present if pattern.fullmatch(each) and each != current)


class Buildah:
    """Image builds without a daemon, in a store of our own."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.argv = (
            "buildah",
            f"--root={layout.buildah}",
            f"--runroot={layout.run}/buildah",
            "--storage-driver=overlay",
        )

    def ensure(self, name: str) -> StoredImage:
        """The image of the present content, built when it is missing; then its predecessors go."""
        full = reference(name, HOST)
        if not self._holds(full):
            full = self._make(name, HOST)
            self._remove_outdated(name, full)
        described = json.loads(output_of(*self.argv, "inspect", "--type=image", full))
        manifest, config = (described[part].encode() for part in ("Manifest", "Config"))
        return buildstore.read(self.layout.buildah, full, manifest=manifest, config=config)

    def publish(self, name: str, host: str) -> str:
        """Build and push to a registry: what it has of the layers is not sent again."""
        full = self._make(name, host)
        # A registry takes no plain layers from buildah; the fastest zstd halves them and costs less than writing them.
        self._run(f"push {name} image", "push", *_PUSH, full)
        return full

    def _make(self, name: str, host: str) -> str:
        """The image in the store under its reference; what of its layers is there is not built again."""
        base = self._base()
        if name == BASE:
            full = reference(name, host)
            self._run("tag the base image", "tag", base, full)
            return full
        with self._frozen_context(IMAGES[name]) as (context, now):
            full = f"{host}/{REPOSITORY}/{name}:{now}"
            self._run(f"build {name} image", *self._build(IMAGES[name], base, full, context), str(context))
        return full

    def _holds(self, name: str) -> bool:
        return succeeds(*self.argv, "inspect", "--type=image", name)

    def _remove_outdated(self, name: str, current: str) -> None:
        """Without them their layers go, but for those that the current image shares: a change of the lock is 5 GB."""
        present = output_of(*self.argv, "images", "--format={{.Name}}:{{.Tag}}").split()
        if old := outdated(present, name, current):
            output_of(*self.argv, "rmi", *old)

    def _build(self, image: Image, base: str, full: str, context: Path) -> Iterator[str]:
        yield from ("bud", "--isolation=chroot", "--layers", f"--build-arg=BASE_IMAGE={base}", f"--tag={full}")
        yield f"--file={context / image.dockerfile}"
        for here, there in _HOST_FILES:
            if Path(here).exists():
                yield f"--volume={here}:{there}:ro"

    @contextmanager
    def _frozen_context(self, image: Image) -> Iterator[tuple[Path, str]]:
        """A copy of the inputs with their tag: somebody may edit the code while the image is built."""
        with tempfile.TemporaryDirectory() as folder:
            context = Path(folder)
            for path in _files(ROOT, image.inputs):
                target = context / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
                target.chmod(path.stat().st_mode & 0o755 | 0o644)
                os.utime(target, (0, 0))  # the layer cache looks at it
            yield context, content_digest(context, image.inputs)

    def _base(self) -> str:
        name = f"localhost/finetune-base:{baseimage.digest()}"
        if not self._holds(name):
            with tempfile.TemporaryDirectory(dir=self.layout.cache) as folder:
                with step("bootstrap the base image"):
                    try:
                        baseimage.write_context(Path(folder))
                    except CommandError as error:
                        raise diagnose("bootstrapping the base image", error) from error
                self._run("import the base image", "bud", "--isolation=chroot", f"--tag={name}", folder)
        return name

    def _run(self, title: str, *words: str) -> None:
        argv = [*self.argv, *words]
        log = self.layout.cache / "image-builds.log"
        # A commit writes each layer twice before it is one: on the disk that was measured, not in /var/tmp, and what an
        # interrupted build has left there ends with the next.
        scratch = self.layout.cache / "image-builds.tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        env = {**os.environ, "TMPDIR": str(scratch)}
        with (
            step(title) as show,
            log.open("a") as sink,
            subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as process,
        ):
            assert process.stdout
            lines = []
            for line in process.stdout:
                lines.append(line)
                sink.write(line)
                show(line.strip())
        if process.returncode:
            raise diagnose(title, CommandError(argv, process.returncode, "".join(lines[-60:])))
