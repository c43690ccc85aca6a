"""A plugin of ours beside an MLflow that lacks what it needs gives MLflow's own store, and says nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# What an older MLflow, or a light installation, lacks is gone before the plugin is asked.
_CLIENT = """
import sys
sys.modules["runstream.ingest.client.{missing}"] = None
from runstream.ingest.client import plugin
print(type(plugin.{build}("http://127.0.0.1:9")).__module__)
"""


@pytest.mark.parametrize(
    ("build", "missing", "expected"),
    [
        ("build_store", "store", "mlflow.store.tracking.rest_store"),
        ("build_registry_store", "registry", "mlflow.store.model_registry.rest_store"),
    ],
)
def test_the_client_falls_back_silently(build: str, missing: str, expected: str, tmp_path: Path) -> None:
    said = _run(_CLIENT.format(build=build, missing=missing), {"RUNSTREAM_SPOOL": str(tmp_path)})
    assert said == (f"{expected}\n", "")


def _run(code: str, environment: dict[str, str]) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={"PATH": "", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, done.stderr
