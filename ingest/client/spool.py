"""The spool: one append-only file for each process and run.

Every frame is one ``write`` with O_APPEND: threads need no lock for it, a killed process leaves at most its last
frame torn, and there is nothing to lock, rename or repair, so network file systems (NFS, Lustre, GPFS) are as good as
a local disk. What was written is in the page cache: it survives the process, and the machine too with ``sync``.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from runstream.ingest.client import process
from runstream.schemas import frame
from runstream.schemas.frame import points_encoder

SUFFIX = ".rsf"
# A file grows to about this, then the next one begins, so that what is delivered can be deleted.
PART_BYTES = 64 << 20
# Records that a full disk did not take and that are tried again; points are counted and given up.
_HELD_RECORDS = 1_000
# Descriptors of files that have been gone on from are closed after this long.
_RETIRED_S = 60.0
# Characters of a name in a warning.
_SHOWN = 100

_one = points_encoder(1)
# No name is used twice, also after its file was delivered and removed: marks, and whoever sent it, mean that one.
_numbers = itertools.count()


class _Part:
    """One file: its descriptor, and the dictionary that it has so far."""

    __slots__ = ("codes", "fd", "path", "retired_s", "size", "torn")

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.codes: dict[str, int] = {}
        self.size = 0
        self.torn = False
        self.retired_s = 0.0


class RunSpool:
    """What this process logs to one run. Thread-safe; never raises for what the disk or a caller does.

    ``complain`` gets a sentence for what could not be taken (each kind once). ``dropped`` counts points given up,
    ``points`` those taken (about: threads do not wait for one another to count).
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, Any],
        complain: Callable[[str, str], None],
        *,
        sync: bool = False,
        part_bytes: int = PART_BYTES,
        may_grow: Callable[[], bool] = lambda: True,
    ) -> None:
        self.folder = folder
        self.run_id = str(about["run_id"])
        self.points = 0
        self.dropped = 0
        self.closed = False
        self.closed_s = 0.0
        self.parts: list[_Part] = []
        self._about = dict(about)
        self._complain = complain
        self._sync = sync
        self._part_bytes = part_bytes
        self._may_grow = may_grow
        self._full = False
        self._held: list[bytes] = []
        self._steps: dict[str, int] = {}
        # Entered again by a signal handler that interrupts its own thread.
        self._lock = threading.RLock()
        self._part: _Part | None = None

    # --- points ------------------------------------------------------------------------------------------------

    def point(self, key: str, step: int, timestamp_ms: int, value: float) -> None:
        """Append one point."""
        part = self._part
        try:
            code = part.codes[key]  # type: ignore[union-attr]
            if os.write(part.fd, _one(step, timestamp_ms, value, code)) != 48:  # type: ignore[union-attr]
                self._short(part)  # type: ignore[arg-type]
                self.dropped += 1
                return
            part.size += 48  # type: ignore[union-attr]
            self.points += 1
        except Exception:  # a new key, a full disk, or a value with a conversion of its own that fails
            self.several([key], [step], [timestamp_ms], [value])
            return
        if part.size >= self._part_bytes or self._sync:  # type: ignore[union-attr]
            self._after(part)  # type: ignore[arg-type]

    def several(
        self, keys: list[str], steps: list[int], timestamps_ms: list[int], values: list[float]
    ) -> None:
        """Append points, given as columns of equal length; those that cannot be written at all are left out."""
        count = len(keys)
        if not count:
            return
        try:
            part = self._part or self._open()
            if self._full and not self._room():
                # A file that began with a full spool has no dictionary, so that every point comes by here.
                self.dropped += count
                return
            codes = part.codes
            try:
                coded = [codes[key] for key in keys]
            except KeyError:
                coded = self._name(part, keys)
            data = points_encoder(count)(*steps, *timestamps_ms, *values, *coded)
            self._write(part, data)
        except OSError as error:
            self.dropped += count
            self._complain("disk", f"points cannot be written to the spool and are lost: {error}")
        except Exception:  # whatever a key or a value of the caller's does when it is looked at
            self._one_by_one(keys, steps, timestamps_ms, values)
        else:
            self.points += count
            self._after(part)

    def next_step(self, key: str) -> int:
        """Steps by themselves: 0, 1, 2 … for each key."""
        with self._lock:
            step = self._steps[key] = self._steps.get(key, -1) + 1
            return step

    def _one_by_one(
        self, keys: list[str], steps: list[int], timestamps_ms: list[int], values: list[float]
    ) -> None:
        """One of these is no point; the others are."""
        if len(keys) > 1:
            for at in range(len(keys)):
                self.several(
                    keys[at : at + 1], steps[at : at + 1], timestamps_ms[at : at + 1], values[at : at + 1]
                )
            return
        name = type(keys[0]).__name__
        try:
            key = str(keys[0])
            name = repr(key[:_SHOWN])
            value = float(values[0])
            cleaned = ([key], [int(steps[0])], [int(timestamps_ms[0])], [value])
            points_encoder(1)(*cleaned[1], *cleaned[2], value, 0)
            frame.encode_names([(0, key)])
        except Exception as error:
            self.dropped += 1
            self._complain(f"point {name}", f"metric {name} is left out: {error}")
        else:
            self.several(*cleaned)

    # --- everything else ---------------------------------------------------------------------------------------

    def record(self, kind: int, value: Any) -> None:
        """Append one record (see ``runstream.schemas.frame``). One that the disk does not take waits in memory,
        bounded, and goes before the next one."""
        try:
            data = frame.encode_json(kind, value)
        except Exception as error:
            if kind in (frame.PARAMS, frame.TAGS) and len(value) > 1:
                # One of these is too long; the others are not.
                for name, text in value.items():
                    self.record(kind, {name: text})
                return
            what = f"record {kind} {next(iter(value), '')!s:.{_SHOWN}}"
            self._complain(what, f"{what} cannot be spooled and is left out: {error}")
            return
        with self._lock:
            self._held.append(data)
            if len(self._held) > _HELD_RECORDS:
                del self._held[0]
                self._complain("held", "records that the disk did not take are lost")
            try:
                part = self._part or self._open()
                while self._held:
                    self._write(part, self._held[0])
                    del self._held[0]
            except OSError as error:
                self._complain("disk", f"the spool cannot be written: {error}")
                return
        self._after(part)

    def close(self) -> None:
        """Say that nothing follows. Whatever is logged later begins another file."""
        with self._lock:
            part, self._part = self._part, None
            self.closed = True
            if part is not None:
                try:
                    self._write(part, frame.encode(frame.END, b""))
                    if self._sync:
                        os.fdatasync(part.fd)
                except OSError:
                    pass
                self._retire()

    def forget(self) -> None:
        """Let go of the files without writing a byte: in a forked child, or long after ``close``."""
        for part in self.parts:
            _close(part)
        self._part = None

    # --- files -------------------------------------------------------------------------------------------------

    def _open(self) -> _Part:
        with self._lock:
            if self._part is not None:
                return self._part
            about = {**self._about, **process.identity(), "part": len(self.parts)}
            self.folder.mkdir(parents=True, exist_ok=True)
            part = self._create(about)
            self.closed = False
            try:
                self._write(part, frame.encode_json(frame.FILE, about))
            except OSError:
                os.close(part.fd)
                raise
            self.parts.append(part)
            self._part = part
            self._full = not self._may_grow()
            return part

    def _create(self, about: Mapping[str, Any]) -> _Part:
        stem = f"{quote(about['host'], safe='')}-{about['boot']}-{about['pid']}-{about['started']}"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        while True:
            path = self.folder / f"{stem}-{next(_numbers):05d}{SUFFIX}"
            try:
                return _Part(path, os.open(path, flags, 0o644))
            except FileExistsError:
                pass

    def _name(self, part: _Part, keys: Iterable[str]) -> list[int]:
        """Codes of names, new ones written down first: who reads a point has read its name."""
        with self._lock:
            codes = part.codes
            new = [key for key in dict.fromkeys(keys) if key not in codes]
            if not all(isinstance(key, str) for key in new):
                raise TypeError("a metric's name is a string")
            pairs = list(zip(range(len(codes), len(codes) + len(new)), new, strict=True))
            for at in range(0, len(pairs), 1_000):
                self._write(part, frame.encode_names(pairs[at : at + 1_000]))
                codes.update((name, code) for code, name in pairs[at : at + 1_000])
            return [codes[key] for key in keys]

    def _write(self, part: _Part, data: bytes) -> None:
        written = os.write(part.fd, data)
        if written != len(data):
            self._short(part)
            raise OSError("the disk took only a part of it")
        part.size += written

    def _short(self, part: _Part) -> None:
        part.torn = True
        self._complain("disk", "the disk took only a part of what was logged; it is probably full")

    def _after(self, part: _Part) -> None:
        """What has to be done now and then, away from the hot path."""
        if self._sync:
            try:
                os.fdatasync(part.fd)
            except OSError as error:
                self._complain("sync", f"the spool cannot be synced to disk: {error}")
        if part.size < self._part_bytes:
            return
        with self._lock:
            if self._part is not part:
                return
            try:
                self._part = None
                self._open()
            except OSError as error:
                self._part = part
                self._complain("disk", f"the spool cannot begin another file: {error}")
                return
            try:
                self._write(part, frame.encode(frame.END, b""))
            except OSError:
                pass
            self._retire()

    def _retire(self) -> None:
        """Close descriptors that have long been out of use: a thread that was held up in between may still write to
        one, and its number must not have come to mean another file."""
        now = time.monotonic()
        for old in self.parts:
            if old is self._part:
                continue
            if not old.retired_s:
                old.retired_s = now
            elif now - old.retired_s > _RETIRED_S:
                _close(old)

    def _room(self) -> bool:
        self._full = not self._may_grow()
        if self._full:
            self._complain(
                "full", "the spool is as large as it may be (RUNSTREAM_SPOOL_MAX_BYTES); points are lost"
            )
        return not self._full


def _close(part: _Part) -> None:
    fd, part.fd = part.fd, -1
    if fd >= 0:
        try:
            os.close(fd)
        except OSError:
            pass


def run_folder(spool: Path, run_id: str) -> Path:
    """Where a run's files are."""
    return spool / "runs" / quote(run_id, safe="")


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
