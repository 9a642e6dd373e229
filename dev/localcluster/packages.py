"""The Debian packages that the cluster's nodes and image builds need."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

from dev.localcluster.commands import CommandError, output_of
from dev.localcluster.console import step
from dev.localcluster.diagnosis import diagnose
from dev.localcluster.errors import CurableError

# program → the package that brings it; looked up in the administrator's folders too, where most of them are
NODE: Mapping[str, str] = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ebtables": "ebtables",
    "ethtool": "ethtool",
    "ip": "iproute2",
}
BUILD: Mapping[str, str] = {"buildah": "buildah", "debootstrap": "debootstrap"}


def missing(programs: Mapping[str, str], path: str | None = None) -> list[str]:
    """The packages whose programs are not there."""
    search = os.pathsep.join([path if path is not None else os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return sorted({package for program, package in programs.items() if not shutil.which(program, path=search)})


def ensure(programs: Mapping[str, str]) -> None:
    """Install what is missing, or say what to install."""
    packages = missing(programs)
    if not packages:
        return
    command = f"apt-get install -y --no-install-recommends {' '.join(packages)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise CurableError(
            f"these packages are missing and cannot be installed from here: {' '.join(packages)}",
            f"Run this as root on Debian or Ubuntu: `apt-get update && {command}`.",
        )
    # Debian starts what it installs where systemd runs: our daemons bring their own configuration and would meet
    # these on their ports.
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    with step(f"install {' '.join(packages)}"):
        try:
            output_of("apt-get", "update", "-qq", env=env)
            output_of(*command.split(), env=env)
        except CommandError as error:
            raise as_curable(packages, command, error) from error


def as_curable(packages: list[str], command: str, error: CommandError) -> CurableError:
    """apt's failure with its last word. Nearly all have their cause in the machine: network, sources, another apt."""
    known = diagnose(f"apt-get install {' '.join(packages)}", error)
    if isinstance(known, CurableError):
        return known
    complaints = [line for line in error.output.splitlines() if line.startswith("E:")]
    last = (complaints or error.output.strip().splitlines() or ["no output"])[-1]
    return CurableError(
        f"apt-get could not install {' '.join(packages)}: {last}",
        f"Run `apt-get update && {command}` by hand, put right what it names, and run the command again.",
    )
