"""The data folder of the embedded set: its layout, and the lock that gives it to one server at a time."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from schemas.errors import ConfigError


class DataDir:
    """Paths below the folder of ``runstream serve``."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.log = self.root / "log"
        self.clickhouse = self.root / "clickhouse"
        self.metadata = self.root / "mlflow.db"
        self.artifacts = self.root / "artifacts"
        self.run = self.root / "run"
        self._lock: int | None = None

    def claim(self, *, wait_s: float = 5.0) -> None:
        """Make the folder and lock it; the lock ends with this process, however it ends.

        Waits a little for a server that is just going away. Raises ``ConfigError`` if the folder cannot be
        written or belongs to a server that runs.
        """
        try:
            for folder in (self.root, self.log, self.clickhouse, self.artifacts, self.run):
                folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.root / "LOCK", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot write to the data folder {self.root}: {error.strerror}") from error
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                    os.close(descriptor)
                    raise ConfigError(
                        f"the data folder {self.root} is in use by another server (process {owner});"
                        " stop it or choose another with --data-dir"
                    ) from None
                time.sleep(0.1)
        self._lock = descriptor
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except OSError:
            pass  # a full disk: the lock holds, only the name of its owner is missing

    def clear_run(self) -> None:
        """Forget counters and other leftovers of the processes of an earlier server."""
        for leftover in self.run.iterdir():
            if leftover.is_file():
                leftover.unlink(missing_ok=True)
