"""Artifacts in an object store: S3 and what speaks its language, Google Cloud Storage, Azure Blob, or memory."""

from __future__ import annotations

import asyncio
import contextlib
import mimetypes
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import obstore

from runstream.ingest.artifacts.errors import (
    ArtifactTooLargeError,
    InvalidPathError,
    NoSuchArtifactError,
    NotAFileError,
    StoreUnavailableError,
    UnsupportedError,
)
from runstream.ingest.artifacts.failures import NOT_A_FILE, translate
from runstream.ingest.artifacts.protocol import Entry, ObjectInfo, StoreOptions, UploadedPart
from runstream.ingest.artifacts.s3.parts import S3Parts
from runstream.ingest.artifacts.upload import BLOCK_BYTES, Uploader

T = TypeVar("T")
# One request per this many bytes of a download: a slow client then never holds a request for hours, which stores end.
_READ_BYTES = 64 << 20
_READ_ATTEMPTS = 3
_DELETE_BATCH = 1000
# A body of unknown length gets larger parts, to be able to grow to 320 GB in 10,000 of them.
_UNKNOWN_PART_BYTES = 32 << 20
_PROBE_EXPIRY = timedelta(minutes=1)


class BucketStore:
    """An ``ArtifactStore`` on an obstore store whose prefix is the root. ``parts`` signs for S3, if it can.

    ``labels`` says whether the store keeps content types.
    """

    def __init__(
        self,
        scheme: str,
        store: Any,
        options: StoreOptions,
        *,
        parts: S3Parts | None = None,
        labels: bool = True,
        signs: bool = False,
    ) -> None:
        self._scheme = scheme
        self._store = store
        self._options = options
        self._parts = parts if options.direct else None
        self._signs = signs and options.direct
        self._labels = labels
        self._uploads = Uploader(
            store,
            part_bytes=options.part_bytes,
            unknown_part_bytes=max(options.part_bytes, _UNKNOWN_PART_BYTES),
            parts_under_way=options.parts_under_way,
            stall_s=options.stall_s,
        )

    @property
    def scheme(self) -> str:
        """See ``ArtifactStore.scheme``."""
        return self._scheme

    @property
    def takes_parts(self) -> bool:
        """See ``ArtifactStore.takes_parts``."""
        return self._parts is not None

    @property
    def signs_downloads(self) -> bool:
        """See ``ArtifactStore.signs_downloads``."""
        return self._parts is not None or self._signs

    async def stat(self, path: str) -> ObjectInfo:
        """See ``ArtifactStore.stat``."""
        if not path:
            raise NotAFileError(f"{NOT_A_FILE}: ''")
        try:
            return _info(await self._call(obstore.head_async(self._store, path), "look up an object"))
        except NoSuchArtifactError:
            raise await self._absence(path) from None

    @contextlib.asynccontextmanager
    async def open(self, path: str) -> AsyncIterator[_ObjectReader]:
        """See ``ArtifactStore.open``."""
        yield _ObjectReader(self, path, await self.stat(path))

    async def entries(self, path: str, *, max_entries: int) -> list[Entry]:
        """See ``ArtifactStore.entries``."""
        found = await self._call(
            obstore.list_with_delimiter_async(self._store, path or None), "list a directory"
        )
        if len(found["common_prefixes"]) + len(found["objects"]) > max_entries:
            raise ArtifactTooLargeError(f"the directory has more than {max_entries} entries")
        entries = {
            name: Entry(name, True, 0)
            for name in (prefix.rstrip("/").rpartition("/")[2] for prefix in found["common_prefixes"])
            if name
        }
        for one in found["objects"]:
            name = one["path"].rpartition("/")[2]
            if (
                one["path"] != path and name
            ):  # some tools mark directories with an empty object of the same name
                entries.setdefault(name, Entry(name, False, one["size"]))
        return sorted(entries.values(), key=lambda entry: entry.name)

    async def count(self, path: str, limit: int) -> int:
        """See ``ArtifactStore.count``."""
        number = 0
        async for batch in self._walk(path):
            number += len(batch)
            if number >= limit:
                return limit
        return number

    async def put(self, path: str, blocks: AsyncIterable[bytes], *, size: int | None) -> None:
        """See ``ArtifactStore.put``."""
        if not path:
            raise NotAFileError(f"{NOT_A_FILE}: ''")
        began = time.time()
        ended: float | None = None

        async def clean(aborted: bool) -> None:
            if self._parts is not None and not aborted:
                await self._parts.abort_unfinished(path, since=began, until=ended or time.time())

        # Only the type: with a Content-Encoding, HTTP clients would unpack what was logged packed.
        kind, _ = mimetypes.guess_type(path)
        attributes = {"Content-Type": kind or "application/octet-stream"} if self._labels else None
        try:
            await self._uploads.put(path, blocks, size=size, attributes=attributes, clean=clean)
        finally:
            ended = time.time()

    def upload_bytes(self, size: int | None) -> int:
        """See ``ArtifactStore.upload_bytes``."""
        return self._uploads.memory(size)

    async def delete(self, path: str) -> None:
        """See ``ArtifactStore.delete``."""
        if not path:
            raise InvalidPathError("Invalid path")
        with contextlib.suppress(NoSuchArtifactError):
            await self._call(obstore.delete_async(self._store, path), "delete an object")
        async for batch in self._walk(path):
            with contextlib.suppress(NoSuchArtifactError):
                await self._call(obstore.delete_async(self._store, batch), "delete objects")

    async def sign_download(self, path: str, *, expires_s: int) -> tuple[str, int]:
        """See ``ArtifactStore.sign_download``."""
        if not self.signs_downloads:
            raise UnsupportedError("this store does not sign addresses")
        info = await self.stat(path)
        if self._parts is not None:
            return await self._parts.sign_download(path, expires_s=expires_s), info.size
        signing = obstore.sign_async(self._store, "GET", path, timedelta(seconds=expires_s))
        return await self._call(signing, "sign an address"), info.size

    async def create_parts(self, path: str, count: int) -> tuple[str, list[str]]:
        """See ``ArtifactStore.create_parts``."""
        return await self._parts_or_refuse().create(path, count)

    async def complete_parts(self, path: str, upload_id: str, parts: Sequence[UploadedPart]) -> None:
        """See ``ArtifactStore.complete_parts``."""
        await self._parts_or_refuse().complete(path, upload_id, parts)

    async def abort_parts(self, path: str, upload_id: str) -> None:
        """See ``ArtifactStore.abort_parts``."""
        await self._parts_or_refuse().abort(path, upload_id)

    async def close(self) -> None:
        """See ``ArtifactStore.close``."""
        await self._uploads.close()
        if self._parts is not None:
            await self._parts.close()

    def _parts_or_refuse(self) -> S3Parts:
        if self._parts is None:
            raise UnsupportedError("this store does not take parts")
        return self._parts

    async def _absence(self, path: str) -> NoSuchArtifactError | NotAFileError:
        async for batch in self._walk(path):
            if batch:
                return NotAFileError(f"{NOT_A_FILE}: '{path}'")
        return NoSuchArtifactError(f"No such artifact: '{path}'")

    async def _walk(self, path: str) -> AsyncIterator[list[str]]:
        """Keys below a directory, in batches."""
        stream = obstore.list(self._store, path or None, chunk_size=_DELETE_BATCH)
        while True:
            batch = await self._call(_next(stream), "list objects")
            if batch is None:
                return
            yield [one["path"] for one in batch]

    async def _call(self, work: Awaitable[T], doing: str) -> T:
        try:
            async with asyncio.timeout(self._options.stall_s):
                return await work
        except TimeoutError as error:
            raise StoreUnavailableError(f"the artifact store did not {doing} in time") from error
        except Exception as error:
            raise translate(error, doing) from error

    async def _stream(self, path: str, etag: str | None, start: int, end: int) -> AsyncIterator[memoryview]:
        """One request's worth of an object."""
        options: Any = {"range": (start, end)}
        if etag is not None and not etag.startswith("W/"):
            options["if_match"] = etag
        result = await self._call(obstore.get_async(self._store, path, options=options), "read an object")
        stream = result.stream(min_chunk_size=BLOCK_BYTES // 4)
        while True:
            block = await self._call(_next(stream), "read an object")
            if block is None:
                return
            yield memoryview(block)


class _ObjectReader:
    """A ``Reader`` of one object, held fast by its ETag."""

    def __init__(self, bucket: BucketStore, path: str, info: ObjectInfo) -> None:
        self.info = info
        self._bucket = bucket
        self._path = path

    async def read(self, start: int, end: int) -> AsyncIterator[bytes | memoryview]:
        """See ``Reader.read``; after a failure it goes on where it was, a few times."""
        failures = 0
        while start < end:
            until = min(end, start + _READ_BYTES)
            began = start
            try:
                async for block in self._bucket._stream(self._path, self.info.etag, start, until):
                    yield block
                    start += len(block)
                if start < until:
                    raise StoreUnavailableError("the artifact store ended an object early")
            except StoreUnavailableError:
                failures = 1 if start > began else failures + 1
                if failures >= _READ_ATTEMPTS:
                    raise


async def can_sign(store: Any) -> bool:
    """Whether a Google or Azure store's credentials can sign addresses (some can only make requests)."""
    try:
        async with asyncio.timeout(10):
            await obstore.sign_async(store, "GET", "probe", _PROBE_EXPIRY)
    except Exception:
        return False
    return True


async def _next(stream: Any) -> Any:
    try:
        return await anext(stream)
    except StopAsyncIteration:
        return None


def _info(meta: Any) -> ObjectInfo:
    etag = meta["e_tag"]
    if etag is not None and not etag.startswith(('"', "W/")):
        etag = f'"{etag}"'
    return ObjectInfo(meta["size"], etag, meta["last_modified"])
