"""Build the Go programs below `go/`, once per content, into the cache folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from dev.localcluster.commands import CommandError
from dev.localcluster.console import step
from dev.localcluster.layout import KUBERNETES_VERSION, SOURCES
from dev.localcluster.lock import Lock

_VERSION = "k8s.io/component-base/version"
_CLIENT = "k8s.io/client-go/pkg/version"


@dataclass(frozen=True)
class Program:
    """One Go module of ours. Each has its own go.mod, as their versions of shared libraries differ."""

    name: str
    package: str = "."
    variables: tuple[str, ...] = ()  # set at link time
    links: tuple[str, ...] = ()  # names by which the program is called

    @property
    def source(self) -> Path:
        return SOURCES / "go" / self.name

    @property
    def ldflags(self) -> str:
        return " ".join(["-s", "-w", *(f"-X {variable}" for variable in self.variables)])


KUBERNETES = Program(
    "kubernetes",
    variables=(
        f"{_VERSION}.gitVersion={KUBERNETES_VERSION}",
        f"{_VERSION}.gitMajor=1",
        f"{_VERSION}.gitMinor={KUBERNETES_VERSION.split('.')[1]}",
        f"{_CLIENT}.gitVersion={KUBERNETES_VERSION}",
    ),
    links=("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"),
)
ETCD = Program("etcd")
COREDNS = Program("coredns")
HELM = Program("helm", package="helm.sh/helm/v4/cmd/helm")
PAUSE = Program("pause")


_QUICKER = ("-gcflags=all=-dwarf=false",)  # saves a tenth; the linker drops the debug information anyway
CLUSTER = (KUBERNETES, ETCD, COREDNS, PAUSE)


class MissingGoError(RuntimeError):
    """There is no Go compiler."""


def digest_of(files: Iterable[tuple[str, bytes]], *words: str) -> str:
    """A short name for a set of files and settings, the same wherever they lie and in whatever order they come."""
    digest = hashlib.sha256()
    for name, content in sorted(files):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    for word in words:
        digest.update(f"{word}\0".encode())
    return digest.hexdigest()[:16]


def key_of(program: Program) -> str:
    """Names the built program: go.mod, go.sum, sources and flags."""
    files = ((path.name, path.read_bytes()) for path in program.source.iterdir() if path.is_file())
    return digest_of(files, program.package, program.ldflags)


def build(program: Program, cache: Path) -> Path:
    """The folder that holds the program (and its links), built when it is not there."""
    folder = cache / "bin" / f"{program.name}-{key_of(program)}"
    if not folder.is_dir():
        with Lock(cache / "bin" / f"{program.name}.lock")():  # never the same build twice at a time
            if not folder.is_dir():
                _build(program, folder)
    return folder


def _build(program: Program, folder: Path) -> None:
    go = shutil.which("go") or next(iter(map(str, Path("/usr/local/go/bin").glob("go"))), None)
    if not go:
        raise MissingGoError(
            "building the local cluster needs Go 1.24 or later (it fetches the version it wants itself)"
        )
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, step(f"build {program.name}") as show:
        argv = [go, "build", "-v", "-trimpath", *_QUICKER, "-ldflags", program.ldflags]
        _run([*argv, "-o", f"{scratch}/{program.name}", program.package], program.source, show)
        for link in program.links:
            (Path(scratch) / link).symlink_to(program.name)
        # Built aside and then renamed: an interrupted build must not look like a finished one.
        (finished := Path(scratch)).rename(folder)
        folder.chmod(0o755)
        finished.mkdir()  # for the context manager to remove


def _run(argv: list[str], cwd: Path, show: Callable[[str], None]) -> None:
    # CGO off: one static file that also runs inside an image. -v names each package as it is compiled;
    # what comes from Go's own cache is not named, so there is a count but no percentage.
    env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -mod=readonly"}
    lines: list[str] = []
    with subprocess.Popen(
        argv, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            lines.append(line)
            show(f"{len(lines)} packages, {line.strip()}")
    if process.returncode:
        raise CommandError(argv, process.returncode, "".join(lines))
