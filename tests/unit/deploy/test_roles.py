"""Commands, variables, ports and health paths of every deployment are those of the program itself."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest
import requests

from runstream.commands.main import main
from runstream.settings import load
from support.deploy import (
    DEPLOY,
    KUSTOMIZATIONS,
    SETTINGS,
    Container,
    compose_containers,
    kubernetes_containers,
)

ROLES = {"gateway", "writer", "query", "tracking", "migrate"}
ORIGINS = ("compose", *KUSTOMIZATIONS)
# What a role needs to be given, because its default is for one machine.
NEEDS = {
    "gateway": {"INTERNAL_TOKEN", "QUEUE", "METADATA", "ARTIFACTS", "TRACKING", "QUERY", "ALLOWED_HOSTS"},
    "writer": {"QUEUE", "CLICKHOUSE", "METADATA"},
    "query": {"INTERNAL_TOKEN", "QUEUE", "CLICKHOUSE"},
    "tracking": {"INTERNAL_TOKEN", "METADATA", "ARTIFACTS", "GATEWAY", "QUERY", "ALLOWED_HOSTS"},
    "migrate": {"QUEUE", "CLICKHOUSE", "METADATA"},
}


def containers(origin: str) -> list[Container]:
    return compose_containers() if origin == "compose" else kubernetes_containers(origin)


def settings_of(role: str) -> set[str]:
    return {f"RUNSTREAM_{name.upper()}" for name in SETTINGS[role].model_fields}


@pytest.mark.parametrize("origin", ORIGINS)
def test_every_role_is_there(origin: str) -> None:
    assert {container.role for container in containers(origin)} == ROLES


@pytest.mark.parametrize("origin", ORIGINS)
def test_commands_parse(origin: str) -> None:
    for container in containers(origin):
        name, *arguments = container.arguments
        assert name == container.role
        command = main.commands[name]
        command.make_context(name, arguments, resilient_parsing=False)
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in arguments if word.startswith("--")} <= known


def test_a_wrong_command_is_noticed() -> None:
    with pytest.raises(click.UsageError):
        main.commands["gateway"].make_context("gateway", ["--prot", "5000"])


@pytest.mark.parametrize("origin", ORIGINS)
def test_variables_are_settings(origin: str) -> None:
    every = set().union(*(settings_of(role) for role in ROLES))
    for container in containers(origin):
        given = {name for name in container.environment if name.startswith("RUNSTREAM_")}
        # Kubernetes gives one ConfigMap to all roles; compose gives each what it reads.
        assert given <= (settings_of(container.role) if origin == "compose" else every), container
        assert {name for name in container.secret if name.startswith("RUNSTREAM_")} <= settings_of(
            container.role
        )


@pytest.mark.parametrize("origin", [origin for origin in ORIGINS if origin != "base"])
def test_settings_load(origin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for container in containers(origin):
        with monkeypatch.context() as patch:
            for name, value in container.environment.items():
                patch.setenv(name, value)
            settings = load(SETTINGS[container.role])
        for name, value in container.environment.items():
            field = name.removeprefix("RUNSTREAM_").lower()
            if name.startswith("RUNSTREAM_") and isinstance(getattr(settings, field, None), str):
                assert getattr(settings, field) == value


@pytest.mark.parametrize("origin", [origin for origin in ORIGINS if origin != "base"])
def test_nothing_needed_is_missing(origin: str) -> None:
    for container in containers(origin):
        given = container.environment.keys() | container.secret
        assert {f"RUNSTREAM_{name}" for name in NEEDS[container.role]} <= given, container
        passwords = {"INTERNAL_TOKEN", "CLICKHOUSE", "METADATA"}
        unneeded = {f"RUNSTREAM_{name}" for name in passwords - NEEDS[container.role]}
        assert not unneeded & given, f"{container} is given a password that it does not need"


@pytest.mark.parametrize("origin", ORIGINS)
def test_ports_and_health_paths(origin: str) -> None:
    for container in containers(origin):
        if container.role == "migrate":
            assert container.port is None
            assert not container.health
            continue
        default = next(
            int(found[1])
            for option in main.commands[container.role].params
            if "--port" in option.opts
            for found in [re.search(r"default: (\d+)", option.help or "")]
            if found
        )
        assert container.port == default
        assert container.health
        # Only a query service is of no use without what stands behind it.
        ready = {(default, "/ready")} if container.role == "query" and origin != "compose" else set()
        assert set(container.health) == {(default, "/health")} | ready
        assert container.arguments[container.arguments.index("--host") + 1] == "0.0.0.0"


@pytest.mark.parametrize("origin", ORIGINS)
def test_roles_call_each_other_where_they_listen(origin: str) -> None:
    found = {container.role: container for container in containers(origin)}
    for caller, called in (
        ("gateway", "tracking"),
        ("gateway", "query"),
        ("tracking", "gateway"),
        ("tracking", "query"),
    ):
        url = urlsplit(found[caller].environment[f"RUNSTREAM_{called.upper()}"])
        assert url.port == found[called].port
        assert url.hostname in (called, f"runstream-{called}")


@pytest.mark.parametrize("origin", ORIGINS)
def test_servers_know_their_names(origin: str) -> None:
    found = {container.role: container for container in containers(origin)}
    for caller, called in (("gateway", "tracking"), ("tracking", "gateway")):
        name = urlsplit(found[caller].environment[f"RUNSTREAM_{called.upper()}"]).hostname
        assert f"{name}:*" in found[called].environment["RUNSTREAM_ALLOWED_HOSTS"].split(",")


def test_paths_of_a_running_server(runstream_url: str) -> None:
    for path in ("/health", "/ready", "/metrics"):
        assert requests.get(runstream_url + path, timeout=30).status_code == 200


def test_only_known_variables_anywhere() -> None:
    every = set().union(*(settings_of(role) for role in ROLES))
    # The client reads its own, without pydantic.
    client = sorted((DEPLOY.parent / "ingest" / "client").glob("*.py"))
    every.add("RUNSTREAM_WHEEL")  # the init script's own
    every |= {name for file in client for name in re.findall(r'"(RUNSTREAM_[A-Z_]+)"', file.read_text())}
    texts = [path for path in DEPLOY.rglob("*") if path.is_file()]
    used = {(path, name) for path in texts for name in _variables(path)}
    assert {(path.name, name) for path, name in used if name not in every} == set()


def _variables(path: Path) -> set[str]:
    return set(re.findall(r"\bRUNSTREAM_[A-Z0-9_]*[A-Z0-9]\b(?!_)", path.read_text()))
