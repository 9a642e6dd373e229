"""Build the programs of the Go module below `go/`, once per content, into the cache folder.

One module for all: what two programs share is compiled once. Of Helm's 1,029 packages Kubernetes has 788 too.
"""

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
from dev.localcluster.diagnosis import diagnose
from dev.localcluster.errors import CurableError
from dev.localcluster.layout import HELM_VERSION, KUBERNETES_VERSION, SOURCES
from dev.localcluster.lock import Lock

_VERSION = "k8s.io/component-base/version"
_CLIENT = "k8s.io/client-go/pkg/version"
_HELM = "helm.sh/helm/v4"


@dataclass(frozen=True)
class Program:
    """One program of the Go module below `go/`: its package, what is set at link time, the names it answers to."""

    name: str
    package: str
    variables: tuple[str, ...] = ()
    links: tuple[str, ...] = ()

    @property
    def sources(self) -> list[Path]:
        """What of ours goes into it. The module's two files pin everything else."""
        own = MODULE / self.package
        return [MODULE / "go.mod", MODULE / "go.sum", *(own.glob("*.go") if own.is_dir() else [])]

    @property
    def ldflags(self) -> str:
        return " ".join(["-s", "-w", *(f"-X {variable}" for variable in self.variables)])


MODULE = SOURCES / "go"
_MINOR = KUBERNETES_VERSION.split(".")[1]
KUBERNETES = Program(
    "kubernetes",
    "./kubernetes",
    variables=(
        f"{_VERSION}.gitVersion={KUBERNETES_VERSION}",
        f"{_VERSION}.gitMajor=1",
        f"{_VERSION}.gitMinor={_MINOR}",
        f"{_CLIENT}.gitVersion={KUBERNETES_VERSION}",
    ),
    links=("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"),
)
ETCD = Program("etcd", "./etcd")
COREDNS = Program("coredns", "./coredns")
PAUSE = Program("pause", "./pause")
# 4.0, as its client libraries are those of our Kubernetes: compiled once, for both.
HELM = Program(
    "helm",
    f"{_HELM}/cmd/helm",
    variables=(
        f"{_HELM}/internal/version.version={HELM_VERSION}",
        *(
            f"{_HELM}/{variable}{part}={number}"
            for variable in (
                "internal/version.kubeClientVersion",
                "pkg/chart/common.k8sVersion",
                "pkg/chart/v2/lint/rules.k8sVersion",
            )
            for part, number in (("Major", "1"), ("Minor", _MINOR))
        ),
    ),
)


_INSTALLED = Path("/usr/local/go/bin")  # by the archive from go.dev, which leaves the PATH alone
_QUICKER = ("-gcflags=all=-dwarf=false",)  # saves a tenth; the linker drops the debug information anyway
CLUSTER = (KUBERNETES, ETCD, COREDNS, PAUSE)


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
    files = ((path.name, path.read_bytes()) for path in program.sources)
    return digest_of(files, program.package, program.ldflags)


def is_built(program: Program, cache: Path) -> bool:
    """Whether the cache has it as it is now."""
    return _folder(program, cache).is_dir()


def _folder(program: Program, cache: Path) -> Path:
    return cache / "bin" / f"{program.name}-{key_of(program)}"


def build(program: Program, cache: Path) -> Path:
    """The folder that holds the program (and its links), built when it is not there."""
    folder = _folder(program, cache)
    if not folder.is_dir():
        with Lock(cache / "bin" / f"{program.name}.lock")():  # never the same build twice at a time
            if not folder.is_dir():
                _build(program, folder)
    return folder


def _build(program: Program, folder: Path) -> None:
    go = shutil.which("go") or next(iter(map(str, _INSTALLED.glob("go"))), None)
    if not go:
        raise CurableError(
            f"there is no Go compiler, and {program.name} is built from its Go module",
            "Install Go 1.24 or later from https://go.dev/dl or as a package, and have `go` on the PATH.",
        )
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, step(f"build {program.name}") as show:
        argv = [go, "build", "-v", "-trimpath", *_QUICKER, "-ldflags", program.ldflags]
        _run([*argv, "-o", f"{scratch}/{program.name}", program.package], MODULE, show)
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
        raise diagnose(f"building {Path(argv[-2]).name}", CommandError(argv, process.returncode, "".join(lines)))
