"""A throwaway PostgreSQL cluster with the distribution's own settings (fsync and synchronous_commit on)."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Any


def find_postgres() -> Path | None:
    """The newest installed server's ``bin`` folder, or ``None``."""
    candidates = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3])
    )
    if candidates:
        return candidates[-1].parent
    found = shutil.which("postgres")
    return Path(found).parent if found else None


class PostgresCluster:
    """``start`` blocks until it answers. Listens on loopback only; run as ``postgres`` when we are root."""

    def __init__(self, folder: Path, port: int) -> None:
        bin_folder = find_postgres()
        if bin_folder is None:
            raise FileNotFoundError("no PostgreSQL server is installed")
        self._bin = bin_folder
        self._folder = folder
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **self._identity())

    def _identity(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        account = pwd.getpwnam("postgres")
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def start(self) -> None:
        self._folder.mkdir(parents=True)
        if os.geteuid() == 0:
            shutil.chown(self._folder, "postgres", "postgres")
        data = self._folder / "data"
        self._run(
            str(self._bin / "initdb"),
            "-D",
            str(data),
            "-A",
            "trust",
            "-U",
            "bench",
            "-E",
            "UTF8",
            "--locale=C",
        )
        log = (self._folder / "log").open("wb")
        command = [str(self._bin / "postgres"), "-D", str(data), "-p", str(self.port), "-h", "127.0.0.1"]
        self.process = subprocess.Popen(
            [*command, "-k", str(self._folder)], stdout=log, stderr=log, cwd="/", **self._identity()
        )
        ready = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "30"]
        for _ in range(100):
            if subprocess.run(ready, check=False).returncode == 0:
                break
        create = [
            str(self._bin / "createdb"),
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-U",
            "bench",
            "bench",
        ]
        self._run(*create)

    def uri(self, scheme: str = "postgresql") -> str:
        return f"{scheme}://bench@127.0.0.1:{self.port}/bench"

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(2)  # SIGINT: "fast" shutdown
            self.process.wait(60)

    def ask(self, sql: str) -> int:
        """One number from the database."""
        import psycopg

        with psycopg.connect(self.uri()) as connection:
            row = connection.execute(sql.encode()).fetchone()
        assert row is not None
        return int(row[0])
