"""Pages that are made of the sources hold all that the sources have."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from runstream.settings import GatewaySettings, StorageSettings, TrackingSettings

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    pytest.importorskip("mkdocs", reason="the documentation's site is not installed")
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_metric_is_on_its_page_and_in_the_guide(hooks: ModuleType) -> None:
    page = hooks.metrics()
    rows = re.findall(r"^\| `(\w+)` \| \w+ \| [^|]*\| ([^|]+) \|$", page, re.MULTILINE)
    named = {name for name, meaning in rows if meaning.strip()}
    exposed = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name
        for registry in hooks.registries().values()
        for metric in registry.collect()
    }
    assert len(exposed) > 20
    assert named == exposed
    guide = (ROOT / "docs" / "guides" / "operations.md").read_text()
    told = guide.split("## What the metrics mean")[1].split("\n## ")[0]
    assert set(re.findall(r"`(runstream_\w+)`", told)) == exposed


def test_the_page_names_labels(hooks: ModuleType) -> None:
    assert "| `runstream_artifact_requests_total` | counter | `route`, `status` |" in hooks.metrics()


def test_every_setting_is_on_its_page(hooks: ModuleType) -> None:
    page = hooks.settings()
    for role in (GatewaySettings, StorageSettings, TrackingSettings):
        for name in role.model_fields:
            assert f"`RUNSTREAM_{name.upper()}`" in page


def test_every_route_is_on_its_page(hooks: ModuleType) -> None:
    from runstream.query.openapi import document

    page = hooks.rest()
    for path, methods in document("")["paths"].items():
        assert any(f"## `{method.upper()} {path}`" in page for method in methods)


def test_every_generated_page_is_in_the_contents() -> None:
    contents = (ROOT / "mkdocs.yml").read_text()
    for name in ("rest", "settings", "metrics"):
        assert f"reference/{name}.md" in contents
