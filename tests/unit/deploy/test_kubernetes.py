"""The Kubernetes manifests: every object follows its schema, and objects that name each other agree."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest

from runstream.schemas.topics import METRICS_TOPIC, WRITER_GROUP
from support.deploy import KUSTOMIZATIONS, kustomize, named, workloads

Objects = tuple[dict[str, Any], ...]
ROLES = ("gateway", "writer", "query", "tracking")
# Of an operator, so without a schema in Kubernetes itself.
FOREIGN = {"ScaledObject", "TriggerAuthentication"}


@pytest.fixture(params=KUSTOMIZATIONS)
def objects(request: pytest.FixtureRequest) -> Objects:
    return kustomize(request.param)


@pytest.fixture
def production() -> Objects:
    return kustomize("overlays/production")


def test_every_object_follows_its_schema(objects: Objects) -> None:
    for item in objects:
        if item["kind"] not in FOREIGN:
            kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)


def test_the_check_notices(objects: Objects) -> None:
    deployment = named(objects, "Deployment")["runstream-gateway"]
    wrong = {**deployment, "spec": {**deployment["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_selectors_find_pods(objects: Objects) -> None:
    pods = [template["metadata"]["labels"] for _, template in workloads(objects)]

    def finds(labels: dict[str, str]) -> bool:
        return any(labels.items() <= pod.items() for pod in pods)

    for item, template in workloads(objects):
        if item["kind"] != "Job":
            wanted = item["spec"]["selector"]["matchLabels"]
            assert wanted.items() <= template["metadata"]["labels"].items()
            assert sum(wanted.items() <= pod.items() for pod in pods) == 1, "a selector takes others' pods"
    for service in named(objects, "Service").values():
        assert finds(service["spec"]["selector"])
    for budget in named(objects, "PodDisruptionBudget").values():
        assert finds(budget["spec"]["selector"]["matchLabels"])
    for policy in named(objects, "NetworkPolicy").values():
        assert finds(policy["spec"]["podSelector"]["matchLabels"])


def test_services_lead_to_ports(objects: Objects) -> None:
    for service in named(objects, "Service").values():
        for _, template in workloads(objects):
            if service["spec"]["selector"].items() <= template["metadata"]["labels"].items():
                ports = template["spec"]["containers"][0]["ports"]
                known = {port.get("name") for port in ports} | {port["containerPort"] for port in ports}
                for port in service["spec"]["ports"]:
                    assert port.get("targetPort", port["port"]) in known


def test_pods_are_confined_and_bounded(objects: Objects) -> None:
    for item, template in workloads(objects):
        spec = template["spec"]
        (container,) = spec["containers"]
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert spec["automountServiceAccountToken"] is False
        # Kubernetes' variables for a Service named runstream-… would begin with RUNSTREAM_, as settings do.
        assert spec["enableServiceLinks"] is False
        if item["metadata"]["name"].startswith("runstream-"):
            assert spec["securityContext"]["runAsNonRoot"] is True
            assert spec["securityContext"]["runAsUser"] == 10001
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_roles_are_probed_and_given_time(objects: Objects) -> None:
    deployments = named(objects, "Deployment")
    budgets = named(objects, "PodDisruptionBudget")
    for role in ROLES:
        spec = deployments[f"runstream-{role}"]["spec"]["template"]["spec"]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= spec["containers"][0].keys()
        # Longer than RUNSTREAM_DRAIN_TIMEOUT_S of any role.
        assert spec["terminationGracePeriodSeconds"] >= 45
        assert f"runstream-{role}" in budgets


def test_secrets_are_references(production: Objects) -> None:
    assert not named(production, "Secret")
    for _, template in workloads(production):
        for variable in template["spec"]["containers"][0]["env"]:
            assert "value" not in variable


def test_network_lets_the_roles_talk(objects: Objects) -> None:
    policies = named(objects, "NetworkPolicy")
    everybody = policies["runstream-default"]["spec"]
    assert everybody["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "runstream"}
    assert "ingress" not in everybody

    def admits(role: str, caller: str) -> bool:
        labels = {"app.kubernetes.io/name": "runstream", "app.kubernetes.io/component": caller}
        for rule in policies[f"runstream-{role}"]["spec"]["ingress"]:
            for source in rule.get("from", [{"podSelector": {}}]):
                wanted = source["podSelector"].get("matchLabels", {})
                if "namespaceSelector" not in source and wanted.items() <= labels.items():
                    return True
        return False

    assert admits("tracking", "gateway")
    assert admits("query", "gateway")
    assert admits("query", "tracking")
    assert admits("gateway", "tracking")
    assert not admits("tracking", "writer")
    assert not admits("writer", "gateway")
    prometheus = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"runstream/scrape": "true"}}}
    for role in ("writer", "query"):
        sources = [
            source for rule in policies[f"runstream-{role}"]["spec"]["ingress"] for source in rule["from"]
        ]
        assert prometheus in sources


def test_gateways_scale_on_cpu(production: Objects) -> None:
    scaler = named(production, "HorizontalPodAutoscaler")["runstream-gateway"]["spec"]
    deployment = named(production, "Deployment")[scaler["scaleTargetRef"]["name"]]
    assert "replicas" not in deployment["spec"]
    assert scaler["metrics"][0]["resource"]["name"] == "cpu"
    assert deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == 1
    assert scaler["minReplicas"] >= 2


def test_writers_scale_on_lag(production: Objects) -> None:
    scaler = named(production, "ScaledObject")["runstream-writer"]["spec"]
    settings = named(production, "ConfigMap")["runstream"]["data"]
    assert "replicas" not in named(production, "Deployment")[scaler["scaleTargetRef"]["name"]]["spec"]
    assert scaler["maxReplicaCount"] <= int(settings["RUNSTREAM_KAFKA_PARTITIONS"])
    (trigger,) = scaler["triggers"]
    metadata = trigger["metadata"]
    assert trigger["type"] == "kafka"
    assert all(isinstance(value, str) for value in metadata.values())
    assert (metadata["topic"], metadata["consumerGroup"]) == (METRICS_TOPIC, WRITER_GROUP)
    assert settings["RUNSTREAM_QUEUE"] == f"kafka://{metadata['bootstrapServers']}"
    security = settings["RUNSTREAM_KAFKA_SECURITY"]
    assert metadata["tls"] == ("enable" if security.endswith("SSL") else "disable")
    mechanism = settings["RUNSTREAM_KAFKA_SASL_MECHANISM"]
    assert metadata["sasl"] == mechanism.lower().replace("-sha-", "_sha").replace("plain", "plaintext")
    authentication = named(production, "TriggerAuthentication")[trigger["authenticationRef"]["name"]]
    keys = {item["parameter"]: item["key"] for item in authentication["spec"]["secretTargetRef"]}
    assert keys == {"username": "RUNSTREAM_KAFKA_USER", "password": "RUNSTREAM_KAFKA_PASSWORD"}


def test_the_public_name_is_one_that_the_servers_know(production: Objects) -> None:
    settings = named(production, "ConfigMap")["runstream"]["data"]
    for rule in named(production, "Ingress")["runstream"]["spec"]["rules"]:
        assert rule["host"] in settings["RUNSTREAM_ALLOWED_HOSTS"].split(",")


def test_development_brings_what_it_names() -> None:
    objects = kustomize("overlays/development")
    services = named(objects, "Service")
    settings = named(objects, "ConfigMap")["runstream"]["data"]
    queue = urlsplit(settings["RUNSTREAM_QUEUE"])
    assert queue.port == services[queue.hostname or ""]["spec"]["ports"][0]["port"]
    s3 = urlsplit(settings["MLFLOW_S3_ENDPOINT_URL"])
    assert s3.port == services[s3.hostname or ""]["spec"]["ports"][0]["port"]
    arguments = named(objects, "StatefulSet")["s3"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert f"-bucket={urlsplit(settings['RUNSTREAM_ARTIFACTS']).hostname}" in arguments
