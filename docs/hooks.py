"""What the documentation's site takes from the sources each time that it is built: it cannot differ from them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from runstream.query.openapi import document
from runstream.settings import GatewaySettings, StorageSettings, TrackingSettings

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of the sources."""
    for name, text in (("rest", rest()), ("settings", settings())):
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
