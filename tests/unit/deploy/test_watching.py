"""Dashboards and alerts ask for metrics that the product has, by labels that these have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import promql_parser
import pytest
import yaml
from aiohttp import web
from prometheus_client import REGISTRY, CollectorRegistry

from runstream.ingest.gateway.artifacts.telemetry import ArtifactTelemetry
from runstream.ingest.gateway.http import refusals
from runstream.ingest.gateway.http.probes import HealthRoutes
from runstream.ingest.gateway.http.upstream import UpstreamUnavailableError
from runstream.ingest.gateway.telemetry import GatewayTelemetry
from runstream.ingest.queue.local import LocalLogConsumer
from runstream.ingest.writer.pipeline import Writer
from runstream.process.probes import add_watch_routes, watch_app
from runstream.process.writer_metrics import WriterMetrics
from runstream.query.service import QueryConfig, create_app
from runstream.schemas.errors import MlflowError, QueueFullError, QueueUnavailableError
from support.deploy import DEPLOY, ROOT, compose, compose_containers, kustomize, named

# Of other programs: ClickHouse's own endpoint, the kubelet, Prometheus itself.
FOREIGN = {
    "up": {"job", "instance"},
    "ClickHouseAsyncMetrics_DiskAvailable_default": {"instance"},
    "ClickHouseAsyncMetrics_DiskTotal_default": {"instance"},
    "ClickHouseAsyncMetrics_MaxPartCountForPartition": {"instance"},
    "kubelet_volume_stats_available_bytes": {"namespace", "persistentvolumeclaim"},
    "kubelet_volume_stats_capacity_bytes": {"namespace", "persistentvolumeclaim"},
}
# What Prometheus itself puts on every series.
ADDED = {"job", "instance"}


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Every series that the product exposes, with its labels."""
    registry = CollectorRegistry()
    gateway = GatewayTelemetry(registry)
    gateway.request("log-batch")
    gateway.refused("invalid")
    artifacts = ArtifactTelemetry(registry)
    artifacts.answered("get", 200)
    artifacts.began("up")
    artifacts.ended("up", 1)
    consumer = LocalLogConsumer(tmp_path_factory.mktemp("log"))
    WriterMetrics(Writer(consumer, cast(Any, None), cast(Any, None)), registry)
    return {
        sample.name: set(sample.labels) | ADDED
        for source in (registry, REGISTRY)
        for metric in source.collect()
        for sample in metric.samples
        if not sample.name.endswith("_created")
    } | FOREIGN


def family(series: str) -> str:
    """The metric that a series belongs to, as its page calls it."""
    return re.sub(r"_(bucket|sum|count)$", "", series)


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "runstream.json").read_text())
    return tree


def expressions() -> Iterator[tuple[str, str]]:
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m")


def selectors(node: Any) -> Iterator[promql_parser.VectorSelector]:
    """Every series selector below a parsed expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
        return
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        yield from selectors(child) if (child := getattr(node, name, None)) is not None else ()
    for argument in getattr(node, "args", None) or ():
        yield from selectors(argument)


@pytest.mark.parametrize(("where", "text"), list(expressions()), ids=lambda value: str(value)[:40])
def test_expressions_ask_for_what_is_there(where: str, text: str, metrics: dict[str, set[str]]) -> None:
    found = list(selectors(promql_parser.parse(text)))
    assert found
    labels: set[str] = set()
    for selector in found:
        assert selector.name in metrics, f"{where}: nothing exposes {selector.name}"
        labels |= metrics[selector.name]
        for matcher in selector.matchers.matchers:
            assert matcher.name in metrics[selector.name], f"{where}: {selector.name} has no {matcher.name}"
    for group in re.findall(r"\bby \(([^)]*)\)", text):
        assert {label.strip() for label in group.split(",")} <= labels, where


def test_every_metric_is_shown(metrics: dict[str, set[str]]) -> None:
    shown = {selector.name for _, text in expressions() for selector in selectors(promql_parser.parse(text))}
    families = {name for name in map(family, metrics) if name.startswith("runstream_")}
    # The same as others that are shown, in another unit.
    also = {"runstream_writer_records_total", "runstream_writer_pending_points"}
    assert families - {family(name) for name in shown if name} <= also


def test_reasons_are_the_gateways() -> None:
    pressure = {
        refusals.reason(error)
        for error in (QueueFullError(""), QueueUnavailableError(""), UpstreamUnavailableError(""))
    }
    asked = {
        reason
        for _, text in expressions()
        for found in re.findall(r'reason=~"([^"]*)"', text)
        for reason in found.split("|")
    }
    assert asked == pressure
    assert refusals.reason(MlflowError("")) not in asked


def test_jobs_are_scraped_where_the_roles_listen() -> None:
    asked = {job for _, text in expressions() for job in re.findall(r'job="([^"]*)"', text)}
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert asked <= jobs.keys()
    for container in compose_containers():
        job = jobs.get(f"runstream-{container.role}")
        if job:
            (source,) = job["dns_sd_configs"]
            assert (source["names"], source["port"]) == ([container.role], container.port)
    assert {name for name in jobs if name.startswith("runstream-")} == {
        "runstream-gateway",
        "runstream-query",
        "runstream-writer",
    }
    for item in named(kustomize("base"), "Deployment").values():
        pod = item["spec"]["template"]["metadata"]
        scraped = pod.get("annotations", {}).get("prometheus.io/scrape") == "true"
        assert scraped == (item["metadata"]["name"] in jobs)
        if scraped:
            (container,) = item["spec"]["template"]["spec"]["containers"]
            assert pod["annotations"]["prometheus.io/port"] == str(container["ports"][0]["containerPort"])


def test_roles_answer_where_they_are_probed_and_scraped() -> None:
    def paths(app: web.Application) -> set[str]:
        return {resource.canonical for resource in app.router.resources()}

    query = create_app(cast(Any, None), cast(Any, None), QueryConfig(internal_token="secret"))
    add_watch_routes(query, lambda: b"", {})
    assert {"/health", "/ready", "/metrics"} <= paths(query)
    assert {"/health", "/ready", "/metrics"} <= paths(watch_app(lambda: b"", {}))
    gateway = web.Application()
    HealthRoutes(cast(Any, None), lambda: b"", cast(Any, None), 1).add_to(gateway)
    assert {"/health", "/ready", "/metrics"} <= paths(gateway)


def test_the_mounts_are_where_the_files_are_looked_for() -> None:
    services = compose()["services"]
    assert "./prometheus:/etc/prometheus:ro" in services["prometheus"]["volumes"]
    assert "--config.file=/etc/prometheus/prometheus.yml" in services["prometheus"]["command"]
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/runstream.yaml").read_text())
    path = provider["providers"][0]["options"]["path"]
    assert f"./grafana/dashboards:{path}:ro" in services["grafana"]["volumes"]
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    (variable,) = dashboard()["templating"]["list"]
    assert variable["current"]["value"] == source["datasources"][0]["uid"]


def test_panels_lie_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_alerts_and_metrics_are_explained(metrics: dict[str, set[str]]) -> None:
    text = (ROOT / "docs" / "guides" / "operations.md").read_text()
    missing = [rule["alert"] for rule in alerts() if f"`{rule['alert']}`" not in text]
    missing += [
        name
        for name in {family(name) for name in metrics}
        if name.startswith("runstream_") and f"`{name}`" not in text
    ]
    assert not missing
    for rule in alerts():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


def test_alerts_have_tests() -> None:
    tests = yaml.safe_load((DEPLOY / "prometheus" / "alerts_test.yml").read_text())
    names = {rule["alert"] for rule in alerts()}
    for case in tests["tests"]:
        assert {check["alertname"] for check in case["alert_rule_test"]} <= names
    assert Path(tests["rule_files"][0]) == Path("alerts.yml")
