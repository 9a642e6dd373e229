"""The command line: bring the local cluster up and down, look at it, build and load images."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.table import Table

from dev.localcluster import images
from dev.localcluster.cluster import Cluster, choose, connect
from dev.localcluster.console import console
from dev.localcluster.local import LocalCluster

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The Kubernetes that tests and demo run on: a context named by KUBE_CONTEXT, else kind where Docker is there, "
    "else a real one built from its Go modules and started on this machine (root, Debian or Ubuntu).",
)


@app.command()
def up(
    control_plane_only: Annotated[
        bool, typer.Option("--control-plane-only", help="API server and controllers, no nodes: a few seconds.")
    ] = False,
    nodes: Annotated[int, typer.Option(min=1, max=2, help="The second node pretends to have four A100s.")] = 2,
    with_images: Annotated[
        bool, typer.Option("--images", help="Also build both images and bring them to the nodes.")
    ] = False,
) -> None:
    """Bring it up, or what is missing of it. Does nothing when it is up."""
    started = time.monotonic()
    cluster = connect()
    if with_images:
        cluster.build(images.IMAGES)
    if control_plane_only:
        cluster.ensure_control_plane()
    else:
        cluster.ensure_nodes(nodes)
    if with_images:
        cluster.load(images.IMAGES)
    console.print(f"[green]up[/] after {time.monotonic() - started:.1f} s")
    console.print(
        f"export KUBECONFIG={cluster.kubeconfig}  # context {cluster.context}", highlight=False, soft_wrap=True
    )


@app.command()
def down() -> None:
    """Remove it: processes, mounts, bridge, iptables chains, cgroups, state. Built things stay in the cache."""
    cluster = connect()
    cluster.down()
    if isinstance(cluster, LocalCluster) and (left := cluster.leftovers()):
        for line in left:
            console.print(f"[red]left behind:[/] {line}")
        raise typer.Exit(1)


@app.command()
def status() -> None:
    """What runs, and where to reach it."""
    cluster = connect()
    console.print(f"kind of cluster: [bold]{choose()}[/], context {cluster.context}")
    if isinstance(cluster, LocalCluster):
        names = cluster.daemons.names()
        table = Table("daemon", "pid", "log", box=None)
        for name in names:
            pid = cluster.daemon_pid(name)
            table.add_row(name, str(pid) if pid else "[red]stopped[/]", str(cluster.daemons.log(name)))
        console.print(table if names else "not up")
        if not cluster.daemon_pid("kube-apiserver"):
            raise typer.Exit(1)
    print(cluster.kubectl("get", "nodes", "--output=wide"), end="")


@app.command()
def build(names: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(images.NAMES)}.")] = None) -> None:
    """Build images and bring them where the nodes find them (both by default). Prints the references."""
    cluster = connect()
    for name in names or list(images.IMAGES):
        print(cluster.image(name))


@app.command()
def load(names: Annotated[list[str], typer.Argument(help=f"Of {', '.join(images.NAMES)}.")]) -> None:
    """Build images and bring them to both nodes now, so that the first pod does not wait."""
    cluster = connect()
    cluster.ensure_nodes()
    cluster.load(names)


@app.command()
def logs(
    daemon: Annotated[str | None, typer.Argument(help="Its name, as `status` lists it.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of the last lines.")] = 40,
) -> None:
    """The end of a daemon's log; without a name, which there are."""
    cluster = _local(connect())
    if daemon is None:
        print("\n".join(cluster.daemons.names()))
    elif daemon not in cluster.daemons.names():
        raise typer.BadParameter(f"know {', '.join(cluster.daemons.names()) or 'none: it is not up'}")
    else:
        print(cluster.daemons.tail(daemon, lines))


@app.command()
def kubeconfig() -> None:
    """The path of the kubeconfig."""
    print(connect().kubeconfig)


@app.command()
def prune() -> None:
    """`down`, and drop everything cached as well: the next start is a cold one."""
    _local(connect()).prune()


def _local(cluster: Cluster) -> LocalCluster:
    if not isinstance(cluster, LocalCluster):
        raise typer.BadParameter(f"this is for our own cluster, and the one in use is {choose()}")
    return cluster
