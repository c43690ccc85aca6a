"""One suite for every artifact store: a folder, memory, a real S3 server, and any address that a user names in
``RUNSTREAM_TEST_ARTIFACTS`` (Google and Azure: ``gs://bucket/prefix``, ``az://container/prefix``)."""

from __future__ import annotations

import asyncio
import io
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from runstream.ingest.artifacts.errors import (
    ArtifactTooLargeError,
    BrokenUploadError,
    InvalidPathError,
    NoSuchArtifactError,
    NotAFileError,
    UnsupportedError,
)
from runstream.ingest.artifacts.protocol import ArtifactStore, Entry, StoreOptions, UploadedPart
from runstream.ingest.artifacts.store import open_store
from runstream.schemas.errors import RunstreamError
from support import s3

PART = 5 << 20
OPTIONS = StoreOptions(stall_s=10.0, part_bytes=PART)
NAMED_BY_USER = os.environ.get("RUNSTREAM_TEST_ARTIFACTS")
KINDS = ["file", "memory", "s3", *(["named"] if NAMED_BY_USER else [])]


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ArtifactStore]:
    """An empty store."""
    prefix = uuid.uuid4().hex
    environ = dict(os.environ)
    match request.param:
        case "file":
            url = f"file://{tmp_path}/artifacts"
        case "memory":
            url = "memory://"
        case "s3":
            server: s3.S3Server = request.getfixturevalue("s3_server")
            url, environ = f"s3://{server.access.bucket}/{prefix}", server.access.environment()
        case _:
            assert NAMED_BY_USER
            url = f"{NAMED_BY_USER.rstrip('/')}/{prefix}"
    opened = await open_store(url, OPTIONS, environ)
    yield opened
    if request.param == "named":
        for entry in await opened.entries("", max_entries=1000):
            await opened.delete(entry.name)
    await opened.close()


async def blocks(*parts: bytes, error: Exception | None = None) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    if error is not None:
        raise error


async def put(store: ArtifactStore, path: str, data: bytes = b"data") -> None:
    await store.put(path, blocks(data), size=len(data))


async def read(store: ArtifactStore, path: str, start: int = 0, end: int | None = None) -> bytes:
    async with store.open(path) as reader:
        until = reader.info.size if end is None else end
        return b"".join([bytes(block) async for block in reader.read(start, until)])


async def names(store: ArtifactStore, path: str = "") -> list[str]:
    return [entry.name for entry in await store.entries(path, max_entries=1000)]


async def test_what_was_put_is_read(store: ArtifactStore) -> None:
    await put(store, "1/run/artifacts/model/MLmodel", b"flavors")
    assert await read(store, "1/run/artifacts/model/MLmodel") == b"flavors"
    info = await store.stat("1/run/artifacts/model/MLmodel")
    assert info.size == 7
    assert info.etag
    assert info.etag.startswith('"')
    assert info.modified.tzinfo is not None


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 3 * PART + 17])
@pytest.mark.parametrize("announced", [True, False])
async def test_every_size(store: ArtifactStore, size: int, announced: bool) -> None:
    data = os.urandom(size)
    pieces = [data[at : at + 300_000] for at in range(0, size, 300_000)]
    await store.put("d/f.bin", blocks(*pieces), size=size if announced else None)
    assert (await store.stat("d/f.bin")).size == size
    assert await read(store, "d/f.bin") == data


async def test_ranges(store: ArtifactStore) -> None:
    data = os.urandom(3 << 20)
    await put(store, "f", data)
    for start, end in ((0, 1), (10, 20), (1 << 20, (2 << 20) + 5), (len(data) - 1, len(data))):
        assert await read(store, "f", start, end) == data[start:end]


async def test_overwriting_replaces_and_changes_the_etag(store: ArtifactStore) -> None:
    await put(store, "f", b"one")
    first = await store.stat("f")
    await put(store, "f", b"three")
    second = await store.stat("f")
    assert await read(store, "f") == b"three"
    assert first.etag != second.etag


@pytest.mark.parametrize(
    "name",
    [
        "a b.txt",
        "ü ñ/é.txt",
        "100% sure?",
        "a%00b",
        "a*b~c{d}|e<f>",
        "q'\"&;=+,$!@()[]",
        "😀",
        ".hidden",
        "con",
        "x:y",
        "﻿bom",
        "a‮b",
        "n" * 255,
        "images/a+step+1+timestamp+1763+uuid.png",
    ],
)
async def test_names(store: ArtifactStore, name: str) -> None:
    await put(store, f"d/{name}")
    assert await read(store, f"d/{name}") == b"data"
    assert await names(store, "d") == [name.split("/")[0]]
    await store.delete(f"d/{name}")
    assert await names(store, "d") in ([], [name.split("/")[0]] if "/" in name else [])


async def test_missing_objects(store: ArtifactStore) -> None:
    await put(store, "d/f")
    for path in ("nothing", "d/nothing", "d/f/below"):
        with pytest.raises(NoSuchArtifactError):
            await store.stat(path)
        with pytest.raises(NoSuchArtifactError):
            await read(store, path)
    for path in ("d", ""):
        with pytest.raises(NotAFileError):
            await store.stat(path)


async def test_listing(store: ArtifactStore) -> None:
    await put(store, "r/b.txt", b"12345")
    await put(store, "r/empty", b"")
    await put(store, "r/sub/deep/x", b"1")
    await put(store, "rr/other", b"1")
    assert await store.entries("r", max_entries=10) == [
        Entry("b.txt", False, 5),
        Entry("empty", False, 0),
        Entry("sub", True, 0),
    ]
    assert await store.entries("", max_entries=10) == [Entry("r", True, 0), Entry("rr", True, 0)]
    assert await store.entries("r/b.txt", max_entries=10) == []
    assert await store.entries("missing", max_entries=10) == []
    with pytest.raises(ArtifactTooLargeError):
        await store.entries("r", max_entries=2)
    assert await store.count("r", 100) == 3
    assert await store.count("r", 2) == 2
    assert await store.count("missing", 2) == 0


async def test_deleting(store: ArtifactStore) -> None:
    for path in ("r/a", "r/s/b", "r/s/t/c", "ra", "other"):
        await put(store, path)
    await store.delete("r/a")
    assert await names(store, "r") == ["s"]
    await store.delete("r")
    for path in ("r/s/b", "r/s/t/c"):
        with pytest.raises(NoSuchArtifactError):
            await store.stat(path)
    # SeaweedFS goes on listing a directory for a while after its last object is gone.
    left = [name for name in await names(store) if name != "r" or store.scheme != "s3"]
    assert left == ["other", "ra"]
    await store.delete("r")
    await store.delete("never/was")
    with pytest.raises(InvalidPathError):
        await store.delete("")


@pytest.mark.parametrize("size", [100, 4 * PART])
@pytest.mark.parametrize("existing", [True, False])
async def test_a_failing_source_leaves_nothing(
    store: ArtifactStore, size: int, existing: bool, request: pytest.FixtureRequest
) -> None:
    if existing:
        await put(store, "r/f", b"before")
    data = os.urandom(size)
    pieces = [data[at : at + (1 << 20)] for at in range(0, size, 1 << 20)]
    with pytest.raises(BrokenUploadError):
        await store.put("r/f", blocks(*pieces, error=BrokenUploadError("gone")), size=size * 2)
    if existing:
        assert await read(store, "r/f") == b"before"
    else:
        assert await names(store) == []
    if store.scheme == "s3" and not NAMED_BY_USER:
        assert request.getfixturevalue("s3_server").unfinished_uploads() == []
    await put(store, "r/f", b"again")
    assert await read(store, "r/f") == b"again"


async def test_a_cancelled_upload_leaves_nothing(
    store: ArtifactStore, request: pytest.FixtureRequest
) -> None:
    under_way = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for number in range(1000):
            if number == 12:
                under_way.set()
                await asyncio.sleep(1000)
            yield b"x" * (1 << 20)

    task = asyncio.create_task(store.put("r/f", endless(), size=None))
    await under_way.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # Clearing away goes on in the background.
    async with asyncio.timeout(60):
        while await names(store) or (
            store.scheme == "s3"
            and not NAMED_BY_USER
            and request.getfixturevalue("s3_server").unfinished_uploads()
        ):
            await asyncio.sleep(0.02)


async def test_nothing_is_visible_before_the_end(store: ArtifactStore) -> None:
    seen: list[list[str]] = []

    async def watched() -> AsyncIterator[bytes]:
        for _ in range(12):
            yield b"x" * (1 << 20)
        seen.append(await names(store, "r"))

    await store.put("r/f", watched(), size=None)
    assert seen == [[]]
    assert await names(store, "r") == ["f"]


async def test_concurrent_uploads_of_one_path_leave_one_of_them(store: ArtifactStore) -> None:
    bodies = [bytes([number]) * (PART + 1000) for number in range(4)]
    await asyncio.gather(*(put(store, "r/f", body) for body in bodies))
    assert await read(store, "r/f") in bodies
    assert await names(store, "r") == ["f"]


async def test_a_reader_never_sees_a_mixture_when_its_file_is_overwritten(store: ArtifactStore) -> None:
    """A folder goes on with the old content; an object store may do so, or end the read with an error."""
    await put(store, "f", b"a" * (3 << 20))
    content = b""
    try:
        async with store.open("f") as reader:
            async for block in reader.read(0, reader.info.size):
                if not content:
                    await put(store, "f", b"b" * 10)
                content += bytes(block)
    except RunstreamError:
        assert store.scheme != "file"
        assert content == b"a" * len(content)
    else:
        assert content == b"a" * (3 << 20)


async def test_signed_downloads(store: ArtifactStore) -> None:
    name = 'd/ü "quoted" f.txt'
    await put(store, name, b"signed")
    if not store.signs_downloads:
        with pytest.raises(UnsupportedError):
            await store.sign_download(name, expires_s=60)
        return
    url, size = await store.sign_download(name, expires_s=60)
    assert size == 6
    from yarl import URL

    async with aiohttp.ClientSession() as session, session.get(URL(url, encoded=True)) as answer:
        assert answer.status == 200
        assert await answer.read() == b"signed"
        if store.takes_parts:
            assert "attachment" in answer.headers["Content-Disposition"]
    with pytest.raises(NoSuchArtifactError):
        await store.sign_download("missing", expires_s=60)


async def test_parts_sent_by_clients(store: ArtifactStore, request: pytest.FixtureRequest) -> None:
    if not store.takes_parts:
        with pytest.raises(UnsupportedError):
            await store.create_parts("f", 2)
        with pytest.raises(UnsupportedError):
            await store.complete_parts("f", "id", [])
        with pytest.raises(UnsupportedError):
            await store.abort_parts("f", "id")
        return
    from yarl import URL

    data = os.urandom(PART + 100)
    path = "d/ü ñ+%.bin"
    upload_id, urls = await store.create_parts(path, 2)
    assert len(urls) == 2
    parts = []
    async with aiohttp.ClientSession() as session:
        for number, (url, piece) in enumerate(zip(urls, (data[:PART], data[PART:]), strict=True), 1):
            async with session.put(URL(url, encoded=True), data=io.BytesIO(piece)) as answer:
                assert answer.status == 200
                parts.append(UploadedPart(number, answer.headers["ETag"], url))
    with pytest.raises(NoSuchArtifactError):
        await store.stat(path)
    await store.complete_parts(path, upload_id, parts[::-1])
    assert await read(store, path) == data

    dropped, _ = await store.create_parts(path, 1)
    await store.abort_parts(path, dropped)
    await store.abort_parts(path, dropped)
    with pytest.raises(BrokenUploadError):
        await store.complete_parts(path, dropped, parts)
    if not NAMED_BY_USER:
        assert request.getfixturevalue("s3_server").unfinished_uploads() == []


async def test_memory_of_an_upload_is_bounded(store: ArtifactStore) -> None:
    assert store.upload_bytes(10) < 4 << 20
    assert store.upload_bytes(5 << 30) <= 32 << 20
    assert store.upload_bytes(None) <= 128 << 20
