"""A real Kubernetes on this machine: its own programs from their Go modules, without Docker."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dev.localcluster import (
    archive,
    cleanup,
    controlplane,
    coredns,
    disk,
    gobuild,
    gpus,
    handover,
    helm,
    images,
    network,
    node,
    packages,
    ports,
    s3,
)
from dev.localcluster.commands import CommandError, output_of, succeeds
from dev.localcluster.console import step
from dev.localcluster.daemons import Daemons
from dev.localcluster.errors import CurableError
from dev.localcluster.kubectl import Kubectl
from dev.localcluster.layout import CONTEXT, NODE_LABEL, Layout
from dev.localcluster.lock import Lock
from dev.localcluster.node import Node
from dev.localcluster.pki import Authority
from dev.localcluster.s3 import S3
from dev.localcluster.waiting import until

_NOT_READY = {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}
_FOREIGN = {"kubelet", "kube-proxy", "k3s", "k3s-server", "k0s"}


class LocalCluster:
    """The cluster on this machine. `ensure_…` brings up what is missing and is quick when nothing is."""

    context = CONTEXT
    nodes = ("node1", "node2")

    def __init__(self, layout: Layout | None = None) -> None:
        self.layout = layout or Layout.default()
        self.daemons = Daemons(self.layout.daemons)
        self.authority = Authority(self.layout.pki)
        self._lock = Lock(self.layout.cache / "cluster.lock")
        self._images_lock = Lock(self.layout.cache / "images.lock")
        self._nodes = tuple(Node(index, self.layout) for index in (1, 2))

    # ---- what it offers

    @property
    def kubeconfig(self) -> Path:
        return self.layout.kubeconfig

    @property
    def audit_log(self) -> Path:
        """JSON lines; writes are complete, the control plane's own reads are left out."""
        return self.layout.audit_log

    @functools.cached_property
    def kubectl(self) -> Kubectl:
        """kubectl of the cluster's own version."""
        return Kubectl(self._kubernetes / "kubectl", self.kubeconfig, self.context)

    @functools.cached_property
    def helm(self) -> Path:
        return helm.ensure(self.layout.cache)

    @property
    def s3(self) -> S3:
        """The storage; started when it is not running."""
        if self.daemons.pid(s3.NAME) is None:
            self.ensure_s3()
        return self._s3

    def image(self, name: str) -> str:
        """The reference of `operator`, `trainer` or `base`; built when missing, and on every node that runs."""
        with self._images_lock():
            network.remember(self.layout)
            packages.ensure(packages.BUILD)
            image = images.Buildah(self.layout).ensure(name)
            running = [each for each in self._nodes if self.daemons.pid(each.containerd)]
            held = {each: handover.images_on(each) for each in running}
            if lacking := [each for each in running if image.reference not in held[each]]:
                with step(f"hand {name} image to {' and '.join(each.name for each in lacking)}"):
                    for each in lacking:  # before the new one comes: where the disk is short, it takes their room
                        handover.remove(each, images.outdated(held[each], name, image.reference))
                    handover.hand_over(image, lacking)
            return image.reference

    def load(self, names: Iterable[str]) -> None:
        """Bring images to both nodes now, so that the first pod does not wait for it."""
        self.ensure_nodes()
        for name in names:
            self.image(name)

    # ---- bringing it up

    def build(self, images: Iterable[str]) -> None:
        """Side by side: compilers wait for the CPU, image builds for the network and the disk."""
        self._check_machine()
        self._check_disk()
        packages.ensure({**packages.NODE, **packages.BUILD})
        with ThreadPoolExecutor() as pool:
            building = (pool.submit(self._build_programs), pool.submit(self._build_images, images))
            for each in building:
                each.result()

    def _build_programs(self) -> None:
        """One after the other, as each takes all cores; Helm first: the chart's tests wait for it."""
        helm.ensure(self.layout.cache)
        for program in gobuild.CLUSTER:
            gobuild.build(program, self.layout.cache)

    def _build_images(self, names: Iterable[str]) -> None:
        for name in names:
            self.image(name)

    def ensure_control_plane(self) -> None:
        """etcd, API server, controllers and scheduler."""
        with self._lock():
            self._check_machine()
            self._sweep_after_crash()
            self._check_disk(control_plane_only=True)
            self._check_ports()
            packages.ensure({"ip": "iproute2"})
            program, etcd = self._kubernetes, gobuild.build(gobuild.ETCD, self.layout.cache)
            with step("control plane"):
                network.remember(self.layout)
                network.ensure(self.layout)
                self.authority.ensure()
                configs = controlplane.issue(self.authority, self.layout)
                self.daemons.ensure(controlplane.etcd(etcd, self.layout))
                self.daemons.ensure(controlplane.api_server(program, self.layout, self.authority), self._api_is_ready)
                manager = controlplane.controller_manager(
                    program, self.layout, self.authority, configs["controller-manager"]
                )
                if self.daemons.ensure(manager):
                    # A pod created before this is refused.
                    account = ("get", "serviceaccount", "default", "--namespace=default")
                    self.daemons.wait(manager.name, lambda: self.kubectl.succeeds(*account))
                self.daemons.ensure(controlplane.scheduler(program, self.layout, configs["scheduler"]))

    def ensure_s3(self) -> None:
        """The storage alone: a process of this machine that needs no cluster."""
        with self._lock():
            self._check_machine()
            network.remember(self.layout)
            network.ensure(self.layout)
            address = self.layout.addresses.gateway
            daemon = s3.daemon(
                self._s3,
                address=address,
                data=self.layout.state / "s3",
                folder=self.layout.daemons / s3.NAME,
                sockets=self.layout.run,
            )
            (self.layout.state / "s3").mkdir(parents=True, exist_ok=True)
            self.layout.run.mkdir(parents=True, exist_ok=True)
            with step("S3"):
                if not self.daemons.is_current(daemon):
                    self.daemons.ensure(daemon, lambda: s3.is_ready(self._s3))
                    s3.ensure_bucket(self._s3)

    def ensure_nodes(self, count: int = 2) -> None:
        """Control plane and that many Ready nodes, with DNS and storage."""
        with self._lock():
            self._check_machine()
            self._sweep_after_crash()
            self._check_disk()
            packages.ensure(packages.NODE)
            dns, pause = (gobuild.build(each, self.layout.cache) for each in (gobuild.COREDNS, gobuild.PAUSE))
            self.ensure_control_plane()
            configs = controlplane.issue(self.authority, self.layout)
            self.ensure_s3()
            name_servers = network.host_name_servers()
            self.daemons.ensure(controlplane.proxy(self._kubernetes, self.layout, configs["proxy"]))
            if self.daemons.ensure(
                coredns.daemon(dns, self.layout, configs["coredns"], name_servers),
                lambda: answers(coredns.ready_url(self.layout)),
            ):
                address = self.layout.addresses.gateway
                self.kubectl.apply(*coredns.manifests(self.layout), *s3.manifests(address))
            wanted = self._nodes[:count]
            with step(f"{count} node{'s' if count > 1 else ''}"):
                before = self._heartbeats()
                with ThreadPoolExecutor() as pool:  # they have nothing to do with each other
                    started = list(pool.map(lambda each: self._ensure_node(each, pause, name_servers), wanted))
                stale = [before.get(each.name, "") if new else "" for each, new in zip(wanted, started, strict=True)]
                self._wait_for_nodes(wanted, stale)
                if count == len(self._nodes) and (started[-1] or not gpus.are_there(self.kubectl, self.nodes[1])):
                    self.fake_gpus()

    def _ensure_node(self, each: Node, pause: Path, name_servers: list[str]) -> bool:
        is_new = not each.folder.exists()
        if is_new:
            node.forget_containers(each)
        network.add_address(self.layout.addresses, each.address)
        node.make_cgroup(each.cgroup)
        each.run.mkdir(parents=True, exist_ok=True)
        containerd = node.containerd_daemon(each)
        self.daemons.ensure(containerd, lambda: succeeds(*each.ctr("version")))
        if is_new and self._delete_containers(each):  # of a cluster that did not end well: the CRI plugin has read them
            self.daemons.stop([containerd.name])
            self.daemons.ensure(containerd, lambda: succeeds(*each.ctr("version")))
        import_pause_image(each, pause / "pause")
        return self.daemons.ensure(node.kubelet_daemon(each, self._kubernetes, self.authority, name_servers))

    def _wait_for_nodes(self, wanted: Iterable[Node], stale: Iterable[str]) -> None:
        """Until they are ready by word of the kubelets that run now: a node stays Ready for a while without one, and
        what is patched before a new kubelet has registered is undone by it."""
        old = {each.name: heartbeat for each, heartbeat in zip(wanted, stale, strict=True)}

        def are_ready() -> bool:
            now = self._heartbeats()
            return all(now.get(name, heartbeat) != heartbeat for name, heartbeat in old.items())

        until(f"{', '.join(old)} not ready", are_ready, seconds=90, pause=0.2)

    def _heartbeats(self) -> dict[str, str]:
        """When each ready node was last heard of."""
        items = self.kubectl.get("nodes", f"--selector={NODE_LABEL}=true")["items"]
        return {item["metadata"]["name"]: heartbeat(item) for item in items if is_ready(item)}

    # ---- faults, for tests

    def daemon_pid(self, name: str) -> int | None:
        """The pid of a daemon (see `daemons.names()`), None when it does not run."""
        return self.daemons.pid(name)

    def stop_daemon(self, name: str, *, kill: bool = False) -> None:
        """Stop a daemon; with `kill` without warning."""
        self.daemons.stop([name], first=signal.SIGKILL if kill else signal.SIGTERM)

    def start_daemon(self, name: str) -> None:
        """Start a stopped daemon as it was; API server and storage are waited for."""
        self.daemons.start(name)
        if name == controlplane.API_SERVER:
            self.daemons.wait(name, self._api_is_ready)
        elif name == s3.NAME:
            self.daemons.wait(name, lambda: s3.is_ready(self._s3))

    def ctr(self, node: str, *words: str) -> tuple[str, ...]:
        """The command that talks to a node's containerd."""
        [each] = [each for each in self._nodes if each.name == node]
        return each.ctr(*words)

    def stop_kubelet(self, node: str) -> None:
        """Lose a node: its pods run on, unseen."""
        self.stop_daemon(f"kubelet-{node}", kill=True)

    def start_kubelet(self, node: str) -> None:
        """Get it back, its GPUs included."""
        before = self._heartbeats().get(node, "")
        self.start_daemon(f"kubelet-{node}")
        self._wait_for_nodes([each for each in self._nodes if each.name == node], [before])
        if node == self.nodes[1]:
            self.fake_gpus()

    def restart_api_server(self) -> None:
        """Break every connection to the API and wait until it answers again."""
        self.stop_daemon(controlplane.API_SERVER)
        self.start_daemon(controlplane.API_SERVER)

    def fake_gpus(self, scheme: str = "gfd") -> None:
        """Give the second node its GPUs and their labels, in the words of `gfd`, `gke` or `karpenter`."""
        gpus.fake(self.kubectl, self.nodes[1], scheme)

    # ---- taking it down

    def down(self) -> None:
        """Remove everything but what is in the cache folder. Quick, and good after a crash too."""
        with self._images_lock(), self._lock():  # in this order, as `image` takes them
            self._down()

    def _down(self) -> None:
        with step("down"):
            settings, absent_folders = network.recall(self.layout)
            # First the kubelets, or they start again what ends.
            self.daemons.stop([each.kubelet for each in self._nodes], first=signal.SIGKILL)
            with ThreadPoolExecutor() as pool:
                list(pool.map(self._delete_containers, self._nodes))
            self.daemons.stop(self.daemons.names(), grace=3)
            cleanup.kill_all(self.layout, self.daemons)
            cleanup.unmount_all(self.layout)
            cleanup.remove_network(self.layout)
            cleanup.remove_cgroups(self.layout)
            for name, value in settings.items():
                network.write(name, value)
            cleanup.remove_folders([self.layout.run, self.layout.state, *absent_folders])

    def leftovers(self) -> list[str]:
        """What still exists of the cluster outside its cache folder; empty after `down`."""
        return cleanup.leftovers(self.layout, self.daemons)

    def prune(self) -> None:
        """Drop images and built programs: the next start is a cold one."""
        self.down()
        shutil.rmtree(self.layout.cache, ignore_errors=True)

    def _delete_containers(self, each: Node) -> bool:
        """Kill and forget the node's containers; images stay. Needs its containerd."""
        if self.daemons.pid(each.containerd) is None:
            return False
        try:
            ids = output_of(*each.ctr("containers", "list", "--quiet"), timeout=10).split()
            if ids:
                tasks = output_of(*each.ctr("tasks", "list", "--quiet"), timeout=10).split()
                if tasks:
                    output_of(*each.ctr("tasks", "delete", "--force", *tasks), timeout=30)
                output_of(*each.ctr("containers", "delete", *ids), timeout=30)
        except (CommandError, TimeoutError, OSError):
            return False  # the sweep by process and mount gets it; the next start forgets the rest
        return bool(ids)

    def _sweep_after_crash(self) -> None:
        """A control plane of which nothing runs any more left a state that fits nothing: begin anew."""
        names = ("etcd", controlplane.API_SERVER, "kube-controller-manager")
        if "etcd" in self.daemons.names() and not any(map(self.daemons.pid, names)):
            self._down()

    # ---- helpers

    @functools.cached_property
    def _kubernetes(self) -> Path:
        return gobuild.build(gobuild.KUBERNETES, self.layout.cache)

    @property
    def _s3(self) -> S3:
        return s3.local(self.layout.state, self.layout.addresses.gateway)

    def _check_disk(self, *, control_plane_only: bool = False) -> None:
        wanted = disk.needs(
            programs_built=all(gobuild.is_built(each, self.layout.cache) for each in gobuild.CLUSTER),
            trainer_built=control_plane_only or images.was_built(self.layout, images.TRAINER.name),
        )
        disk.check(self.layout.cache, wanted)

    def _check_ports(self) -> None:
        """Of what is not running yet. A daemon that finds its port taken ends later, and only its log says why."""
        needs = {
            name: places for name, places in ports.by_daemon(self.layout).items() if self.daemons.pid(name) is None
        }
        ports.check(needs)

    def _api_is_ready(self) -> bool:
        return answers(f"{self.layout.api_server}/readyz", authority=self.authority.certificate)

    def _check_machine(self) -> None:
        if os.geteuid() != 0:
            raise CurableError(
                "our own cluster needs root: it makes a network bridge and starts containerd and kubelets",
                "Run the command as root (`sudo -E`), or install Docker and kind, or name a cluster by KUBE_CONTEXT.",
            )
        foreign = foreign_kubernetes(self.daemons)
        if foreign:
            raise CurableError(
                f"another Kubernetes runs on this machine ({', '.join(foreign)}), and its iptables chains would be "
                "mixed with ours",
                "Use it by naming its context in KUBE_CONTEXT, or stop it.",
            )


def is_ready(item: Mapping[str, Any]) -> bool:
    """Whether a node is Ready and not tainted as lost or not ready yet."""
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in item["status"].get("conditions", []))
    return ready and not any(taint["key"] in _NOT_READY for taint in item["spec"].get("taints", []))


def heartbeat(item: Mapping[str, Any]) -> str:
    """When the node's kubelet last wrote its status; it does so when it starts, and then rarely."""
    return next(str(c["lastHeartbeatTime"]) for c in item["status"]["conditions"] if c["type"] == "Ready")


def import_pause_image(each: Node, program: Path) -> None:
    """The image of every pod's first container, made here: there may be no registry to pull it from."""
    if node.PAUSE_IMAGE in output_of(*each.ctr("images", "list", "--quiet")).split():
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pause.tar"
        archive.write(path, node.PAUSE_IMAGE, program)
        output_of(*each.ctr("images", "import", str(path)))


def foreign_kubernetes(daemons: Daemons, proc: Path = Path("/proc")) -> list[str]:
    """Programs of a Kubernetes that is not ours."""
    ours = {daemons.pid(name) for name in daemons.names()}
    found = set()
    for entry in proc.glob("[0-9]*/comm"):
        try:
            name = entry.read_text().strip()
        except OSError:
            continue
        if name in _FOREIGN and int(entry.parent.name) not in ours:
            found.add(name)
    return sorted(found)


def answers(url: str, *, authority: Path | None = None) -> bool:
    """Whether it says 200."""
    context = ssl.create_default_context(cafile=authority) if authority else None
    try:
        with urllib.request.urlopen(url, timeout=3, context=context) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
