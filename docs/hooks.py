"""What the documentation's site takes from the sources each time that it is built: it cannot differ from them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from prometheus_client import CollectorRegistry

from runstream.ingest.gateway.artifacts.telemetry import ArtifactTelemetry
from runstream.ingest.gateway.telemetry import GatewayTelemetry
from runstream.ingest.writer.stats import WriterStats
from runstream.process.writer_metrics import WriterMetrics
from runstream.query.openapi import document
from runstream.settings import GatewaySettings, StorageSettings, TrackingSettings

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of the sources."""
    for name, text in (("rest", rest()), ("settings", settings()), ("metrics", metrics())):
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to files of the repository that are no pages become their names."""
    root = Path(config.docs_dir)
    here = (root / page.file.src_uri).parent

    def shown(match: re.Match[str]) -> str:
        target = match[2].partition("#")[0]
        if re.match(r"[a-z]+:", target) or not target:
            return match[0]
        return match[1] if os.path.relpath(here / target, root).startswith("..") else match[0]

    return _LINK.sub(shown, markdown)


def rest() -> str:
    """Runstream's own routes, out of the OpenAPI document that the server answers."""
    spec = document("")
    lines = [
        "# REST",
        "",
        f"MLflow's own routes are MLflow's. These are Runstream's; the server answers them as OpenAPI "
        f"{spec['openapi']} at `/api/1.0/runstream/openapi.json`.",
        "",
    ]
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            if method in ("get", "post", "put", "delete"):
                lines += _operation(path, method, operation)
    return "\n".join(lines)


def _operation(path: str, method: str, operation: dict[str, Any]) -> list[str]:
    lines = [
        f"## `{method.upper()} {path}`",
        "",
        operation.get("description") or operation.get("summary", ""),
        "",
    ]
    parameters = operation.get("parameters", [])
    if parameters:
        lines += ["| parameter | in | meaning |", "|---|---|---|"]
        lines += [f"| `{one['name']}` | {one['in']} | {one.get('description', '')} |" for one in parameters]
        lines.append("")
    answers = operation.get("responses", {})
    lines += ["| status | meaning |", "|---|---|"]
    lines += [f"| {status} | {answer.get('description', '')} |" for status, answer in answers.items()]
    return [*lines, ""]


def settings() -> str:
    """Every variable of every role."""
    lines = [
        "# Settings",
        "",
        "Environment variables, read once at start. [Operations](../guides/operations.md) tells more.",
        "",
    ]
    roles = {
        "Gateway": GatewaySettings,
        "Writer, query and storage": StorageSettings,
        "Tracking": TrackingSettings,
    }
    for title, role in roles.items():
        lines += [f"## {title}", "", "| variable | meaning |", "|---|---|"]
        for name, info in role.model_fields.items():
            text = (info.description or "").replace("|", "\\|")
            lines.append(f"| `RUNSTREAM_{name.upper()}` | {text} |")
        lines.append("")
    return "\n".join(lines)


def metrics() -> str:
    """Every metric of every role, out of the registries that the roles fill."""
    lines = [
        "# Metrics",
        "",
        "What `/metrics` shows to Prometheus, beside what its client library says of the process.",
        "[Operations](../guides/operations.md#what-the-metrics-mean) tells how to read them.",
        "",
    ]
    for title, registry in registries().items():
        lines += [f"## {title}", "", "| metric | kind | labels | meaning |", "|---|---|---|---|"]
        for metric in registry.collect():
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            labels = sorted({label for sample in metric.samples for label in sample.labels} - {"le"})
            shown = ", ".join(f"`{label}`" for label in labels)
            lines.append(f"| `{name}` | {metric.type} | {shown} | {metric.documentation} |")
        lines.append("")
    return "\n".join(lines)


def registries() -> dict[str, CollectorRegistry]:
    """The metrics of each role, with a sample of each."""
    gateway, artifacts, writer = CollectorRegistry(), CollectorRegistry(), CollectorRegistry()
    GatewayTelemetry(gateway)
    moved = ArtifactTelemetry(artifacts)
    moved.answered("get", 200)
    moved.began("up")
    moved.ended("up", 1)
    WriterMetrics(cast(Any, SimpleNamespace(stats=WriterStats())), writer)
    return {"Gateway": gateway, "Artifacts in the gateway": artifacts, "Writer": writer}
