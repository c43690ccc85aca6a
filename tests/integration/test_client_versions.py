"""Clients of many MLflow versions on many Pythons before one server, with the built wheel beside them: with the switch
they spool, without it nothing is different."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.environments import Environment, built_wheel
from support.mlflow_client import Rest
from support.runstream_server import RunstreamServer
from support.spooled import check, server_run, training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Skinny is MLflow's own client without what is optional; full ones bring other imports along.
SHORT = [("3.11", "mlflow-skinny==2.22.5"), ("3.11", "mlflow-skinny==3.17.2")]
LONG = [
    ("3.10", "mlflow==2.22.5"),
    ("3.10", "mlflow-skinny==3.1.4"),
    ("3.12", "mlflow-skinny==3.5.1"),
    ("3.10", "mlflow==3.10.1"),
    ("3.12", "mlflow-skinny==3.15.2"),
    ("3.13", "mlflow-skinny==3.17.2"),
    ("3.13", "mlflow==3.18.0"),
    ("3.14", "mlflow-skinny==3.17.2"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunstreamServer]:
    with RunstreamServer(tmp_path_factory.mktemp("versions") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_wheel(tmp_path_factory.mktemp("dist"))


def environment(folder: Path, python: str, mlflow: str, wheel: Path) -> Environment:
    if mlflow != "mlflow==3.18.0":
        return Environment(folder, python, mlflow, wheel)
    # Where the registry has no 3.18 of the packages that it is made of, those of 3.17 do.
    made = Environment(folder, python, "mlflow==3.17.2", wheel)
    try:
        made.install("--no-deps", "mlflow==3.18.0", "mlflow-skinny==3.18.0")
    except subprocess.CalledProcessError:
        made.install("--no-deps", mlflow)
    return made


@pytest.mark.parametrize(
    ("python", "mlflow"), [*SHORT, *(pytest.param(*one, marks=pytest.mark.slow_suite) for one in LONG)]
)
def test_a_training_with_and_without_the_switch(
    server: RunstreamServer, wheel: Path, tmp_path: Path, python: str, mlflow: str
) -> None:
    made = environment(tmp_path / "environment", python, mlflow, wheel)
    rest = Rest(server.url)
    seen = {}
    for name, switch in (("without", {"RUNSTREAM_SPOOL": ""}), ("with", {})):
        with training("reads", tmp_path, server.url, name=name, python=made.python, **switch) as one:
            one.wait()
        assert "Traceback" not in one.text(), one.text()
        assert "runstream" not in one.text().lower(), one.text()
        check(rest, one)
        run = server_run(rest, one.run_id)
        tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"] if tag["key"] != "mlflow.source.name"}
        params = {param["key"]: param["value"] for param in run["data"]["params"]}
        seen[name] = (run["info"]["status"], run["info"]["run_name"], params, tags)
        assert one.spool.exists() == (name == "with")
    assert list((tmp_path / "spool").rglob("*.rsf")) == []
    assert seen["with"] == seen["without"]


def test_what_a_training_image_gains(wheel: Path, tmp_path: Path) -> None:
    """Beside mlflow-skinny: three packages at most, ten megabytes at most, and no data frames."""
    made = Environment(tmp_path / "environment", "3.11", "mlflow-skinny==3.17.2")
    packages, size = made.packages(), made.bytes()
    made.install(wheel)
    gained = {one.partition("==")[0] for one in made.packages() - packages}
    print(f"gained: {sorted(gained)}, {(made.bytes() - size) / 1e6:.1f} MB")
    assert gained == {"crc32c", "lz4", "runstream"}
    assert made.bytes() - size <= 10_000_000
    say = subprocess.run(
        [made.python, "-m", "runstream", "serve"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (say.returncode, len(say.stderr.splitlines())) == (1, 1), say.stderr
    assert "pip install 'runstream[server]'" in say.stderr


def test_on_an_old_python_servers_say_in_one_line_what_they_need(wheel: Path, tmp_path: Path) -> None:
    made = Environment(tmp_path / "environment", "3.10", wheel)
    say = subprocess.run(
        [made.python, "-m", "runstream", "serve"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (say.returncode, len(say.stderr.splitlines())) == (1, 1), say.stderr
    assert "need Python 3.11" in say.stderr
