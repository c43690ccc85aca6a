"""What an import has done, in a file of its own: so that it goes on where it was killed, and does nothing twice."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from pathlib import Path
from typing import NamedTuple

from runstream.schemas.errors import ConfigError


class Done(NamedTuple):
    """A run that has been imported, and what was counted."""

    version: str
    series: int
    points: int
    nans: int
    artifacts: int


def default_path(source: str, server: str) -> Path:
    """Where the ledger of this import lies: the same for the same source and server, outside of both."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    name = hashlib.blake2b(f"{source}\0{server}".encode(), digest_size=8).hexdigest()
    return state / "runstream" / f"import-{name}.db"


class Ledger:
    """One file of SQLite; a line is durable when ``note`` returns. It may be removed: then all is done again."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS runs (run_id TEXT PRIMARY KEY, version TEXT, series INT, points INT,"
                " nans INT, artifacts INT)"
            )
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"the ledger {path} cannot be used: {error}; name another with --ledger"
            ) from error

    def done(self, run_id: str) -> Done | None:
        """What is noted of the run."""
        row = self._db.execute(
            "SELECT version, series, points, nans, artifacts FROM runs WHERE run_id = ?", (run_id,)
        ).fetchone()
        return Done(*row) if row else None

    def note(self, run_id: str, done: Done) -> None:
        """Note that the run is there."""
        self._db.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?)", (run_id, *done))

    def close(self) -> None:
        """Close the file."""
        self._db.close()
