"""The data folder of the embedded set: its layout, and the lock that gives it to one server at a time."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import time
from pathlib import Path
from urllib.parse import quote

from runstream.schemas.errors import ConfigError

_MEMORY = Path("/dev/shm")


class DataDir:
    """Paths of ``runstream serve``, below its folder. ``run``, once claimed, is in memory where that can be had: its
    files are mapped by the processes, and a mapped write to a full disk ends a process instead of failing."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.log = self.root / "log"
        self.clickhouse = self.root / "clickhouse"
        self.metadata = self.root / "mlflow.db"
        self.artifacts = self.root / "artifacts"
        self.run = self.root / "run"
        self._lock: int | None = None

    # The settings that lead to these places. A path may hold any character, and a URL may not, so this is the one
    # place that makes them.

    @property
    def queue_url(self) -> str:
        """``RUNSTREAM_QUEUE``."""
        return f"local://{quote(str(self.log))}"

    @property
    def clickhouse_url(self) -> str:
        """``RUNSTREAM_CLICKHOUSE``."""
        return f"chdb://{quote(str(self.clickhouse))}"

    @property
    def metadata_url(self) -> str:
        """``RUNSTREAM_METADATA``."""
        from sqlalchemy import make_url

        # As little quoted as SQLAlchemy allows: MLflow makes the folder above what follows the slashes, unquoted.
        plain = f"sqlite:///{self.metadata}"
        return plain if make_url(plain).database == str(self.metadata) else plain.replace("%", "%25")

    @property
    def artifacts_url(self) -> str:
        """``RUNSTREAM_ARTIFACTS``."""
        return self.artifacts.as_uri()

    def claim(self, *, wait_s: float = 5.0) -> None:
        """Make the folder and lock it; the lock ends with this process, however it ends.

        Waits a little for a server that is just going away. Raises ``ConfigError`` if the folder cannot be
        written or belongs to a server that runs.
        """
        if "?" in str(self.root):
            # chDB itself takes what follows for its settings, and offers no way to write it otherwise.
            raise ConfigError(
                f"the data folder {self.root} has a question mark in its path, which chDB cannot open;"
                " choose another with --data-dir"
            )
        try:
            self.root.parent.mkdir(parents=True, exist_ok=True)
            for folder in (self.root, self.log, self.clickhouse, self.artifacts):
                # For this user alone: whoever reads files asks nobody for permission. A folder that is there already
                # is as its owner wants it.
                folder.mkdir(mode=0o700, exist_ok=True)
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
        in_memory = _in_memory(self.root)
        if in_memory is not None:
            self.run = in_memory
        try:
            self.run.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot write to the data folder {self.root}: {error.strerror}") from error
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except OSError:
            pass  # a full disk: the lock holds, only the name of its owner is missing

    def release(self) -> None:
        """Give the memory of ``run`` back; for the end of a server."""
        if self.run.parent == _MEMORY:
            shutil.rmtree(self.run, ignore_errors=True)

    def clear_run(self) -> None:
        """Forget counters and other leftovers of the processes of an earlier server."""
        for leftover in self.run.iterdir():
            if leftover.is_file():
                leftover.unlink(missing_ok=True)


def _in_memory(root: Path) -> Path | None:
    """A folder in memory for this data folder's server, or ``None``; the same after a crash, to be found again."""
    name = hashlib.blake2b(str(root).encode(errors="surrogateescape"), digest_size=8).hexdigest()
    folder = _MEMORY / f"runstream-{os.getuid()}-{name}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
    except OSError:
        return None
    # Everybody may make files there: take only what is ours.
    return folder if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() else None
