"""What a person can put right ends with what happened, why, and what to do."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dev.localcluster import disk, gobuild, local, packages, ports
from dev.localcluster.commands import CommandError
from dev.localcluster.daemons import Daemons
from dev.localcluster.diagnosis import diagnose
from dev.localcluster.errors import CurableError
from dev.localcluster.layout import ROOT, Layout
from dev.localcluster.local import LocalCluster, foreign_kubernetes
from dev.localcluster.lock import Lock, holder


def test_too_little_disk_names_the_file_system_the_room_and_what_for(tmp_path: Path) -> None:
    wanted = disk.needs(programs_built=False, trainer_built=False)
    with pytest.raises(CurableError) as caught:
        disk.check(tmp_path / "cache", wanted, free=3.2)
    assert f"is on the file system {disk.mount_point(tmp_path)}, of which 3.2 GiB are free" in caught.value.what
    assert "GiB for the trainer image" in caught.value.what
    assert "XDG_CACHE_HOME" in caught.value.cure
    disk.check(tmp_path / "cache", wanted, free=sum(wanted.values()))


def test_what_is_built_needs_no_room_again() -> None:
    cold, warm = (sum(disk.needs(programs_built=there, trainer_built=there).values()) for there in (False, True))
    assert warm <= 3 < cold < 40


def test_a_taken_port_is_named_with_its_owner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(CurableError) as caught:
            ports.check({"etcd": [("127.0.0.1", port)]})
    assert f"port {port} on 127.0.0.1, which etcd needs, is taken by" in caught.value.what
    assert f"(process {os.getpid()})" in caught.value.what
    ports.check({"etcd": [("127.0.0.1", port)]})


@pytest.mark.parametrize(
    ("listens_on", "is_in_the_way"),
    [
        pytest.param("0.0.0.0", True, id="every address"),
        pytest.param("127.0.0.2", False, id="another address"),
    ],
)
def test_a_listener_is_in_the_way_where_the_addresses_meet(listens_on: str, is_in_the_way: bool) -> None:
    with socket.create_server((listens_on, 0)) as server:
        needs = {"etcd": [("127.0.0.1", server.getsockname()[1])]}
        if is_in_the_way:
            with pytest.raises(CurableError):
                ports.check(needs)
        else:
            ports.check(needs)


@pytest.mark.parametrize(
    ("kernel", "want"),
    [
        ("0100007F", "127.0.0.1"),
        ("0" * 32, "::"),
        ("0000000000000000FFFF00000100007F", "127.0.0.1"),
    ],
)
def test_addresses_of_the_kernel_are_read(kernel: str, want: str) -> None:
    assert ports.readable(kernel) == want


def test_without_root_it_says_so_before_anything_is_changed(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.os, "geteuid", lambda: 1000)  # type: ignore[attr-defined]
    for start in (LocalCluster(layout).ensure_nodes, lambda: LocalCluster(layout).build([])):
        with pytest.raises(CurableError, match="needs root") as caught:
            start()
        assert "KUBE_CONTEXT" in caught.value.cure
    assert not layout.state.exists()


def test_another_kubernetes_on_the_machine_is_noticed(tmp_path: Path) -> None:
    for pid, name in (("7", "kubelet"), ("8", "bash"), ("9", "k3s")):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "comm").write_text(f"{name}\n")
    assert foreign_kubernetes(Daemons(tmp_path / "daemons"), proc=tmp_path) == ["k3s", "kubelet"]


def test_another_kubernetes_is_to_be_named_or_stopped(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.os, "geteuid", lambda: 0)  # type: ignore[attr-defined]
    monkeypatch.setattr(local, "foreign_kubernetes", lambda _: ["k3s"])
    with pytest.raises(CurableError, match=r"another Kubernetes runs on this machine \(k3s\)") as caught:
        LocalCluster(layout).ensure_nodes()
    assert "KUBE_CONTEXT" in caught.value.cure


def test_missing_packages_are_named_once() -> None:
    assert packages.missing({"no-such-a": "one", "no-such-b": "one", "sh": "dash"}) == ["one"]


def test_packages_that_cannot_be_installed_from_here_come_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.os, "geteuid", lambda: 1000)  # type: ignore[attr-defined]
    with pytest.raises(CurableError, match="missing") as caught:
        packages.ensure({"no-such-program": "one"})
    assert "apt-get install -y --no-install-recommends one" in caught.value.cure


def test_a_failing_apt_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    apt = tmp_path / "apt-get"
    apt.write_text("#!/bin/sh\necho 'Reading package lists...'; echo 'E: Unable to locate package one' >&2; exit 100\n")
    apt.chmod(0o755)
    monkeypatch.setattr(packages.os, "geteuid", lambda: 0)  # type: ignore[attr-defined]
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(CurableError, match="E: Unable to locate package one") as caught:
        packages.ensure({"no-such-program": "one"})
    assert "by hand" in caught.value.cure


@pytest.mark.parametrize(
    ("output", "want_what", "want_cure"),
    [
        pytest.param(
            "go: downloading x\ndial tcp: lookup proxy.golang.org: no such host",
            "a package registry cannot be reached: dial tcp: lookup proxy.golang.org: no such host",
            "GOPROXY",
            id="Go's proxy",
        ),
        pytest.param(
            "error: Failed to fetch: `https://pypi.org/simple/torch/`\n  Caused by: dns error",
            "a package registry cannot be reached",
            "uv.toml",
            id="PyPI",
        ),
        pytest.param(
            "E: Temporary failure resolving 'deb.debian.org'",
            "a package registry cannot be reached",
            "apt",
            id="Debian",
        ),
        pytest.param(
            "x509: certificate signed by unknown authority", "not trusted", "update-ca-certificates", id="TLS"
        ),
        pytest.param("write /x: no space left on device", "the disk is full", "XDG_CACHE_HOME", id="a full disk"),
    ],
)
def test_a_failed_build_says_what_to_do(output: str, want_what: str, want_cure: str) -> None:
    error = diagnose("build trainer image", CommandError(["buildah"], 1, output))
    assert isinstance(error, CurableError)
    assert error.what.startswith("build trainer image failed because ")
    assert want_what in error.what
    assert want_cure in error.cure


def test_an_error_of_the_code_is_not_taken_for_one_of_the_network() -> None:
    error = CommandError(["buildah"], 1, "SyntaxError: invalid syntax")
    assert diagnose("build trainer image", error) is error


def test_a_missing_go_compiler_is_asked_for(layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gobuild.shutil, "which", lambda _: None)  # type: ignore[attr-defined]
    monkeypatch.setattr(gobuild, "_INSTALLED", tmp_path / "go")
    with pytest.raises(CurableError, match="no Go compiler") as caught:
        gobuild.build(gobuild.PAUSE, layout.cache)
    assert "Go 1.24 or later" in caught.value.cure


def test_a_lock_is_never_stale(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from dev.localcluster.lock import Lock
with Lock(Path({str(tmp_path / "lock")!r}))():
    print("held", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with (tmp_path / "lock").open("a+") as file:
            assert holder(file).startswith(f"process {process.pid} (")
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process.kill()
    with Lock(tmp_path / "lock")():
        assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_the_command_line_prints_a_cure_without_a_traceback(tmp_path: Path) -> None:
    """A folder where no file can be is the one end that needs no root to provoke, and none to see."""
    (tmp_path / "cache").write_text("a file, not a folder")
    done = subprocess.run(
        [sys.executable, "-m", "dev.localcluster", "up", "--control-plane-only"],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "XDG_STATE_HOME": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("✗ ")
    assert "Traceback" not in done.stderr
