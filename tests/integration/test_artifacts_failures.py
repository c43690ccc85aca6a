"""What goes wrong in the middle of a transfer leaves nothing behind, and disturbs nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from runstream.ingest.gateway.artifacts.config import ArtifactConfig
from support import s3
from support.artifact_gateway import ArtifactGateway, eventually

MB = 1 << 20
BASE = "/api/2.0/mlflow-artifacts/artifacts"
KINDS = ["file", "s3"]
STALL_S = 2.0


class Site:
    """A gateway and an independent eye on its store."""

    def __init__(
        self, gateway: ArtifactGateway, root: Path | None, server: s3.S3Server | None, prefix: str
    ) -> None:
        self.gateway = gateway
        self.url = gateway.url
        self._root = root
        self._server = server
        self._prefix = prefix

    def stored(self) -> list[str]:
        """All that the store holds, seen or hidden."""
        if self._root is not None:
            return sorted(str(f.relative_to(self._root)) for f in self._root.rglob("*") if f.is_file())
        assert self._server is not None
        unfinished = [
            f"unfinished {key}" for key in self._server.unfinished_uploads() if key.startswith(self._prefix)
        ]
        return [
            *(key.removeprefix(self._prefix + "/") for key in self._server.keys(self._prefix)),
            *unfinished,
        ]


@pytest.fixture(scope="module", params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("gateway")
    server: s3.S3Server | None = None
    environment: dict[str, str] = {}
    if request.param == "s3":
        server = request.getfixturevalue("s3_server")
        environment = server.access.environment()
        url = f"s3://{server.access.bucket}/failures"
    else:
        url = f"file://{folder}/artifacts"
    config = ArtifactConfig(url=url, stall_s=STALL_S, max_bytes=64 * MB, max_files=50, part_bytes=5 * MB)
    with ArtifactGateway(folder, config, environment=environment) as gateway:
        yield Site(gateway, None if server else folder / "artifacts", server, "failures")


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as opened:
        yield opened


async def raw_put(site: Site, path: str, length: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The head of an upload; the body is up to the test."""
    parts = urlsplit(site.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"PUT {BASE}/{path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {length}\r\n\r\n"
    writer.write(head.encode())
    await writer.drain()
    return reader, writer


async def test_a_client_that_goes_away_leaves_nothing(site: Site, session: aiohttp.ClientSession) -> None:
    before = site.stored()
    _, writer = await raw_put(site, "1/gone/artifacts/f", 40 * MB)
    for _ in range(20):
        writer.write(os.urandom(MB))
        await writer.drain()
    writer.transport.abort()
    await eventually(lambda: site.stored() == before)
    async with session.get(f"{site.url}{BASE}/1/gone/artifacts/f") as answer:
        assert answer.status == 404
    async with session.put(f"{site.url}{BASE}/1/gone/artifacts/f", data=b"again") as answer:
        assert answer.status == 200
    async with session.get(f"{site.url}{BASE}/1/gone/artifacts/f") as answer:
        assert await answer.read() == b"again"


async def test_a_body_shorter_than_announced_leaves_nothing(site: Site) -> None:
    before = site.stored()
    for length in (1000, 12 * MB):
        reader, writer = await raw_put(site, "1/short/artifacts/f", length)
        writer.write(b"x" * (length - 1))
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        await eventually(lambda: site.stored() == before)


async def test_a_client_that_stalls_is_told_so(site: Site) -> None:
    before = site.stored()
    reader, writer = await raw_put(site, "1/stalled/artifacts/f", 40 * MB)
    writer.write(os.urandom(7 * MB))
    await writer.drain()
    async with asyncio.timeout(STALL_S * 10):
        status = await reader.readline()
    assert b" 408 " in status
    writer.close()
    await eventually(lambda: site.stored() == before)


async def test_others_do_not_suffer_meanwhile(site: Site, session: aiohttp.ClientSession) -> None:
    before = site.stored()
    slow = [await raw_put(site, f"1/many/artifacts/{number}", 40 * MB) for number in range(10)]

    async def trickle() -> None:
        while True:  # often enough not to count as stalled
            for _, writer in slow:
                writer.write(b"x" * 1000)
            await asyncio.sleep(STALL_S / 4)

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        trickling = tasks.create_task(trickle())
        for number in range(10):
            async with session.put(f"{site.url}{BASE}/1/fine/artifacts/{number}", data=b"fine") as answer:
                assert answer.status == 200
        trickling.cancel()
    for _, writer in slow:
        writer.transport.abort()
    fine = {f"1/fine/artifacts/{number}" for number in range(10)}
    await eventually(lambda: set(site.stored()) == {*before, *fine})


async def test_limits(site: Site, session: aiohttp.ClientSession) -> None:
    before = site.stored()

    async def chunked() -> AsyncIterator[bytes]:
        for _ in range(70):
            yield b"x" * MB

    for data in (b"x" * (64 * MB + 1), chunked()):
        try:
            body = data if not isinstance(data, bytes) else io.BytesIO(data)
            async with session.put(f"{site.url}{BASE}/1/large/artifacts/f", data=body) as answer:
                assert answer.status == 413
                assert "limit of 67108864 bytes" in (await answer.json())["message"]
        except aiohttp.ClientError:
            pass  # the server does not read all of it before it refuses
    await eventually(lambda: site.stored() == before)
    for number in range(51):
        async with session.put(f"{site.url}{BASE}/1/numerous/artifacts/{number}", data=b"x") as answer:
            assert answer.status == (200 if number < 50 else 413), await answer.text()
    async with session.put(f"{site.url}{BASE}/1/numerous/artifacts/7", data=b"y") as answer:
        assert answer.status == 200


async def test_uploads_of_unknown_length(site: Site, session: aiohttp.ClientSession) -> None:
    blocks = [os.urandom(777_777) for _ in range(30)]

    async def chunked() -> AsyncIterator[bytes]:
        for block in blocks:
            yield block

    async with session.put(f"{site.url}{BASE}/1/chunked/artifacts/f", data=chunked()) as answer:
        assert answer.status == 200
    async with session.get(f"{site.url}{BASE}/1/chunked/artifacts/f") as answer:
        assert hashlib.sha256(await answer.read()).digest() == hashlib.sha256(b"".join(blocks)).digest()


async def test_compressed_bodies_are_stored_as_they_come(site: Site, session: aiohttp.ClientSession) -> None:
    async with session.put(
        f"{site.url}{BASE}/1/gz/artifacts/f.gz",
        data=b"\x1f\x8bnot really",
        headers={"Content-Encoding": "gzip"},
    ) as answer:
        assert answer.status == 200
    async with session.get(f"{site.url}{BASE}/1/gz/artifacts/f.gz") as answer:
        assert "Content-Encoding" not in answer.headers
        assert await answer.read() == b"\x1f\x8bnot really"


async def test_conditional_and_partial_downloads(site: Site, session: aiohttp.ClientSession) -> None:
    url = f"{site.url}{BASE}/1/part/artifacts/f.bin"
    data = os.urandom(9 * MB)
    async with session.put(url, data=io.BytesIO(data)) as answer:
        assert answer.status == 200
    async with session.get(url) as answer:
        etag = answer.headers["ETag"]
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert await answer.read() == data
    async with session.get(url, headers={"If-None-Match": etag}) as answer:
        assert (answer.status, await answer.read()) == (304, b"")
    async with session.head(url) as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(data)))
    for header, expected in (("0-9", data[:10]), (f"{5 * MB}-", data[5 * MB :]), ("-7", data[-7:])):
        async with session.get(url, headers={"Range": f"bytes={header}"}) as answer:
            assert answer.status == 206
            assert answer.headers["Content-Range"].endswith(f"/{len(data)}")
            assert await answer.read() == expected
    async with session.get(url, headers={"Range": f"bytes={len(data)}-"}) as answer:
        assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{len(data)}")
    async with session.get(url, headers={"Range": "bytes=0-9", "If-Range": '"other"'}) as answer:
        assert answer.status == 200


async def test_a_reader_that_goes_away_is_let_go(site: Site, session: aiohttp.ClientSession) -> None:
    url = f"{site.url}{BASE}/1/reader/artifacts/f.bin"
    async with session.put(url, data=io.BytesIO(os.urandom(60 * MB))) as answer:
        assert answer.status == 200
    descriptors = site.gateway.process.num_fds()
    for _ in range(5):
        async with aiohttp.ClientSession() as other, other.get(url) as answer:
            await answer.content.readexactly(1000)
    await eventually(lambda: site.gateway.process.num_fds() <= descriptors + 3)


async def test_slow_readers_hold_the_store_back(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    config = ArtifactConfig(url=f"file://{tmp_path}/artifacts")
    with ArtifactGateway(tmp_path, config) as gateway:
        url = f"{gateway.url}{BASE}/1/slow/artifacts/f.bin"
        async with session.put(url, data=io.BytesIO(os.urandom(60 * MB))) as answer:
            assert answer.status == 200
        before = gateway.process.memory_info().rss
        async with contextlib.AsyncExitStack() as stack:
            answers = []
            for _ in range(8):
                other = await stack.enter_async_context(aiohttp.ClientSession())
                answers.append(await stack.enter_async_context(other.get(url)))
            await asyncio.sleep(1)  # long enough for all of it to arrive, if nothing held it back
            assert gateway.process.memory_info().rss - before < 80 * MB
            assert {len(body) for body in await asyncio.gather(*(one.read() for one in answers))} == {60 * MB}


async def test_a_slow_store_holds_the_client_back(tmp_path: Path, s3_server: s3.S3Server) -> None:
    config = ArtifactConfig(url=f"s3://{s3_server.access.bucket}/slow", part_bytes=5 * MB)
    with ArtifactGateway(tmp_path, config, environment=s3_server.access.environment()) as gateway:
        site = Site(gateway, None, s3_server, "slow")
        total = 200 * MB
        reader, writer = await raw_put(site, "1/r/artifacts/f", total)
        before = gateway.process.memory_info().rss
        writer.write(os.urandom(10 * MB))
        await writer.drain()
        sent = 10 * MB
        s3_server.pause()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(3):
                    while True:
                        writer.write(b"x" * MB)
                        sent += MB
                        await writer.drain()
            # Parts under way, a part being filled, and what the two sockets hold.
            assert sent < 60 * MB
            assert gateway.process.memory_info().rss - before < 60 * MB
        finally:
            s3_server.resume()
        while sent < total:
            writer.write(b"x" * MB)
            sent += MB
            await writer.drain()
        async with asyncio.timeout(30):
            assert b" 200 " in await reader.readline()
        writer.close()


async def test_a_shutdown_leaves_nothing(
    tmp_path: Path, request: pytest.FixtureRequest, s3_server: s3.S3Server
) -> None:
    for kind in KINDS:
        url = f"s3://{s3_server.access.bucket}/down" if kind == "s3" else f"file://{tmp_path}/artifacts"
        config = ArtifactConfig(url=url, part_bytes=5 * MB)
        with ArtifactGateway(tmp_path / kind, config, environment=s3_server.access.environment()) as gateway:
            site = Site(
                gateway,
                tmp_path / "artifacts" if kind == "file" else None,
                s3_server if kind == "s3" else None,
                "down",
            )
            _, writer = await raw_put(site, "1/r/artifacts/f", 40 * MB)
            for _ in range(20):
                writer.write(os.urandom(MB))
                await writer.drain()
            process = gateway.process
            process.terminate()
            assert await asyncio.to_thread(process.wait, 30) in (0, None)
            writer.transport.abort()
        assert site.stored() == []


async def test_a_store_that_stops_answering(tmp_path: Path, s3_server: s3.S3Server) -> None:
    access = s3_server.access
    config = ArtifactConfig(
        url=f"s3://{access.bucket}/outage", stall_s=STALL_S, part_bytes=5 * MB, retry_after_s=7
    )
    with ArtifactGateway(tmp_path, config, environment=access.environment()) as gateway:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90)) as session:
            url = f"{gateway.url}{BASE}/1/r/artifacts"
            async with session.put(f"{url}/before", data=b"x" * 10) as answer:
                assert answer.status == 200

            async def body() -> AsyncIterator[bytes]:
                for number in range(40):
                    if number == 20:
                        s3_server.pause()
                    yield os.urandom(MB)

            try:
                async with session.put(f"{url}/f", data=body()) as answer:
                    assert answer.status == 429  # nothing of it was stored
                    assert answer.headers["Retry-After"] in ("7", "8")
                    assert "try again" in (await answer.json())["message"]
                async with session.get(f"{url}/before") as answer:
                    assert answer.status == 429
                async with session.get(f"{gateway.url}/no/such/route") as answer:
                    assert (
                        answer.status == 503
                    )  # the relay: this gateway has no MLflow server, and does answer
            finally:
                s3_server.resume()
            site = Site(gateway, None, s3_server, "outage")
            # The multipart upload that could not be aborted meanwhile is aborted once the store answers again.
            await eventually(lambda: site.stored() == ["1/r/artifacts/before"], timeout_s=60)
            async with session.put(f"{url}/f", data=b"again") as answer:
                assert answer.status == 200
        log = gateway.log()
        assert access.secret_key not in log
        assert access.access_key not in log
        assert "X-Amz-Signature" not in log


async def test_wrong_credentials_are_the_operators_matter(tmp_path: Path, s3_server: s3.S3Server) -> None:
    environment = {**s3_server.access.environment(), "AWS_SECRET_ACCESS_KEY": "not-the-secret-at-all"}
    config = ArtifactConfig(url=f"s3://{s3_server.access.bucket}/x", stall_s=STALL_S)
    with ArtifactGateway(tmp_path, config, environment=environment) as gateway:
        async with aiohttp.ClientSession() as session:
            url = f"{gateway.url}{BASE}/1/r/artifacts/f"
            for answer in (
                await session.put(url, data=b"x"),
                await session.get(url),
                await session.delete(url),
            ):
                text = await answer.text()
                assert answer.status == 500, text
                assert "runstream doctor" in text
                for secret in ("not-the-secret", s3_server.access.access_key, "Signature", "127.0.0.1"):
                    assert secret not in text
        for secret in ("not-the-secret", s3_server.access.access_key):
            assert secret not in gateway.log()
