"""compose.yaml is valid, and its parts agree with each other and with the settings."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import compose_spec
import pytest
import yaml

from support.deploy import DEPLOY, compose

IMAGE = re.compile(r"[a-z0-9-]+(/[a-z0-9-]+)?:[a-z0-9][\w.-]*")


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def validate(tree: dict[str, Any]) -> None:
    parsed = compose_spec.PyCompose.from_yaml(yaml.safe_dump(tree))
    parsed.validate()
    parsed.to_spec()


def test_it_follows_the_specification() -> None:
    validate(compose())


@pytest.mark.parametrize(
    "wrong", [{"healtcheck": {}}, {"restart": "sometimes"}, {"deploy": {"replicas": "two"}}]
)
def test_the_check_notices(wrong: dict[str, Any]) -> None:
    tree = compose()
    tree["services"]["query"] |= wrong
    with pytest.raises(ValueError):
        validate(tree)


def test_references_exist(services: dict[str, dict[str, Any]]) -> None:
    volumes = set(compose()["volumes"])
    used = set()
    for name, service in services.items():
        wanted = service.get("depends_on", [])
        assert set(wanted) <= set(services), name
        for other, how in wanted.items() if isinstance(wanted, dict) else []:
            if how["condition"] == "service_healthy":
                build = services[other]["image"].startswith("runstream")
                assert build or "healthcheck" in services[other], f"{name} waits for {other}"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
            else:
                used.add(source)
    assert used == volumes


def test_images_are_pinned_and_name_no_registry(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        assert IMAGE.fullmatch(service["image"]), service["image"]
        assert not service["image"].endswith(":latest")


def test_nothing_listens_outside_this_machine(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    taken = [port.split(":")[1] for port in ports]
    assert len(taken) == len(set(taken))


def test_sets_are_as_large_as_promised(services: dict[str, dict[str, Any]]) -> None:
    assert services["gateway"]["deploy"]["replicas"] == 2
    assert services["writer"]["deploy"]["replicas"] == 2
    assert sum(name.startswith("kafka-") for name in services) == 3


def test_containers_are_confined(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        if service["image"].startswith("runstream"):
            assert service["read_only"]
            assert service["cap_drop"] == ["ALL"]
            assert "no-new-privileges:true" in service["security_opt"]


def test_brokers_make_one_cluster(services: dict[str, dict[str, Any]]) -> None:
    brokers = {
        name: service["environment"] for name, service in services.items() if name.startswith("kafka-")
    }
    voters = ",".join(f"{settings['KAFKA_NODE_ID']}@{name}:9093" for name, settings in brokers.items())
    for name, settings in brokers.items():
        assert settings["KAFKA_CONTROLLER_QUORUM_VOTERS"] == voters
        assert settings["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://{name}:9092"
        assert services[name]["hostname"] == name
        assert f"{name}:{settings['KAFKA_LOG_DIRS']}" in services[name]["volumes"]
    assert len({settings["CLUSTER_ID"] for settings in brokers.values()}) == 1
    runstream = services["gateway"]["environment"]
    assert runstream["RUNSTREAM_QUEUE"] == "kafka://" + ",".join(f"{name}:9092" for name in brokers)
    replication, least = (int(runstream[f"RUNSTREAM_KAFKA_{name}"]) for name in ("REPLICATION", "MIN_INSYNC"))
    assert least < replication <= len(brokers)


def test_stores_and_settings_agree(services: dict[str, dict[str, Any]]) -> None:
    runstream = services["writer"]["environment"] | services["tracking"]["environment"]
    clickhouse = urlsplit(runstream["RUNSTREAM_CLICKHOUSE"])
    store = services["clickhouse"]["environment"]
    assert (clickhouse.hostname, clickhouse.username, clickhouse.password, clickhouse.path) == (
        "clickhouse",
        store["CLICKHOUSE_USER"],
        store["CLICKHOUSE_PASSWORD"],
        f"/{store['CLICKHOUSE_DB']}",
    )
    metadata = urlsplit(runstream["RUNSTREAM_METADATA"])
    store = services["postgres"]["environment"]
    assert (metadata.hostname, metadata.username, metadata.password, metadata.path) == (
        "postgres",
        store["POSTGRES_USER"],
        store["POSTGRES_PASSWORD"],
        f"/{store['POSTGRES_DB']}",
    )
    store = services["s3"]
    assert f"-bucket={urlsplit(runstream['RUNSTREAM_ARTIFACTS']).hostname}" in store["command"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert store["environment"][name] == runstream[name]
    assert services["entry"]["volumes"][0].startswith("./haproxy/haproxy.cfg:")
    assert "gateway:5000" in (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
