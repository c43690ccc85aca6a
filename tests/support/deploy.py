"""What the files below ``deploy/`` say about Runstream's containers, in one shape for all of them."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from runstream.settings import GatewaySettings, StorageSettings, TrackingSettings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUSTOMIZATIONS = ("base", "overlays/development", "overlays/production")

SETTINGS: dict[str, type[BaseSettings]] = {
    "gateway": GatewaySettings,
    "writer": StorageSettings,
    "query": StorageSettings,
    "tracking": TrackingSettings,
    "migrate": StorageSettings,
}


@dataclass(frozen=True)
class Container:
    """One of Runstream's containers: its command line after ``runstream``, environment and health addresses.

    ``secret`` names come from somewhere else: their values are not in the files. ``health`` holds pairs of port
    and path.
    """

    origin: str
    role: str
    arguments: list[str]
    environment: dict[str, str]
    secret: frozenset[str] = frozenset()
    health: list[tuple[int, str]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.origin}:{self.role}"

    @property
    def port(self) -> int | None:
        """What ``--port`` says."""
        if "--port" not in self.arguments:
            return None
        return int(self.arguments[self.arguments.index("--port") + 1])


def compose() -> dict[str, Any]:
    """compose.yaml with anchors resolved and ``${NAME:-default}`` replaced by the default."""
    text = re.sub(r"\$\{[A-Z0-9_]+:-([^}]*)\}", r"\1", (DEPLOY / "compose.yaml").read_text())
    tree: dict[str, Any] = yaml.safe_load(text)
    return tree


@functools.cache
def kustomize(folder: str) -> tuple[dict[str, Any], ...]:
    """The objects that a kustomization makes. Skips the test without kubectl."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    made = subprocess.run(
        [kubectl, "kustomize", str(DEPLOY / "kubernetes" / folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return tuple(yaml.safe_load_all(made.stdout))


def named(objects: tuple[dict[str, Any], ...], kind: str) -> dict[str, dict[str, Any]]:
    """The objects of a kind, by name."""
    return {item["metadata"]["name"]: item for item in objects if item["kind"] == kind}


def workloads(objects: tuple[dict[str, Any], ...]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every object that makes pods, with the pods' template."""
    for item in objects:
        if item["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield item, item["spec"]["template"]


def compose_containers() -> list[Container]:
    """Runstream's services in compose.yaml."""
    found = []
    for name, service in compose()["services"].items():
        if not service["image"].startswith("runstream"):
            continue
        environment = {key: str(value) for key, value in service["environment"].items()}
        url = environment.pop("HEALTH_URL", None)
        health = []
        if url:
            match = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/.*)", url)
            assert match, url
            health.append((int(match[1]), match[2]))
        assert service["command"][0] == name
        found.append(Container("compose", name, service["command"], environment, health=health))
    return found


def kubernetes_containers(folder: str) -> list[Container]:
    """Runstream's containers in what a kustomization makes."""
    objects = kustomize(folder)
    maps, secrets = named(objects, "ConfigMap"), named(objects, "Secret")
    found = []
    for item, template in workloads(objects):
        if template["metadata"]["labels"]["app.kubernetes.io/name"] != "runstream":
            continue
        (container,) = template["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        environment: dict[str, str] = {}
        for source in container["envFrom"]:
            environment |= maps[source["configMapRef"]["name"]]["data"]
        secret = set()
        for variable in container["env"]:
            reference = variable["valueFrom"]["secretKeyRef"]
            assert reference["key"] == variable["name"]
            held = secrets.get(reference["name"])
            if held and variable["name"] not in held["data"]:
                assert reference.get("optional"), variable
            else:
                secret.add(variable["name"])
        health = [
            (ports[probe["httpGet"]["port"]], probe["httpGet"]["path"])
            for probe in (container.get(f"{kind}Probe") for kind in ("startup", "liveness", "readiness"))
            if probe
        ]
        role = item["metadata"]["name"].removeprefix("runstream-")
        found.append(Container(folder, role, container["args"], environment, frozenset(secret), health))
    return found
