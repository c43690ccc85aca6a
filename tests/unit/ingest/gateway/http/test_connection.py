"""Connections with aiohttp behind them, on real sockets: framing, order, both kinds of requests mixed, bounds."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from runstream.ingest.gateway.http.admission import Identity
from runstream.ingest.gateway.http.door import Bounds, Door
from runstream.ingest.gateway.http.framing import NotPlainError, read_head
from runstream.ingest.gateway.http.front import Front
from runstream.ingest.gateway.http.handling import Routes
from runstream.ingest.gateway.http.hosts import HostRules
from runstream.ingest.gateway.http.mount import refusing_odd
from runstream.ingest.gateway.telemetry import GatewayTelemetry
from runstream.ingest.gateway.writes.aside import Aside
from runstream.ingest.gateway.writes.log_request import LogRequest
from runstream.ingest.gateway.writes.routes import MetricWrites
from runstream.schemas.errors import QueueFullError

BOUNDS = Bounds(idle_s=0.4, head_s=1.5, least_rate=100, slow_s=1.5, arriving_bytes=4 << 20, connections=8)


@dataclass
class Stub:
    """Takes every point; answers when the test lets it."""

    seen: list[LogRequest] = field(default_factory=list)
    identities: list[Identity] = field(default_factory=list)
    error: Exception | None = None
    hold: asyncio.Event | None = None

    def accept_nowait(self, log: LogRequest, identity: Identity) -> asyncio.Future[None] | None:
        self.identities.append(identity)
        if self.hold is not None or len(self.seen) % 2:
            return None
        self.seen.append(log)
        future = asyncio.get_running_loop().create_future()
        if self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result(None)
        return future

    async def let_in(self, identity: Identity) -> None:
        pass

    async def accept(self, log: LogRequest, route: str, identity: Identity) -> None:
        self.seen.append(log)
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error


@dataclass
class Setup:
    stub: Stub
    server: Door
    port: int


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    async def echo(request: web.Request) -> web.Response:
        body = await request.read()
        return web.Response(text=f"{request.method} {request.path} {len(body)} {sum(body)}")

    app = web.Application(client_max_size=1 << 20, middlewares=[refusing_odd(HostRules("*"), ())])
    app.router.add_route("*", "/{tail:.*}", echo)
    runner = web.AppRunner(app, keepalive_timeout=1e9, auto_decompress=False)
    await runner.setup()
    assert runner.server is not None
    stub = Stub()
    telemetry = GatewayTelemetry(CollectorRegistry())
    routes = Routes(telemetry, max_body_bytes=1 << 20, retry_after_s=3)
    aside = Aside()
    MetricWrites(stub, aside, internal_token="secret").add_to(routes, "")  # type: ignore[arg-type]
    door = Door(routes, HostRules(None), runner.server, BOUNDS)
    server = await asyncio.get_running_loop().create_server(Front(door), "127.0.0.1", 0)
    yield Setup(stub, door, server.sockets[0].getsockname()[1])
    server.close()
    await runner.cleanup()
    await aside.close()


def log_batch(key: str, extra: str = "") -> bytes:
    body = json.dumps(
        {"run_id": "0" * 32, "metrics": [{"key": key, "value": 1.5, "timestamp": 1, "step": 2}]}
    ).encode()
    return (
        f"POST /api/2.0/mlflow/runs/log-batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"{extra}Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def other(path: str, body: bytes = b"", extra: str = "") -> bytes:
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"PUT {path} HTTP/1.1\r\nHost: localhost\r\n{extra}{length}\r\n".encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(10):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (row.partition(":") for row in head[1:-2])
        }
        return (
            int(head[0].split()[1]),
            headers,
            await reader.readexactly(int(headers.get("content-length", "0"))),
        )


def mixed_requests(chance: random.Random) -> list[tuple[bytes, bytes]]:
    """Requests of both kinds, and the answer to each."""
    requests = []
    for number in range(40):
        if chance.random() < 0.5:
            requests.append((log_batch(f"key{number}"), b"{}"))
        else:
            body = chance.randbytes(chance.choice([0, 1, 500, 70_000]))
            requests.append((other(f"/p{number}", body), f"PUT /p{number} {len(body)} {sum(body)}".encode()))
    return requests


async def send_in_pieces(writer: asyncio.StreamWriter, stream: bytes, chance: random.Random) -> None:
    at = 0
    while at < len(stream):
        size = chance.choice([1, 7, 100, 3_000, 200_000])
        writer.write(stream[at : at + size])
        await writer.drain()
        await asyncio.sleep(0)
        at += size


@pytest.mark.parametrize("seed", range(6))
async def test_any_mix_sent_ahead_in_any_pieces_is_answered_in_order(setup: Setup, seed: int) -> None:
    chance = random.Random(seed)
    requests = mixed_requests(chance)
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.port)
    stream = b"".join(request for request, _ in requests)
    sending = asyncio.create_task(send_in_pieces(writer, stream, chance))
    got = [(await answer(reader))[2] for _ in requests]
    await sending
    # Behind an answer of aiohttp's that is still on its way, a metric write goes to aiohttp too.
    assert [b"{}" if b"/log-batch" in body else body for body in got] == [
        expected for _, expected in requests
    ]
    writer.close()


@pytest.mark.parametrize("seed", range(6))
async def test_a_client_that_waits_for_its_answers_has_every_write_on_the_lean_path(
    setup: Setup, seed: int
) -> None:
    chance = random.Random(seed)
    requests = mixed_requests(chance)
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.port)
    lean = 0
    for request, expected in requests:
        await send_in_pieces(writer, request, chance)
        status, _, body = await answer(reader)
        lean += body == b"{}"
        assert (status, b"{}" if b"/log-batch" in body else body) == (200, expected)
    assert len(setup.stub.seen) == lean >= 10
    writer.close()


async def test_identity_and_errors(setup: Setup) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.port)
    setup.stub.error = QueueFullError("full")
    writer.write(log_batch("a", "authorization: Bearer x\r\n"))
    status, headers, body = await answer(reader)
    assert (status, headers["retry-after"]) == (429, "3")
    assert json.loads(body)["error_code"] == "TEMPORARILY_UNAVAILABLE"
    assert setup.stub.identities[-1] == (("Authorization", "Bearer x"),)
    setup.stub.error = None
    writer.write(log_batch("../bad"))
    status, _, body = await answer(reader)
    assert (status, json.loads(body)["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    writer.write(log_batch("good"))
    assert (await answer(reader))[0] == 200
    writer.close()


@pytest.mark.parametrize(
    "request_",
    [
        log_batch("k", "Origin: http://example.com\r\n"),
        log_batch("k", "Connection: keep-alive, te\r\n"),
        log_batch("k").replace(b"localhost", b"evil.example"),
        log_batch("k").replace(b"POST", b"GET"),
        log_batch("k").replace(b"log-batch HTTP", b"log-batch/ HTTP"),
    ],
)
async def test_what_is_not_plain_goes_to_the_full_server(setup: Setup, request_: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.port)
    for _ in range(2):
        writer.write(request_)
        status, _, body = await answer(reader)
        assert status == 200
        assert b"/api/2.0/mlflow/runs/log-batch" in body
    writer.write(log_batch("k"))
    assert (await answer(reader))[2] == b"{}"
    assert len(setup.stub.seen) == 1
    writer.close()


CHUNKED = b"PUT /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 1 << 20], ids=("bytes", "pieces", "whole"))
async def test_a_chunked_body_is_the_full_servers_and_what_follows_is_not(setup: Setup, size: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.port)
    body = b'2;a="b"\r\nab\r\n0001\r\nc\r\n0\r\nX: 1\r\n\r\n'
    sent = (CHUNKED + body + log_batch("k")) * 2
    for at in range(0, len(sent), size):
        writer.write(sent[at : at + size])
        await writer.drain()
    for _ in range(2):
        assert (await answer(reader))[2] == b"PUT /x 3 294"
        # Behind an answer that is on its way it is the full server's as well.
        assert (await answer(reader))[0] == 200
    writer.write(log_batch("k"))
    assert (await answer(reader))[2] == b"{}"
    writer.close()


@pytest.mark.parametrize(
    "body",
    [
        b"ffffffffffffffff\r\nabc",
        b"3\r\nabc\r\n10000000001\r\nabc",
        b"10000000000000000\r\n",
        b"zz\r\n",
        b"3\nabc\r\n0\r\n\r\n",
        b"3\r\nabcdef\r\n",
        b"0\r\nX: 1\n\r\n",
    ],
)
async def test_chunks_that_are_none_are_refused_at_once(setup: Setup, body: bytes) -> None:
    for pieces in ([CHUNKED + body], [CHUNKED, body], [CHUNKED, body[:2], body[2:]]):
        reader, writer = await asyncio.open_connection("127.0.0.1", setup.port)
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.01)  # or all would come as one
        async with asyncio.timeout(30):
            # Before it would be for its rate: 1.5 s, after which there is no answer at all.
            assert (await reader.readuntil(b"\r\n")).split()[1] == b"400"
        writer.close()


async def test_connection_close_is_honoured(setup: Setup) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.port)
    writer.write(log_batch("k", "Connection: close\r\n"))
    status, headers, _ = await answer(reader)
    assert (status, headers["connection"]) == (200, "close")
    assert await reader.read() == b""
    writer.close()


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not(setup: Setup) -> None:
    setup.stub.hold = asyncio.Event()
    idle, idle_writer = await asyncio.open_connection("127.0.0.1", setup.port)
    busy, busy_writer = await asyncio.open_connection("127.0.0.1", setup.port)
    busy_writer.write(log_batch("k"))
    async with asyncio.timeout(10):
        assert await idle.read() == b""
    setup.stub.hold.set()
    assert (await answer(busy))[0] == 200
    idle_writer.close()
    busy_writer.close()


async def test_a_body_that_arrives_slowly_is_not_idle(setup: Setup) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.port)
    request = log_batch("slow")
    for at in range(0, len(request), len(request) // 8):
        writer.write(request[at : at + len(request) // 8])
        await asyncio.sleep(0.15)  # all of it takes longer than a connection may be idle
    assert (await answer(reader))[0] == 200
    writer.close()


@pytest.mark.parametrize("lean", [True, False])
async def test_a_large_request_sent_ahead_goes_on_when_its_turn_comes(setup: Setup, lean: bool) -> None:
    setup.stub.hold = asyncio.Event()
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.port)
    body = b"z" * 700_000
    large = log_batch("k", f"X: {'x' * 100}\r\n") if lean else b""
    if lean:
        head, _, small = large.partition(b"\r\n\r\n")
        spaces = b" " * len(body)  # JSON may have them
        head = head.replace(
            b"Content-Length: %d" % len(small), b"Content-Length: %d" % (len(small) + len(spaces))
        )
        large = head + b"\r\n\r\n" + small + spaces
    else:
        large = other("/large", body)
    writer.write(log_batch("first") + large[:500_000])
    connection: Any = next((one for one in setup.server.connections if one.busy), None)
    async with asyncio.timeout(10):
        while connection is None or not connection._waits_to_read:
            await asyncio.sleep(0.001)
            connection = connection or next((one for one in setup.server.connections if one.busy), None)
    writer.write(large[500_000:])
    setup.stub.hold.set()
    for _ in range(2):
        assert (await answer(reader))[0] == 200
    writer.close()


async def test_drain_answers_what_is_under_way_and_closes(setup: Setup) -> None:
    setup.stub.hold = asyncio.Event()
    busy, busy_writer = await asyncio.open_connection("127.0.0.1", setup.port)
    idle, idle_writer = await asyncio.open_connection("127.0.0.1", setup.port)
    busy_writer.write(log_batch("k"))
    while not setup.stub.seen:
        await asyncio.sleep(0.001)
    draining = asyncio.create_task(setup.server.drain())
    async with asyncio.timeout(10):
        assert await idle.read() == b""
    assert not draining.done()
    setup.stub.hold.set()
    status, headers, _ = await answer(busy)
    assert (status, headers["connection"]) == (200, "close")
    async with asyncio.timeout(10):
        await draining
    busy_writer.close()
    idle_writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"POST /x HTTP/1.0\r\nHost: a\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost : a\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: a\nContent-Length: 4\r\n\r\n",
        b"POST /x HTTP/1.1\r\nAuthorization: a\r\nauthorization: b\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: +4\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: 4, 4\r\n\r\n",
        b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
        b"GET /x HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
        b"POST /x HTTP/1.1\r\nA: b\0c\r\n\r\n",
        b"\r\nPOST /x HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_heads_that_another_server_might_read_otherwise_are_not_read_here(head: bytes) -> None:
    with pytest.raises(NotPlainError):
        read_head(head)


def test_a_head_that_is_not_whole_waits() -> None:
    whole = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n"
    assert all(read_head(whole[:cut]) is None for cut in range(len(whole)))
    head = read_head(whole + b"body")
    assert head is not None
    assert (head.line, head.size, head.body_bytes) == (b"POST /x HTTP/1.1", len(whole), 12)


# --- bounds


@pytest.mark.parametrize(
    ("begins", "status"),
    [
        (b"GET / HTTP/1.1\nHost: localhost\n\n", 400),
        (b"POST /api/2.0/mlflow/runs/log-batch HTTP/1.1\r\nHost: loc", 408),
        (log_batch("k")[:-5], 408),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * (257 << 10), 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1_001 + b"\r\n", 431),
    ],
)
async def test_what_does_not_become_a_request_is_refused_in_json(
    setup: Setup, begins: bytes, status: int
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.port)
    writer.write(begins)
    got, headers, body = await answer(reader)
    assert (got, headers["connection"]) == (status, "close")
    assert json.loads(body)["error_code"]
    assert await reader.read() == b""
    assert setup.server.arriving.held_bytes == 0
    writer.close()


@pytest.mark.parametrize(
    "begins",
    [
        b"PUT /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nabc",
        b"PUT /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"PUT /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /",
    ],
)
async def test_what_is_for_the_server_behind_has_the_same_bounds(setup: Setup, begins: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.port)
    writer.write(begins)
    async with asyncio.timeout(10):
        try:
            while await reader.read(100):
                pass
        except ConnectionResetError:
            pass
        while setup.server.connections:
            await asyncio.sleep(0.001)
    writer.close()


async def test_a_body_for_the_server_behind_that_it_does_not_read_is_not_slow(setup: Setup) -> None:
    setup.stub.hold = asyncio.Event()
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.port)
    writer.write(log_batch("k"))
    await asyncio.sleep(3)  # longer than any body may be slow: it is we who do not answer
    setup.stub.hold.set()
    assert (await answer(reader))[0] == 200
    writer.close()


async def test_unfinished_bodies_have_one_bound_together(setup: Setup) -> None:
    head = log_batch("k").partition(b"\r\n\r\n")[0].rpartition(b"\r\n")[0]
    head += b"\r\nContent-Length: 1000000\r\n\r\n"
    senders = [await asyncio.open_connection("127.0.0.1", setup.port) for _ in range(6)]
    most = 0
    for reader, writer in senders:
        writer.write(head + b" " * 900_000)
        await writer.drain()
        while setup.server.arriving.held_bytes < most and not reader.at_eof():
            await asyncio.sleep(0.001)
        most = max(most, setup.server.arriving.held_bytes)
    assert most <= BOUNDS.arriving_bytes
    statuses = [(await answer(reader))[0] for reader, _ in senders]
    assert set(statuses) == {408, 429} or set(statuses) == {408}
    assert setup.server.arriving.held_bytes == 0
    for _, writer in senders:
        writer.close()


async def test_idle_connections_give_way_to_new_ones(setup: Setup) -> None:
    held = [await asyncio.open_connection("127.0.0.1", setup.port) for _ in range(20)]
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.port)
    writer.write(log_batch("k"))
    assert (await answer(reader))[0] == 200
    assert len(setup.server.connections) <= BOUNDS.connections
    for _, one in [*held, (reader, writer)]:
        one.close()


async def test_without_idle_ones_a_new_connection_is_closed(setup: Setup) -> None:
    setup.stub.hold = asyncio.Event()
    held = [await asyncio.open_connection("127.0.0.1", setup.port) for _ in range(BOUNDS.connections)]
    for _, writer in held:
        writer.write(log_batch("k"))
    async with asyncio.timeout(10):
        while not all(one.busy for one in setup.server.connections):
            await asyncio.sleep(0.001)
        reader, one_more = await asyncio.open_connection("127.0.0.1", setup.port)
        assert await reader.read() == b""
    setup.stub.hold.set()
    for reader, _ in held:
        assert (await answer(reader))[0] == 200
    for _, writer in [*held, (reader, one_more)]:
        writer.close()


async def test_answers_that_nobody_reads_are_not_piled_up(setup: Setup) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", setup.port, limit=1)
    request = log_batch("k")
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # reads nothing from here on
    async with asyncio.timeout(20):
        while setup.server.connections:
            if not writer.transport.is_closing():
                writer.write(request * 1_000)
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(0.05):
                    await writer.drain()
            await asyncio.sleep(0)
    assert len(setup.stub.seen) < 200_000
    writer.close()


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_compressed_body_is_handled_here_as_well(setup: Setup, coding: str) -> None:
    head, _, body = log_batch("k", f"Content-Encoding: {coding}\r\n").partition(b"\r\n\r\n")
    packed = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
    head = head.rpartition(b"\r\n")[0] + b"\r\nContent-Length: %d\r\n\r\n" % len(packed)
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.port)
    writer.write(head + packed)
    assert (await answer(reader))[2] == b"{}"
    assert setup.stub.seen[0].keys == ["k"]
    writer.close()


@pytest.mark.parametrize("spelling", [b"//api/2.0", b"/%61pi/2.0", b"%2Fapi%2f2.0"])
async def test_every_spelling_of_an_address_is_the_route(setup: Setup, spelling: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.port)
    writer.write(log_batch("k").replace(b"/api/2.0", spelling))
    assert (await answer(reader))[2] == b"{}"
    assert len(setup.stub.seen) == 1
    writer.close()
