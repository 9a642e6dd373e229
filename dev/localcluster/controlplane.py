"""etcd, API server, controller manager and scheduler, and the proxy that serves both nodes."""

from __future__ import annotations

from pathlib import Path

import yaml

from dev.localcluster.daemons import Daemon
from dev.localcluster.layout import CONTEXT, Addresses, Layout
from dev.localcluster.pki import Authority, Identity

API_SERVER = "kube-apiserver"
_ETCD = "http://127.0.0.1:12379"  # not etcd's own port: it may be in use
_ETCD_PEER = "http://127.0.0.1:12380"

# The nodes' and controllers' own reads and lease renewals are most of the traffic and nobody's question.
_SYSTEM = ["system:kube-scheduler", "system:kube-controller-manager", "system:kube-proxy", "system:apiserver"]
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "userGroups": ["system:nodes"], "verbs": ["get", "list", "watch"]},
        {
            "level": "None",
            "userGroups": ["system:nodes"],
            "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}],
        },
        {"level": "None", "users": _SYSTEM, "verbs": ["get", "list", "watch"]},
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"], "verbs": ["get", "list", "watch"]},
        {"level": "None", "nonResourceURLs": ["/healthz*", "/readyz*", "/livez*", "/openapi*", "/version"]},
        {"level": "Metadata"},
    ],
}


def issue(authority: Authority, layout: Layout) -> dict[str, str]:
    """The kubeconfigs of the control plane's programs, by user; the administrator's is also written to its file."""
    users = {
        "admin": ("admin", "system:masters"),
        "controller-manager": ("system:kube-controller-manager", ""),
        "scheduler": ("system:kube-scheduler", ""),
        "proxy": ("system:kube-proxy", ""),
        "coredns": ("system:coredns", "system:masters"),
    }
    configs = {}
    for file, (user, group) in users.items():
        identity = authority.issue(file, user, group=group)
        configs[file] = authority.kubeconfig(identity, server=layout.api_server, context=CONTEXT)
    layout.kubeconfig.touch(mode=0o600)
    layout.kubeconfig.write_text(configs["admin"])
    return configs


def serving_identity(authority: Authority, addresses: Addresses) -> Identity:
    """The API server's certificate, for every name it is called by."""
    service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
    names = ["127.0.0.1", addresses.gateway, addresses.api_service, "localhost", *service]
    return authority.issue("apiserver", "kube-apiserver", names=names)


def etcd(program: Path, layout: Layout) -> Daemon:
    """Without fsync: what a crash of the machine loses goes with the machine's cluster anyway."""
    return Daemon(
        "etcd",
        (
            str(program / "etcd"),
            f"--data-dir={layout.state}/etcd",
            f"--listen-client-urls={_ETCD}",
            f"--advertise-client-urls={_ETCD}",
            f"--listen-peer-urls={_ETCD_PEER}",
            f"--initial-advertise-peer-urls={_ETCD_PEER}",
            f"--initial-cluster=default={_ETCD_PEER}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ),
    )


def api_server(program: Path, layout: Layout, authority: Authority) -> Daemon:
    serving = serving_identity(authority, layout.addresses)
    client = authority.issue("admin", "admin", group="system:masters")
    policy = layout.daemons / API_SERVER / "audit-policy.yaml"
    return Daemon(
        API_SERVER,
        (
            str(program / "kube-apiserver"),
            f"--etcd-servers={_ETCD}",
            f"--service-cluster-ip-range={layout.addresses.service_range}",
            # Pods reach the API server at the address it advertises, so that must be one on the bridge; bound to it
            # alone, the API server is not open to the machine's other networks.
            f"--advertise-address={layout.addresses.gateway}",
            f"--bind-address={layout.addresses.gateway}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={authority.certificate}",
            f"--kubelet-client-certificate={client.certificate}",
            f"--kubelet-client-key={client.key}",
            "--kubelet-preferred-address-types=InternalIP",  # or logs and exec try to resolve the node's name
            f"--service-account-key-file={authority.folder}/sa.pub",
            f"--service-account-signing-key-file={authority.folder}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={layout.audit_log}",
            "--audit-log-maxsize=64",  # MB
            "--audit-log-maxbackup=1",
        ),
        files={policy: yaml.safe_dump(AUDIT_POLICY, sort_keys=False)},
    )


def controller_manager(program: Path, layout: Layout, authority: Authority, kubeconfig: str) -> Daemon:
    name = "kube-controller-manager"
    config = layout.daemons / name / "kubeconfig"
    return Daemon(
        name,
        (
            str(program / name),
            f"--kubeconfig={config}",
            f"--service-account-private-key-file={authority.folder}/sa.key",
            f"--root-ca-file={authority.certificate}",
            f"--cluster-signing-cert-file={authority.certificate}",
            f"--cluster-signing-key-file={authority.key}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            # A lost node is noticed in 24 s instead of 50 s; the kubelets renew their leases accordingly.
            "--node-monitor-grace-period=24s",
            "--node-monitor-period=2s",
        ),
        files={config: kubeconfig},
    )


def scheduler(program: Path, layout: Layout, kubeconfig: str) -> Daemon:
    name = "kube-scheduler"
    config = layout.daemons / name / "kubeconfig"
    argv = (str(program / name), f"--kubeconfig={config}", "--leader-elect=false", "--bind-address=127.0.0.1")
    return Daemon(name, argv, files={config: kubeconfig})


def proxy(program: Path, layout: Layout, kubeconfig: str) -> Daemon:
    """One for both nodes, as they share the machine's iptables."""
    name = "kube-proxy"
    config = layout.daemons / name / "kubeconfig"
    return Daemon(
        name,
        (
            str(program / name),
            f"--kubeconfig={config}",
            "--hostname-override=node1",
            f"--cluster-cidr={layout.addresses.pod_range}",
            "--proxy-mode=iptables",
            "--conntrack-max-per-core=0",  # the kernel's limit is not ours to change
            # Pods of both nodes sit on one bridge: without masquerading, an answer takes the short way past the
            # address translation where br_netfilter is absent, and the client does not recognise it.
            "--masquerade-all=true",
            "--healthz-bind-address=127.0.0.1:10256",
        ),
        files={config: kubeconfig},
    )
