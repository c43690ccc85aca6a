"""A PostgreSQL server of a test's own, from Debian's packages, on a free port of loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

_START_TIMEOUT_S = 60.0


def binaries() -> Path | None:
    """The folder of the newest PostgreSQL server on this machine, or ``None``."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]), reverse=True
    )
    if found:
        return found[0].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


class Postgres:
    """One server over one folder; may be stopped or killed and started again on the same port."""

    def __init__(self, folder: Path, bin_folder: Path) -> None:
        self._folder = folder
        self._bin = bin_folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    @classmethod
    def create(cls) -> Postgres:
        """A new, empty server, not started; skips the test (with the reason) if PostgreSQL is missing."""
        bin_folder = binaries()
        if bin_folder is None:
            pytest.skip("PostgreSQL's server is not installed (apt-get install postgresql)")
        folder = Path(tempfile.mkdtemp(prefix="runstream-postgres-"))
        if os.geteuid() == 0:
            shutil.chown(folder, _server_user())
        server = cls(folder, bin_folder)
        server._run(
            "initdb", "-D", str(folder / "data"), "-U", "runstream", "-A", "trust", "-E", "UTF8", "-N"
        )
        return server

    def url(self, database: str = "postgres") -> str:
        """A SQLAlchemy URL, as for ``RUNSTREAM_METADATA``."""
        return f"postgresql://runstream@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """Create a database and return its URL."""
        with psycopg.connect(self._conninfo(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def start(self) -> None:
        """Start and wait until it answers."""
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            # Tests kill processes, not the machine.
            "fsync": "off",
            "max_connections": "200",
            "log_min_messages": "fatal",
        }
        flags = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(
            self._as_server_user([str(self._bin / "postgres"), "-D", str(self._folder / "data"), *flags]),
            cwd=self._folder,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                psycopg.connect(self._conninfo(), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        """A fast shutdown: sessions are ended, nothing committed is lost."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """kill -9 of the main process; its children notice."""
        self._end(signal.SIGKILL)

    def remove(self) -> None:
        """Stop and delete everything."""
        self._end(signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def _conninfo(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=runstream dbname=postgres"

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            self._as_server_user([str(self._bin / program), *arguments]),
            cwd=self._folder,
            check=True,
            capture_output=True,
        )

    @staticmethod
    def _as_server_user(command: list[str]) -> list[str]:
        """PostgreSQL refuses to run as root."""
        if os.geteuid() != 0:
            return command
        user = pwd.getpwnam(_server_user())
        return [
            *("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"),
            *command,
        ]


def _server_user() -> str:
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return "nobody"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A running server, removed at the end."""
    server = Postgres.create()
    try:
        server.start()
        yield server
    finally:
        server.remove()
