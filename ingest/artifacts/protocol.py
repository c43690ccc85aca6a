"""An artifact store, as the gateway sees it.

Paths are canonical (``runstream.ingest.artifacts.paths``) and relative to the store's root. Every implementation passes
``tests/contracts/test_artifact_store.py``.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Bounds of one store. ``stall_s`` is how long the store may make no progress before it counts as away;
    ``public_endpoint`` replaces an S3 endpoint's address in what clients get, if they see it under another one."""

    stall_s: float = 60.0
    part_bytes: int = 6 << 20
    parts_under_way: int = 2
    direct: bool = True
    public_endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One stored object; ``etag`` is quoted, as HTTP wants it."""

    size: int
    etag: str | None
    modified: datetime


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a listing; ``size`` is 0 for directories."""

    name: str
    is_dir: bool
    size: int


@dataclass(frozen=True, slots=True)
class UploadedPart:
    """A part that a client has sent to the store by itself."""

    number: int
    etag: str
    url: str


class Reader(Protocol):
    """One object, open for reading: what was opened is what is read, also if the path is overwritten meanwhile."""

    @property
    def info(self) -> ObjectInfo:
        """What the store says of the object."""
        ...

    def read(self, start: int, end: int) -> AsyncIterator[bytes | memoryview]:
        """Bytes ``start`` (included) to ``end`` (excluded), in blocks of at most about 1 MiB. Nothing is read ahead
        of the consumer beyond a few blocks. Raises ``StoreUnavailableError`` if the store fails or stalls."""
        ...


class ArtifactStore(Protocol):
    """Objects under one root. Belongs to one event loop. Every method raises ``ArtifactError``s only."""

    @property
    def scheme(self) -> str:
        """``file``, ``memory``, ``s3``, ``gs`` or ``az``."""
        ...

    @property
    def takes_parts(self) -> bool:
        """Whether clients can upload parts straight to the store (S3's multipart uploads)."""
        ...

    @property
    def signs_downloads(self) -> bool:
        """Whether clients can download straight from the store by a signed address."""
        ...

    async def stat(self, path: str) -> ObjectInfo:
        """One object. Raises ``NoSuchArtifactError``, or ``NotAFileError`` for a directory."""
        ...

    def open(self, path: str) -> AbstractAsyncContextManager[Reader]:
        """Open an object for reading; raises as ``stat``."""
        ...

    async def entries(self, path: str, *, max_entries: int) -> list[Entry]:
        """What lies directly below a directory, sorted by name; empty for a file and for what does not exist.
        Raises ``ArtifactTooLargeError`` beyond ``max_entries``."""
        ...

    async def count(self, path: str, limit: int) -> int:
        """Objects below a directory at any depth; stops counting at ``limit``."""
        ...

    async def put(self, path: str, blocks: AsyncIterable[bytes], *, size: int | None) -> None:
        """Store an object, replacing what was there. Nothing is visible at ``path`` before the last byte is stored;
        if ``blocks`` raises (or the store fails) nothing of the upload remains, and that error is raised.
        ``size`` is the announced length, or ``None``; memory stays bounded by ``upload_bytes(size)``."""
        ...

    def upload_bytes(self, size: int | None) -> int:
        """The most memory that an upload of this length occupies; never blocks."""
        ...

    async def delete(self, path: str) -> None:
        """Delete an object, or a directory with all that is below. Nothing there is fine."""
        ...

    async def sign_download(self, path: str, *, expires_s: int) -> tuple[str, int]:
        """A signed address and the object's size. Raises ``UnsupportedError``, and as ``stat``."""
        ...

    async def create_parts(self, path: str, count: int) -> tuple[str, list[str]]:
        """Begin a multipart upload: its id, and a signed address for each part. Raises ``UnsupportedError``."""
        ...

    async def complete_parts(self, path: str, upload_id: str, parts: Sequence[UploadedPart]) -> None:
        """Make the parts one visible object."""
        ...

    async def abort_parts(self, path: str, upload_id: str) -> None:
        """Drop a multipart upload."""
        ...

    async def close(self) -> None:
        """Wait, with a bound, until uploads that failed have been cleared away; release everything."""
        ...
