"""What cannot work says so in one line on standard error, with exit status 1; SIGTERM drains and exits with 0."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from support.full_disk import mounted
from support.ledger import Load
from support.mlflow_client import Rest
from support.runstream_server import RunstreamServer

TIMEOUT_S = 90.0
ROOT = Path(__file__).parents[2]

ServerFactory = Callable[..., RunstreamServer]
NewRuns = Callable[[str, int], list[str]]


def runstream(
    *arguments: str, start: list[str] | None = None, timeout_s: float = TIMEOUT_S, **environment: Any
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*(start or [sys.executable, "-m", "runstream"]), *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def assert_one_line(ended: subprocess.CompletedProcess[str], *parts: str) -> None:
    """One line that holds these parts, status 1, nothing else."""
    lines = ended.stderr.strip().splitlines()
    assert ended.returncode == 1, (ended.returncode, ended.stderr)
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("runstream: ")
    for part in parts:
        assert part in lines[0]
    assert ended.stdout == ""


def test_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = runstream("serve", "--port", port, "--data-dir", str(tmp_path / "data"))
    assert_one_line(ended, port, "in use")
    assert not (tmp_path / "data" / "mlflow.db").exists()


def test_port_of_another_runstream(runstream_server: RunstreamServer, tmp_path: Path) -> None:
    """Gateways share their port with each other, and still not with another server."""
    port = str(runstream_server.port)
    assert_one_line(runstream("serve", "--port", port, "--data-dir", str(tmp_path / "data")), port, "in use")


def test_address_that_is_not_ours(tmp_path: Path) -> None:
    ended = runstream("serve", "--host", "192.0.2.1", "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert_one_line(ended, "192.0.2.1")


def test_folder_of_another_server(runstream_server: RunstreamServer) -> None:
    before = runstream_server.get("/health")
    ended = runstream("serve", "--port", "0", "--data-dir", str(runstream_server.data_dir))
    assert_one_line(
        ended, str(runstream_server.data_dir), "in use by another server", str(runstream_server.pid)
    )
    assert runstream_server.get("/health") == before


def test_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    ended = runstream("serve", "--port", "0", "--data-dir", str(tmp_path / "data" / "below"))
    assert_one_line(ended, str(tmp_path / "data"))
    assert (tmp_path / "data").read_text() == "mine"


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with mounted(tmp_path / "data", "ro") as is_mounted:
        if is_mounted:
            data = tmp_path / "data"
        elif os.geteuid() == 0:  # rights do not bind root
            data = Path("/proc/runstream-data")
        else:
            data = tmp_path / "locked" / "data"
            data.parent.mkdir(mode=0o500)
        ended = runstream("serve", "--port", "0", "--data-dir", str(data))
    assert_one_line(ended, "cannot write", str(data))


WITHOUT = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == {module!r} else real(name, package)
from runstream.commands.main import main
main(prog_name="runstream")
"""


@pytest.mark.parametrize(
    ("module", "extra"),
    [("chdb", "embedded"), ("mlflow", "server"), ("aiohttp", "server"), ("click", "server")],
)
def test_missing_extra(tmp_path: Path, module: str, extra: str) -> None:
    start = [sys.executable, "-c", WITHOUT.format(module=module)]
    ended = runstream("serve", "--port", "0", "--data-dir", str(tmp_path / "data"), start=start)
    assert_one_line(ended, f"pip install 'runstream[{extra}]'")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RUNSTREAM_LOG_LEVEL", "LOUD"),
        ("RUNSTREAM_QUEUE_MAX_BYTES", "many"),
        ("RUNSTREAM_LINGER_MS", "-1"),
        ("RUNSTREAM_FLUSH_ROWS", "0"),
    ],
)
def test_wrong_setting(tmp_path: Path, name: str, value: str) -> None:
    ended = runstream(
        "serve", "--port", "0", "--data-dir", str(tmp_path / "data"), **dict[str, Any]({name: value})
    )
    assert_one_line(ended, name)


def test_basic_auth_without_its_secret(tmp_path: Path) -> None:
    arguments = ("serve", "--port", "0", "--data-dir", str(tmp_path / "data"))
    ended = runstream(*arguments, RUNSTREAM_BASIC_AUTH="true", MLFLOW_FLASK_SERVER_SECRET_KEY="")
    assert_one_line(ended, "MLFLOW_FLASK_SERVER_SECRET_KEY")


@pytest.mark.timeout(600)
def test_basic_auth_without_a_first_password(tmp_path: Path) -> None:
    config = tmp_path / "auth.ini"
    stock = Path(mlflow.__file__).parent / "server" / "auth" / "basic_auth.ini"
    config.write_text(stock.read_text().replace("basic_auth.db", f"{tmp_path}/users.db"))
    environment: dict[str, Any] = {
        "RUNSTREAM_BASIC_AUTH": "true",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret",
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
    }
    arguments = ("serve", "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert_one_line(runstream(*arguments, start=None, **environment), "MLFLOW_AUTH_ADMIN_PASSWORD")
    # One that MLflow does not take is known to MLflow alone: what it says last is what the server says.
    environment["MLFLOW_AUTH_ADMIN_PASSWORD"] = "short"
    # MLflow's server is started four times before it is given up: ten seconds and more each, where others compute.
    ended = runstream(*arguments, timeout_s=500, **environment)
    assert ended.returncode == 1
    assert "tracking cannot start" in ended.stderr.splitlines()[-1]
    assert "password" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("prefix", ["mlflow", "/mlflow/", "/runstream"])
def test_prefix_that_cannot_be(tmp_path: Path, prefix: str) -> None:
    arguments = ("serve", "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert_one_line(runstream(*arguments, RUNSTREAM_STATIC_PREFIX=prefix), "RUNSTREAM_STATIC_PREFIX")


@pytest.mark.parametrize("role", ["gateway", "writer", "query", "tracking"])
def test_wrong_setting_of_a_role(role: str) -> None:
    environment: dict[str, Any] = {"RUNSTREAM_QUEUE": "carrier-pigeon://loft"} if role != "tracking" else {}
    assert_one_line(runstream(role, RUNSTREAM_PORT="99999", **environment), "RUNSTREAM_PORT")


def test_signals_drain_under_load(make_server: ServerFactory, new_runs: NewRuns) -> None:
    """SIGTERM and Ctrl-C: status 0, and what was acknowledged is there after the next start."""
    server = make_server(workers=2).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        with Load(server.url, new_runs(server.url, 3), seed=number) as load:
            load.await_progress(1000)
            assert server.stop(number) == 0
        assert load.errors == []
        server.start()
        with Rest(server.url) as rest:
            assert [fault for ledger in load.ledgers for fault in ledger.faults(rest)] == []
    assert server.stop() == 0
