"""What lies in a log folder, and the small operations on it that must survive a crash.

::

    LOG/consumer.lock                            held by the one consumer
    LOG/stream-00000/producer.lock               held by the producer of stream 0
    LOG/stream-00000/committed                   what the consumer has applied
    LOG/stream-00000/00000000000000000000.log    a segment, named by the offset of its first byte
    LOG/dead-letters/00000000000000000000.log    the same, for records that cannot be applied

An offset is a byte position in the stream. Offsets are never used twice: after a failure or a restart a new
segment begins at or after everything that anybody can have read, so gaps between segments are normal.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

from runstream.schemas.errors import ConfigError

logger = logging.getLogger(__name__)

DEAD_LETTERS = "dead-letters"
CONSUMER_LOCK = "consumer.lock"
PRODUCER_LOCK = "producer.lock"
COMMITTED = "committed"

_STREAM_PREFIX = "stream-"
_SEGMENT_SUFFIX = ".log"
# Not offered by this system, or refused by the kernel beneath it (gVisor, old ones): a fact about the machine, learnt
# once.
_DSYNC: int | None = getattr(os, "RWF_DSYNC", None)
_REFUSALS = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
# No stream gets so far; a file whose name says so is no segment.
_MAX_OFFSET = 1 << 62


def stream_dir(log: Path, stream: int) -> Path:
    """The folder of one stream."""
    return log / f"{_STREAM_PREFIX}{stream:05d}"


def list_streams(log: Path) -> list[int]:
    """The numbers of the streams that exist, ascending."""
    found = []
    for name in os.listdir(log):  # noqa: PTH208, no Path objects: this runs all the time
        if name.startswith(_STREAM_PREFIX) and name[len(_STREAM_PREFIX) :].isdigit():
            found.append(int(name[len(_STREAM_PREFIX) :]))
    return sorted(found)


def segment_name(base: int) -> str:
    """The file name of the segment whose first byte is at offset ``base``."""
    return f"{base:020d}{_SEGMENT_SUFFIX}"


def list_segments(directory: Path) -> list[int]:
    """The base offsets of the segments in a folder, ascending."""
    found = []
    for name in os.listdir(directory):  # noqa: PTH208
        base = name[: -len(_SEGMENT_SUFFIX)]
        if (
            name.endswith(_SEGMENT_SUFFIX)
            and len(base) == 20
            and base.isdecimal()
            and int(base) < _MAX_OFFSET
        ):
            found.append(int(base))
    return sorted(found)


def is_deleted(fd: int) -> bool:
    """Whether an open file has lost its name: what is written to it is gone when it is closed. About a microsecond."""
    return os.fstat(fd).st_nlink == 0


def make_dir(path: Path) -> None:
    """Create a folder of the log, durably. Raises ``ConfigError`` if it cannot be used."""
    try:
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            sync_dir(path.parent)
    except OSError as error:
        raise ConfigError(f"cannot create the log folder {path}: {error.strerror}") from error
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"the log folder {path} is not writable")


def sync_dir(path: Path) -> None:
    """Make the entries of a folder durable: names of files created or removed there."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def lock_file(path: Path) -> int | None:
    """Take the lock ``path`` and return its descriptor; closing that releases it, as does the end of the
    process. ``None`` if somebody else holds it. Raises ``ConfigError`` if the file cannot be opened."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigError(f"cannot open the lock {path}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise ConfigError(f"cannot lock {path}: {error.strerror}") from error
    return fd


def write_durably(fd: int, buffers: Sequence[bytes], at: int) -> None:
    """Write the buffers at file position ``at`` and return when they are on the disk. Blocks.

    ``RWF_DSYNC`` makes it one system call, so one hand-over of the GIL. Raises ``OSError``, also when somebody has
    deleted the file beneath us; then any part of it may have been written.
    """
    global _DSYNC
    left = list(buffers)
    in_one = _DSYNC is not None
    while left:
        try:
            written = os.pwritev(fd, left, at) if _DSYNC is None else os.pwritev(fd, left, at, _DSYNC)
        except OSError as error:
            if _DSYNC is None or error.errno not in _REFUSALS:
                raise
            logger.warning("writes with RWF_DSYNC are refused (%s): syncing apart", error.strerror)
            _DSYNC = None
            in_one = False
            continue
        if written == 0 and any(left):
            raise OSError(errno.EIO, "the disk took no bytes")
        at += written
        while left and written >= len(left[0]):
            written -= len(left[0])
            del left[0]
        if left:
            left[0] = left[0][written:]
    if not in_one:
        _datasync(fd)
    if is_deleted(fd):
        raise OSError(errno.ESTALE, "somebody has deleted the log's files")


def _datasync(fd: int) -> None:
    # Both make the file's new length durable too.
    os.fdatasync(fd) if hasattr(os, "fdatasync") else os.fsync(fd)


class CommitFile:
    """The committed offset of one stream, in a file that is overwritten in place.

    Two slots are written in turn, each with a sequence number and a checksum, so that a crash leaves one of
    them whole. Unlike writing a new file and renaming it, this needs no disk space: when the log itself has
    filled the disk, committing, which makes consumed segments removable, still works.
    """

    _SLOT = struct.Struct("<QQI")
    _SLOT_BYTES = 512

    def __init__(self, directory: Path) -> None:
        self._path = directory / COMMITTED
        self._sequence = 0
        self._fd: int | None = None
        self._reserved = False

    def read(self) -> int | None:
        """The committed offset; ``None`` if there is none, or none that is whole."""
        self._check()
        if self._fd is None:
            try:
                self._fd = os.open(self._path, os.O_RDWR)
            except FileNotFoundError:
                return None
        data = os.pread(self._fd, 2 * self._SLOT_BYTES, 0)
        best: int | None = None
        for at in (0, self._SLOT_BYTES):
            slot = data[at : at + self._SLOT.size]
            if len(slot) < self._SLOT.size:
                continue
            sequence, offset, checksum = self._SLOT.unpack(slot)
            if checksum == crc32(slot[:16]) and sequence > 0 and (best is None or sequence > self._sequence):
                best, self._sequence = offset, sequence
        return best

    def reserve(self) -> None:
        """Create the file with its space on the disk, without touching what it holds. Raises ``OSError``."""
        self._check()
        if self._fd is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        if not self._reserved:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._fd, 0, 2 * self._SLOT_BYTES)
            os.fsync(self._fd)
            sync_dir(self._path.parent)
            self._reserved = True

    def write(self, offset: int) -> None:
        """Store the offset durably. Blocks; raises ``OSError``. ``read`` must have been called before."""
        self.reserve()
        assert self._fd is not None
        sequence = self._sequence + 1
        slot = struct.pack("<QQ", sequence, offset)
        write_durably(self._fd, [slot + struct.pack("<I", crc32(slot))], sequence % 2 * self._SLOT_BYTES)
        self._sequence = sequence

    def _check(self) -> None:
        """Let go of a file that has been deleted: another will be in its place, or be made."""
        if self._fd is not None and is_deleted(self._fd):
            self.close()
            self._sequence = 0
            self._reserved = False

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
