"""Artifacts in a folder of this machine, laid out as MLflow's own server lays them out.

Uploads go through obstore into a temporary file beside the destination and are renamed. Reading, listing and
deleting use the operating system directly, because obstore's local store follows symbolic links out of the root,
reads 8 KiB at a time (30 times the CPU time of what is done here), and cannot list a folder that holds a name that
is not UTF-8.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import posixpath
import shutil
import stat
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from obstore.store import LocalStore

from runstream.ingest.artifacts import background
from runstream.ingest.artifacts.errors import (
    ArtifactError,
    ArtifactTooLargeError,
    InvalidPathError,
    NoSuchArtifactError,
    NotAFileError,
    StoreRefusedError,
    StoreUnavailableError,
    UnsupportedError,
)
from runstream.ingest.artifacts.failures import BELOW_A_FILE, NAME_TOO_LONG, NOT_A_FILE
from runstream.ingest.artifacts.paths import TEMPORARY_PREFIX
from runstream.ingest.artifacts.protocol import Entry, ObjectInfo, StoreOptions, UploadedPart
from runstream.ingest.artifacts.upload import BLOCK_BYTES, Uploader, joined

T = TypeVar("T")
# Uploads are written out in pieces of this size.
_PIECE_BYTES = 1 << 20
_OUTSIDE = "Invalid path: resolved path is outside the artifact directory"


class FolderStore:
    """An ``ArtifactStore`` in ``root``, which is made if it does not exist."""

    scheme = "file"
    takes_parts = False
    signs_downloads = False

    def __init__(self, root: Path, options: StoreOptions) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._root = root.resolve()
        self._options = options
        self._threads = background.threads()
        # One upload at a time gives its pages to the disk.
        self._disk = asyncio.Lock()
        self._uploads = Uploader(
            LocalStore(self._root),
            part_bytes=BLOCK_BYTES,
            unknown_part_bytes=BLOCK_BYTES,
            parts_under_way=options.parts_under_way,
            stall_s=options.stall_s,
        )

    async def stat(self, path: str) -> ObjectInfo:
        """See ``ArtifactStore.stat``."""
        return await self._call(lambda: _info(_regular(self._locate(path).stat(), path)), path)

    @contextlib.asynccontextmanager
    async def open(self, path: str) -> AsyncIterator[_FileReader]:
        """See ``ArtifactStore.open``."""
        reader = await self._call(lambda: self._open(path), path)
        try:
            yield reader
        finally:
            os.close(reader.descriptor)

    async def entries(self, path: str, *, max_entries: int) -> list[Entry]:
        """See ``ArtifactStore.entries``."""
        return await self._call(lambda: self._list(path, max_entries), path)

    async def count(self, path: str, limit: int) -> int:
        """See ``ArtifactStore.count``."""
        return await self._call(lambda: self._count(path, limit), path)

    async def put(self, path: str, blocks: AsyncIterable[bytes], *, size: int | None) -> None:
        """See ``ArtifactStore.put``."""
        target = await self._call(lambda: self._destination(path), path)
        temporary = target.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        key = temporary.relative_to(self._root).as_posix()

        async def clean(_: bool = True) -> None:
            await asyncio.shield(self._thread(lambda: self._clear(temporary)))

        await self._uploads.put(key, self._written_out(temporary, blocks), size=size, clean=clean)
        try:
            await self._call(lambda: _publish(temporary, target), path)
        except BaseException:
            await clean()
            raise

    async def _written_out(self, temporary: Path, blocks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """Passes blocks on, and has what is stored of them already written to the disk piece by piece: gigabytes
        in the page cache would hold up every small sync of the metrics' log, until they are on the disk."""
        staged: int | None = None
        passed = done = 0
        try:
            async for block in joined(blocks, _PIECE_BYTES):
                yield block
                passed += len(block)
                if staged is None:
                    # obstore's own name for a file that is not complete yet
                    with contextlib.suppress(OSError):
                        staged = os.open(f"{temporary}#1", os.O_WRONLY | os.O_CLOEXEC)
                if staged is not None and passed - done >= 2 * _PIECE_BYTES:
                    start, length = (
                        done,
                        passed - done - _PIECE_BYTES,
                    )  # the last piece may be on its way still
                    async with self._disk:
                        await self._thread(partial(background.write_out, staged, start, length))
                    done += length
        finally:
            if staged is not None:
                os.close(staged)

    def upload_bytes(self, size: int | None) -> int:
        """See ``ArtifactStore.upload_bytes``."""
        return self._uploads.memory(size)

    async def delete(self, path: str) -> None:
        """See ``ArtifactStore.delete``."""
        await self._call(lambda: self._delete(path), path)

    async def sign_download(self, path: str, *, expires_s: int) -> tuple[str, int]:
        """A folder cannot sign."""
        raise UnsupportedError("a folder does not sign addresses")

    async def create_parts(self, path: str, count: int) -> tuple[str, list[str]]:
        """A folder takes no parts."""
        raise UnsupportedError("a folder does not take parts")

    async def complete_parts(self, path: str, upload_id: str, parts: Sequence[UploadedPart]) -> None:
        """A folder takes no parts."""
        raise UnsupportedError("a folder does not take parts")

    async def abort_parts(self, path: str, upload_id: str) -> None:
        """A folder takes no parts."""
        raise UnsupportedError("a folder does not take parts")

    async def close(self) -> None:
        """See ``ArtifactStore.close``."""
        await self._uploads.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _call(self, work: Callable[[], T], path: str) -> T:
        try:
            async with asyncio.timeout(self._options.stall_s):
                return await self._thread(work)
        except TimeoutError as error:
            raise StoreUnavailableError("the artifact folder does not answer") from error
        except OSError as error:
            raise _meaning(error, path) from error

    def _thread(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _locate(self, path: str) -> Path:
        """The real place of a path: symbolic links are followed, but not out of the root."""
        real = Path(os.path.realpath(self._root / path))
        if real != self._root and self._root not in real.parents:
            raise InvalidPathError(_OUTSIDE)
        return real

    def _destination(self, path: str) -> Path:
        place = self._root / path
        parent = self._locate(posixpath.dirname(path))
        place = self._locate(path) if place.is_symlink() else parent / place.name
        if place.is_dir():
            raise NotAFileError(f"{NOT_A_FILE}: '{path}'")
        for above in place.parents:
            if above.exists():
                if not above.is_dir():
                    raise NotAFileError(BELOW_A_FILE)
                break
        return place

    def _open(self, path: str) -> _FileReader:
        # Without O_NONBLOCK, opening a named pipe would wait for its writer.
        descriptor = os.open(self._locate(path), os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
        try:
            info = _info(_regular(os.fstat(descriptor), path))
            return _FileReader(descriptor, info, self._threads, self._options.stall_s)
        except BaseException:
            os.close(descriptor)
            raise

    def _list(self, path: str, max_entries: int) -> list[Entry]:
        place = self._locate(path)
        if not place.is_dir():
            return []
        entries: list[Entry] = []
        with os.scandir(place) as found:
            for one in found:
                if one.name.startswith(TEMPORARY_PREFIX) or not _is_utf8(one.name):
                    continue
                if len(entries) >= max_entries:
                    raise ArtifactTooLargeError(f"the directory has more than {max_entries} entries")
                with contextlib.suppress(OSError):  # gone since, or a link to nothing or to itself
                    is_dir = one.is_dir()
                    entries.append(Entry(one.name, is_dir, 0 if is_dir else one.stat().st_size))
        return sorted(entries, key=lambda entry: entry.name)

    def _count(self, path: str, limit: int) -> int:
        number = 0
        for _, _, names in os.walk(self._locate(path)):
            number += sum(not name.startswith(TEMPORARY_PREFIX) for name in names)
            if number >= limit:
                return limit
        return number

    def _delete(self, path: str) -> None:
        if not path:
            raise InvalidPathError("Invalid path")
        place = self._locate(posixpath.dirname(path)) / posixpath.basename(path)
        with contextlib.suppress(FileNotFoundError):
            if place.is_symlink() or not place.is_dir():
                place.unlink()
            else:
                shutil.rmtree(place)

    def _clear(self, temporary: Path) -> None:
        """Take away what a failed upload left: its file, and folders that were made for it."""
        temporary.unlink(missing_ok=True)
        parent = temporary.parent
        with contextlib.suppress(OSError):
            while parent != self._root:
                parent.rmdir()
                parent = parent.parent


class _FileReader:
    """A ``Reader`` of one open file."""

    def __init__(
        self, descriptor: int, info: ObjectInfo, threads: ThreadPoolExecutor, stall_s: float
    ) -> None:
        self.descriptor = descriptor
        self.info = info
        self._threads = threads
        self._stall_s = stall_s

    async def read(self, start: int, end: int) -> AsyncIterator[bytes | memoryview]:
        loop = asyncio.get_running_loop()
        while start < end:
            length = min(BLOCK_BYTES, end - start)
            try:
                async with asyncio.timeout(self._stall_s):
                    block = await loop.run_in_executor(
                        self._threads, os.pread, self.descriptor, length, start
                    )
            except (OSError, TimeoutError) as error:
                raise StoreUnavailableError("the artifact folder failed to read") from error
            if not block:
                raise StoreUnavailableError("the artifact became shorter while it was read")
            yield block
            start += len(block)


def _publish(temporary: Path, target: Path) -> None:
    """Make an upload visible and durable: its bytes before its name."""
    descriptor = os.open(temporary, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _info(found: os.stat_result) -> ObjectInfo:
    etag = f'"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"'
    return ObjectInfo(found.st_size, etag, datetime.fromtimestamp(found.st_mtime, UTC))


def _regular(found: os.stat_result, path: str) -> os.stat_result:
    if stat.S_ISDIR(found.st_mode):
        raise NotAFileError(f"{NOT_A_FILE}: '{path}'")
    if not stat.S_ISREG(found.st_mode):
        raise NoSuchArtifactError(f"No such artifact: '{path}'")
    return found


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _meaning(error: OSError, path: str) -> ArtifactError:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return NoSuchArtifactError(f"No such artifact: '{path}'")
        case errno.EISDIR:
            return NotAFileError(f"{NOT_A_FILE}: '{path}'")
        case errno.ENAMETOOLONG:
            return InvalidPathError(NAME_TOO_LONG)
        case errno.ELOOP:
            return InvalidPathError(_OUTSIDE)
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return StoreRefusedError("the artifact folder is not accessible to the server")
        case errno.ENOSPC | errno.EDQUOT:
            return StoreUnavailableError("the artifact store is full")
    return StoreUnavailableError("the artifact folder failed")
