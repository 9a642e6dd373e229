"""Each template of the chart: what it renders, what turns it on, and that it asks for no more than it needs."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_contract import names
from finetune_operator.settings import read_settings
from tests.chart.conftest import CHART, ChartError

MONITORS = ("--api-versions", "monitoring.coreos.com/v1/PodMonitor")


def pod_of(rendered: Any) -> dict[str, Any]:
    return dict(rendered.one("Deployment")["spec"]["template"]["spec"])


def container_of(rendered: Any) -> dict[str, Any]:
    [container] = pod_of(rendered)["containers"]
    return dict(container)


def environment_of(rendered: Any) -> dict[str, str]:
    """The variables; those from the pod's fields are given a value as the kubelet would."""
    return {one["name"]: one.get("value", "from-the-pod") for one in container_of(rendered)["env"]}


# --- the whole ---------------------------------------------------------------------------------------------------
def test_helm_lint_has_nothing_to_say(helm) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


def test_by_default_nothing_optional_is_rendered(render) -> None:
    kinds = {one["kind"] for one in render().objects}
    assert kinds == {"Deployment", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "GPUClass"}


def test_a_packaged_chart_contains_the_crds_that_the_link_points_to(helm, tmp_path) -> None:
    import tarfile

    assert (CHART / "crds").is_symlink()
    helm("package", str(CHART), "--destination", str(tmp_path))
    [package] = tmp_path.glob("*.tgz")
    with tarfile.open(package) as archive:
        for name in ("finetunejobs.yaml", "gpuclasses.yaml"):
            packed = archive.extractfile(f"finetune-operator/crds/{name}")
            assert packed is not None
            assert packed.read() == (CHART.parents[1] / "crds" / name).read_bytes()


def test_every_object_carries_the_common_labels_and_a_namespaced_one_its_namespace(render) -> None:
    clustered = {"ClusterRole", "ClusterRoleBinding", "GPUClass"}
    for one in render(EVERYTHING, *MONITORS).objects:
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "finetune-operator"
        assert labels["app.kubernetes.io/instance"] == "finetune-operator"
        assert labels["helm.sh/chart"].startswith("finetune-operator-")
        assert ("namespace" in one["metadata"]) == (one["kind"] not in clustered), one["metadata"]["name"]


def test_two_releases_under_other_names_do_not_meet(helm) -> None:
    from tests.chart.conftest import Rendered

    one, two = (
        Rendered(helm("template", name, str(CHART), "--set", "gpuClasses.defaults=false")) for name in ("one", "two")
    )
    keys = [{(each["kind"], each["metadata"]["name"]) for each in rendered.objects} for rendered in (one, two)]
    assert not keys[0] & keys[1]
    assert one.one("Deployment")["metadata"]["name"] == "one-finetune-operator"


def test_names_can_be_replaced(render) -> None:
    assert render({"fullnameOverride": "tuner"}).names("Deployment") == ["tuner"]
    assert render({"nameOverride": "tuner"}).names("Deployment") == ["finetune-operator-tuner"]


# --- deployment --------------------------------------------------------------------------------------------------
def test_the_pod_passes_the_restricted_level_and_writes_nowhere_but_in_its_own_folder(render) -> None:
    pod, container = pod_of(render()), container_of(render())
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
    assert pod["volumes"] == [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}]
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(pod)


def test_the_operator_understands_every_variable_that_the_chart_sets(render) -> None:
    from finetune_operator.settings import VARIABLES

    environment = environment_of(render())
    assert set(environment) - {"MALLOC_ARENA_MAX"} <= set(VARIABLES)
    settings = read_settings(environment)
    assert settings.trainer_image == "finetune-trainer:0.1.0"
    assert settings.watch_namespaces == ()
    assert settings.progress_interval_seconds == 30
    assert settings.http_port == 8080
    assert settings.log_format == "json"
    assert not settings.leader_election
    assert not settings.allow_cpu_for_gpu


def test_each_value_reaches_the_operator(render) -> None:
    settings = read_settings(
        environment_of(
            render(
                {
                    "trainerImage": {"repository": "r.example.com/trainer", "tag": "7", "pullPolicy": "Never"},
                    "watchNamespaces": ["a", "b"],
                    "progressIntervalSeconds": 5,
                    "training": {"terminationGraceSeconds": 17},
                    "log": {"level": "debug", "format": "text"},
                    "leaderElection": {"enabled": True},
                    "testing": {"allowCpuForGpu": True},
                }
            )
        )
    )
    assert settings.trainer_image == "r.example.com/trainer:7"
    assert settings.trainer_image_pull_policy == "Never"
    assert settings.watch_namespaces == ("a", "b")
    assert settings.progress_interval_seconds == 5
    assert settings.termination_grace_seconds == 17
    assert (settings.log_level, settings.log_format) == ("DEBUG", "text")
    assert settings.leader_election
    assert settings.allow_cpu_for_gpu


def test_memory_is_bounded_and_the_allocator_kept_small(render) -> None:
    container = container_of(render())
    assert container["resources"] == {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}}
    assert environment_of(render())["MALLOC_ARENA_MAX"] == "2"


def test_probes_ask_health_and_readiness_on_the_named_port(render) -> None:
    container = container_of(render())
    assert container["ports"] == [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]
    paths = {probe: container[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness", "readiness")}
    assert paths == {
        "startup": {"path": "/healthz", "port": "http"},
        "liveness": {"path": "/healthz", "port": "http"},
        "readiness": {"path": "/readyz", "port": "http"},
    }
    liveness = container["livenessProbe"]
    assert liveness["periodSeconds"] >= 10
    assert liveness["failureThreshold"] >= 3


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        pytest.param({"repository": "r/op"}, "r/op:0.1.0", id="the tag is the chart's version"),
        pytest.param({"repository": "r/op", "tag": "x"}, "r/op:x", id="a tag of its own"),
        pytest.param(
            {"repository": "r/op", "tag": "x", "digest": "sha256:" + "a" * 64},
            "r/op@sha256:" + "a" * 64,
            id="a digest wins over the tag",
        ),
    ],
)
def test_an_image_is_named_by_tag_or_digest(render, image: dict[str, str], reference: str) -> None:
    assert container_of(render({"image": image}))["image"] == reference
    assert environment_of(render({"trainerImage": image}))["FINETUNE_TRAINER_IMAGE"] == reference


def test_training_pods_have_pull_secrets_of_their_own(render) -> None:
    environment = environment_of(render({"training": {"imagePullSecrets": ["one", "two"]}}))
    assert environment["FINETUNE_IMAGE_PULL_SECRETS"] == "one,two"


def test_one_replica_is_replaced_before_the_next_starts_and_takes_no_lease(render) -> None:
    rendered = render()
    assert rendered.one("Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    assert environment_of(rendered)["FINETUNE_LEADER_ELECTION"] == "false"
    assert "affinity" not in pod_of(rendered)


def test_two_replicas_elect_a_leader_roll_and_prefer_different_nodes(render) -> None:
    rendered = render({"replicaCount": 2})
    assert rendered.one("Deployment")["spec"]["strategy"]["type"] == "RollingUpdate"
    assert environment_of(rendered)["FINETUNE_LEADER_ELECTION"] == "true"
    assert "podAntiAffinity" in pod_of(rendered)["affinity"]


def test_placement_of_the_operator_is_the_users(render) -> None:
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]}}}
    values = {
        "replicaCount": 2,
        "affinity": affinity,
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "priorityClassName": "high",
        "imagePullSecrets": [{"name": "registry"}],
        "podLabels": {"team": "ml"},
        "podAnnotations": {"note": "x"},
    }
    pod = pod_of(render(values))
    for key in ("affinity", "nodeSelector", "tolerations", "priorityClassName", "imagePullSecrets"):
        assert pod[key] == values[key]
    metadata = render(values).one("Deployment")["spec"]["template"]["metadata"]
    assert metadata["labels"]["team"] == "ml"
    assert metadata["annotations"] == {"note": "x"}


def test_only_the_operators_pod_gets_the_token(render) -> None:
    assert pod_of(render())["automountServiceAccountToken"] is True
    assert render().one("ServiceAccount")["automountServiceAccountToken"] is False


# --- rights ------------------------------------------------------------------------------------------------------
IN_A_NAMESPACE = {
    ("finetune.dev", "finetunejobs"): {"get", "list", "watch"},
    ("finetune.dev", "finetunejobs/status"): {"update"},
    ("batch", "jobs"): {"create", "delete", "get", "list", "watch"},
    ("", "pods"): {"list", "watch"},
    ("", "services"): {"create", "get"},
    ("", "events"): {"create", "list", "update"},
}
ON_THE_CLUSTER = {
    ("finetune.dev", "gpuclasses"): {"get", "list", "watch"},
    ("finetune.dev", "gpuclasses/status"): {"update"},
    ("", "nodes"): {"list", "watch"},
}
LEASES = {("coordination.k8s.io", "leases"): {"create", "get", "update"}}


def rights(role: dict[str, Any]) -> dict[tuple[str, str], set[str]]:
    granted: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        assert set(rule) == {"apiGroups", "resources", "verbs"}
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                granted.setdefault((group, resource), set()).update(rule["verbs"])
    return granted


def test_in_all_namespaces_the_operator_may_do_exactly_what_its_code_does(render) -> None:
    rendered = render()
    assert rights(rendered.one("ClusterRole", "finetune-operator")) == {**ON_THE_CLUSTER, **IN_A_NAMESPACE}
    assert not rendered.all("Role")
    binding = rendered.one("ClusterRoleBinding")
    assert binding["roleRef"]["name"] == "finetune-operator"
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "finetune-operator", "namespace": "finetune-system"}
    ]


def test_with_namespaces_it_has_a_role_in_each_and_reads_classes_and_nodes_alone_everywhere(render) -> None:
    rendered = render({"watchNamespaces": ["a", "b"]})
    assert rights(rendered.one("ClusterRole", "finetune-operator")) == ON_THE_CLUSTER
    roles = rendered.all("Role")
    assert [role["metadata"]["namespace"] for role in roles] == ["a", "b"]
    assert all(rights(role) == IN_A_NAMESPACE for role in roles)
    assert [binding["metadata"]["namespace"] for binding in rendered.all("RoleBinding")] == ["a", "b"]
    assert environment_of(rendered)["FINETUNE_WATCH_NAMESPACES"] == "a,b"


@pytest.mark.parametrize("values", [{"replicaCount": 2}, {"leaderElection": {"enabled": True}}], ids=str)
def test_a_lease_is_granted_where_there_is_an_election_and_only_in_its_own_namespace(render, values) -> None:
    role = render(values).one("Role")
    assert rights(role) == LEASES
    assert role["metadata"]["namespace"] == "finetune-system"


def test_nobody_gets_secrets_configmaps_exec_or_a_wildcard(render) -> None:
    for values in ({}, {"watchNamespaces": ["a"], "replicaCount": 2}):
        rendered = render(values)
        for role in rendered.all("ClusterRole") + rendered.all("Role"):
            for group, resource in rights(role):
                assert resource.split("/")[0] not in {"secrets", "configmaps", "serviceaccounts"}
                assert resource not in {"pods/exec", "pods/log"}
                assert "*" not in (group, resource)
                assert "*" not in rights(role)[group, resource]


def test_users_of_a_namespace_may_write_jobs_and_never_their_status(render) -> None:
    rendered = render()
    view, edit = (rendered.one("ClusterRole", f"finetune-operator-{name}") for name in ("view", "edit"))
    assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    assert all(verbs == {"get", "list", "watch"} for verbs in rights(view).values())
    assert set(rights(edit)) == {("finetune.dev", "finetunejobs")}


def test_roles_can_be_left_to_somebody_else(render) -> None:
    rendered = render({"rbac": {"create": False, "aggregateToDefaultRoles": False}})
    assert not [one for one in rendered.objects if "Role" in one["kind"]]


def test_a_service_account_of_ones_own_is_used_and_bound(render) -> None:
    rendered = render({"serviceAccount": {"create": False, "name": "mine"}})
    assert not rendered.all("ServiceAccount")
    assert pod_of(rendered)["serviceAccountName"] == "mine"
    assert rendered.one("ClusterRoleBinding")["subjects"][0]["name"] == "mine"


def test_a_service_account_that_is_not_created_has_to_be_named(render) -> None:
    with pytest.raises(ChartError, match="is needed when"):
        render({"serviceAccount": {"create": False}})


# --- disruption, monitoring, network -----------------------------------------------------------------------------
@pytest.mark.parametrize(("replicas", "budgets"), [(0, 0), (1, 0), (2, 1), (3, 1)])
def test_a_budget_exists_for_two_replicas_or_more(render, replicas: int, budgets: int) -> None:
    assert len(render({"replicaCount": replicas}).all("PodDisruptionBudget")) == budgets


def test_a_budget_can_be_turned_off(render) -> None:
    assert not render({"replicaCount": 2, "podDisruptionBudget": {"enabled": False}}).all("PodDisruptionBudget")


def test_monitors_are_left_out_where_the_cluster_does_not_know_them(render) -> None:
    assert not render({"podMonitor": {"enabled": True}}).all("PodMonitor")
    assert not render({}, *MONITORS).all("PodMonitor")


def test_monitors_scrape_the_operator_and_the_training_pods(render) -> None:
    values = {"podMonitor": {"enabled": True, "interval": "15s", "labels": {"release": "prometheus"}}}
    operator, training = render(values, *MONITORS).all("PodMonitor")
    assert operator["metadata"]["labels"]["release"] == "prometheus"
    assert operator["spec"]["podMetricsEndpoints"] == [{"port": "http", "path": "/metrics", "interval": "15s"}]
    assert training["spec"]["namespaceSelector"] == {"any": True}
    assert training["spec"]["selector"]["matchLabels"] == {names.LABEL_MANAGED_BY: names.MANAGED_BY}
    assert training["spec"]["podMetricsEndpoints"][0]["port"] == names.PORT_NAME_METRICS
    namespaced = render({**values, "watchNamespaces": ["a"]}, *MONITORS).all("PodMonitor")[1]
    assert namespaced["spec"]["namespaceSelector"] == {"matchNames": ["a"]}


def test_network_policies_are_off_by_default(render) -> None:
    assert not render().all("NetworkPolicy")


def test_the_operator_reaches_names_the_api_server_and_the_progress_of_training_pods(render) -> None:
    policy = render({"networkPolicy": {"enabled": True}}).one("NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    dns, server, training = policy["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert [port["port"] for port in server["ports"]] == [443, 6443]
    assert [port["port"] for port in training["ports"]] == [names.PORT_METRICS]
    assert training["to"][0]["podSelector"]["matchLabels"] == {names.LABEL_MANAGED_BY: names.MANAGED_BY}
    [scrape] = policy["ingress"]
    assert [port["port"] for port in scrape["ports"]] == [8080]


def test_training_pods_reach_each_other_names_and_storage_and_are_reached_by_the_operator(render) -> None:
    values = {
        "networkPolicy": {
            "enabled": True,
            "trainingPods": {
                "namespaces": ["ml"],
                "storagePorts": [8333],
                "storageTo": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
            },
        }
    }
    policy = render(values).one("NetworkPolicy", "finetune-operator-training")
    assert policy["metadata"]["namespace"] == "ml"
    ours = {"podSelector": {"matchLabels": {names.LABEL_MANAGED_BY: names.MANAGED_BY}}}
    ranks, progress, scrape = policy["spec"]["ingress"]
    assert ranks == {"from": [ours]}
    [operator] = progress["from"]
    assert operator["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "finetune-system"}
    assert [port["port"] for port in progress["ports"] + scrape["ports"]] == [names.PORT_METRICS] * 2
    dns, peers, storage = policy["spec"]["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert peers == {"to": [ours]}
    assert storage == {"ports": [{"port": 8333, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}


def test_the_policy_of_training_pods_follows_the_watched_namespaces(render) -> None:
    rendered = render({"networkPolicy": {"enabled": True}, "watchNamespaces": ["a", "b"]})
    places = [one["metadata"]["namespace"] for one in rendered.all("NetworkPolicy")]
    assert places == ["finetune-system", "a", "b"]


def test_scrapers_can_be_named(render) -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    policy = render({"networkPolicy": {"enabled": True, "metricsFrom": peers}}).one("NetworkPolicy")
    assert policy["spec"]["ingress"][0]["from"] == peers


EVERYTHING = {
    "replicaCount": 2,
    "watchNamespaces": ["a"],
    "podMonitor": {"enabled": True},
    "networkPolicy": {"enabled": True},
}


# --- notes -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param([], "watches all namespaces", id="all namespaces"),
        pytest.param(["--set", "watchNamespaces={a,b}"], "watches a, b", id="some namespaces"),
        pytest.param([], "kubectl get gpuclass", id="the first commands"),
        pytest.param([], "kubectl apply --server-side -f crds/", id="an upgrade of the CRDs"),
        pytest.param(["--set", "testing.allowCpuForGpu=true"], "WARNING: testing.allowCpuForGpu", id="a test switch"),
    ],
)
def test_the_notes_say_what_comes_next(helm, words: list[str], expected: str) -> None:
    notes = helm("install", "finetune-operator", str(CHART), "--dry-run=client", *words).partition("NOTES:")[2]
    assert expected in notes
