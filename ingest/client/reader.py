"""Reading spool files, also while they are being written, and remembering how far they have been delivered.

How far is a file of its own beside the spool's (``….ack-WHO``), with a MARK frame for each step: every sender
appends to its own, and a reader takes the furthest mark of all. Nothing is locked or renamed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runstream.ingest.client import process
from runstream.ingest.client.spool import SUFFIX
from runstream.schemas import frame
from runstream.schemas.errors import BadRecordError
from runstream.schemas.frame import Frame

if TYPE_CHECKING:
    from typing import Self  # of Python 3.11

# Small, so that a sender's thread never holds Python's lock for long beside a training.
_READ_BYTES = 1 << 20
_MOST_READ_BYTES = 2 * frame.MAX_PAYLOAD_BYTES


@dataclass
class Piece:
    """Some frames of a file, and where reading goes on when they have been delivered."""

    buffer: bytes
    frames: list[Frame]
    start: int
    end: int


@dataclass
class SpoolFile:
    """One file of a spool. ``about`` is its first frame, ``names`` its dictionary as far as it was read, ``ended``
    whether its writer has closed it, ``skipped`` how many damaged bytes were passed over."""

    path: Path
    about: dict[str, Any] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    ended: bool = False
    skipped: int = 0
    cursor: int = 0
    trusted: bool = False

    @classmethod
    def open(cls, path: Path) -> Self | None:
        """A file to be delivered from its furthest mark on; ``None`` if there is no whole first frame (yet)."""
        found = cls(path)
        piece = found.read(0, _READ_BYTES)
        if not found.about:
            return None
        mark = furthest_mark(path)
        if mark:
            # The dictionary lies before the mark.
            while piece is not None and piece.end < mark:
                piece = found.read(piece.end, _READ_BYTES)
        found.cursor = mark
        return found

    @property
    def run_id(self) -> str:
        return str(self.about["run_id"])

    @property
    def uri(self) -> str:
        return str(self.about.get("uri", ""))

    def size(self) -> int:
        """Bytes in it now; 0 when it is gone."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def done(self) -> bool:
        """Whether nothing is left, and nothing will follow."""
        return self.cursor >= self.size() and self.finished()

    def finished(self) -> bool:
        """Whether its writer has closed it, or is known to be dead."""
        return self.ended or process.lives(self.about) is False

    def read(self, start: int, limit: int = _READ_BYTES) -> Piece | None:
        """The frames from ``start`` on, at most about ``limit`` bytes; ``None`` if there is no whole one.

        Raises ``BadRecordError`` for a newer format, ``OSError`` for what the disk says.
        """
        while True:
            with self.path.open("rb") as file:
                file.seek(start)
                buffer = file.read(limit)
            whole = len(buffer) < limit
            found = frame.scan(buffer, final=whole and self.finished(), trusted=self.trusted)
            if found.end or whole:
                break
            if limit >= _MOST_READ_BYTES:
                raise BadRecordError(f"{self.path.name} has a frame larger than may be")
            limit *= 2
        if not found.end:
            return None
        self.skipped += found.skipped
        for one in found.frames:
            if one.kind == frame.NAMES:
                self.names.update(frame.decode_names(buffer, one))
            elif one.kind == frame.FILE and not self.about:
                self.about = frame.decode_json(buffer, one)
                self.about.setdefault("run_id", self.path.parent.name)
            elif one.kind == frame.END:
                self.ended = True
        return Piece(buffer, found.frames, start, start + found.end)

    def mark(self, offset: int) -> None:
        """Remember that everything before ``offset`` has been delivered."""
        self.cursor = offset
        name = f"{self.path.name}.ack-{process.host()}-{os.getpid()}"
        try:
            with self.path.with_name(name).open("ab", buffering=0) as file:
                file.write(frame.encode_json(frame.MARK, {"offset": offset}))
        except OSError:
            # It will be delivered once more, which changes nothing.
            pass

    def remove(self) -> None:
        """Delete it with its marks, the marks last: without the file they mean nothing."""
        for path in [self.path, *marks_of(self.path)]:
            try:
                path.unlink()
            except OSError:
                pass


def marks_of(path: Path) -> list[Path]:
    """The files with marks of this one."""
    return list(path.parent.glob(f"{path.name}.ack-*"))


def furthest_mark(path: Path) -> int:
    """How far the file has been delivered, by whomever."""
    most = 0
    for marks in marks_of(path):
        try:
            data = marks.read_bytes()
        except OSError:
            continue
        for one in reversed(frame.scan(data).frames):
            if one.kind == frame.MARK:
                most = max(most, int(frame.decode_json(data, one).get("offset", 0)))
                break
    return most


def spool_files(spool: Path, run_id_folder: Path | None = None) -> Iterator[Path]:
    """All files of a spool (or of one run), the oldest first."""
    found = (run_id_folder or spool).glob(f"*{SUFFIX}" if run_id_folder else f"runs/*/*{SUFFIX}")
    dated = []
    for path in found:
        try:
            dated.append((path.stat().st_mtime_ns, path))
        except OSError:
            pass
    # By name within a run: one process's parts are numbered.
    yield from (path for _, path in sorted(dated, key=lambda pair: (str(pair[1].parent), str(pair[1]))))
