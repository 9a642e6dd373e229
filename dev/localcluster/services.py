"""A Service for something that runs beside the cluster instead of in a pod."""

from __future__ import annotations

from collections.abc import Sequence

from dev.localcluster.kubectl import Manifest

Port = tuple[str, int, int, str]  # name, port of the Service, port of the process, protocol


def service_to(
    namespace: str, name: str, address: str, ports: Sequence[Port], *, cluster_ip: str | None = None
) -> list[Manifest]:
    """A Service without selector and the EndpointSlice that leads it to `address`: no drain can take it along."""
    spec: Manifest = {"ports": [{"name": n, "port": p, "targetPort": t, "protocol": proto} for n, p, t, proto in ports]}
    if cluster_ip:
        spec["clusterIP"] = cluster_ip
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name}, "spec": spec},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": namespace,
                "name": f"{name}-localcluster",
                "labels": {
                    "kubernetes.io/service-name": name,
                    "endpointslice.kubernetes.io/managed-by": "finetune-localcluster",
                },
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
            "ports": [{"name": n, "port": t, "protocol": proto} for n, _, t, proto in ports],
        },
    ]
