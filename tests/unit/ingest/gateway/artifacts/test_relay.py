"""Limits hold for what the MLflow server answers by itself: counted on the way to a real server behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from runstream.ingest.gateway.artifacts.access import ArtifactVerdicts
from runstream.ingest.gateway.artifacts.config import ArtifactConfig
from runstream.ingest.gateway.artifacts.mount import add_artifact_routes
from runstream.ingest.gateway.artifacts.telemetry import ArtifactTelemetry
from runstream.ingest.gateway.http.hosts import HostRules
from runstream.ingest.gateway.http.server_mode import ModeWatch, ServerMode
from runstream.ingest.gateway.http.upstream import Upstream, UpstreamUnavailableError

LIMIT = 1000
FILES = 20
BASE = "/api/2.0/mlflow-artifacts"


@dataclass
class Behind:
    """Takes whatever comes whole."""

    stored: dict[str, int] = field(default_factory=dict)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.method in ("PUT", "POST"):
            self.stored[request.path] = len(body)
        return web.json_response({})


@pytest.fixture(params=[ServerMode.WORKSPACES, ServerMode.USERS, ServerMode.UNKNOWN, ServerMode.OPEN])
async def site(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, Behind]]:
    behind = Behind()
    runners: list[web.AppRunner] = []

    async def start(app: web.Application) -> str:
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", behind.take)
    upstream = Upstream("tracking", await start(app), timeout_s=10)

    async def relay(
        request: web.Request, *, content: AsyncIterator[bytes] | None = None
    ) -> web.StreamResponse:
        try:
            return await upstream.relay(request, content=content)
        except UpstreamUnavailableError:
            return web.Response(status=503)

    class Fixed(ModeWatch):
        async def settled(self) -> ServerMode:
            return self.mode

    server = Fixed(upstream.get, basic_auth=False)
    server.mode = request.param
    app = web.Application()
    add_artifact_routes(
        app,
        ArtifactConfig(url="memory:", max_bytes=LIMIT, max_files=FILES),
        prefix="",
        ask=upstream.get,
        relay=relay,
        server=server,
        hosts=HostRules(None),
        telemetry=ArtifactTelemetry(CollectorRegistry()),
        authorize=ArtifactVerdicts(get=upstream.get, post=upstream.post, ttl_s=30),
    )
    yield await start(app), behind
    await upstream.close()
    for runner in reversed(runners):
        await runner.cleanup()


async def chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 100):
        yield b"x" * 100


async def test_nothing_passes_the_limit(site: tuple[str, Behind]) -> None:
    url, behind = site
    path = f"{url}{BASE}/artifacts/1/r/artifacts/f"
    page = f"{url}/ajax-api/2.0/mlflow/upload-artifact?run_uuid=r&path=f"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        for headers in ({"Origin": "http://localhost:3000"}, {"X-MLFLOW-WORKSPACE": "team-a"}):
            for method, address in (("PUT", path), ("POST", page)):
                for size, status in ((LIMIT, 200), (LIMIT + 100, 413)):
                    behind.stored.clear()
                    for data in (b"x" * size, chunks(size)):
                        async with session.request(method, address, data=data, headers=headers) as answer:
                            assert answer.status == status, (method, address, size, await answer.text())
                    assert list(behind.stored.values()) == ([LIMIT] if status == 200 else [])


async def test_what_would_pass_by_the_gateway_is_refused_as_by_a_store_that_does_not_know_it(
    site: tuple[str, Behind],
) -> None:
    url, behind = site
    headers = {"X-MLFLOW-WORKSPACE": "team-a"}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        for address in (
            f"{BASE}/mpu/create/1/r/artifacts/f",
            f"{BASE}/mpu/complete/1/r/artifacts/f",
            "/api/2.0/mlflow/artifacts/presigned-upload-url",
        ):
            async with session.post(url + address, json={"path": "f"}, headers=headers) as answer:
                assert answer.status == 501
                assert "is not supported for the current artifact repository" in await answer.text()
    assert behind.stored == {}


async def test_the_number_of_files_is_limited_whoever_answers(site: tuple[str, Behind]) -> None:
    url, behind = site
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        for headers in ({}, {"X-MLFLOW-WORKSPACE": "team-a"}):
            behind.stored.clear()
            statuses = []
            for number in range(FILES + 2):
                address = f"{url}{BASE}/artifacts/1/{len(headers)}/artifacts/{number}"
                async with session.put(address, data=b"x", headers=headers) as answer:
                    statuses.append(answer.status)
            assert statuses == [200] * FILES + [413] * 2
            assert len(behind.stored) in (0, FILES)


@pytest.mark.parametrize("workspace", ["", "X-MLFLOW-WORKSPACE: team-a\r\n"], ids=["own", "relayed"])
async def test_limits_hold_for_old_clients(site: tuple[str, Behind], workspace: str) -> None:
    """HTTP/1.0, with and without a keep-alive."""
    url, behind = site
    host, port = url.removeprefix("http://").split(":")
    for size, status in ((LIMIT, 200), (LIMIT + 1, 413)):
        for connection in ("", "Connection: keep-alive\r\n"):
            behind.stored.clear()
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(
                f"PUT {BASE}/artifacts/1/r/artifacts/f HTTP/1.0\r\nHost: {host}:{port}\r\n{workspace}{connection}"
                f"Content-Length: {size}\r\n\r\n".encode()
                + b"x" * size
            )
            async with asyncio.timeout(30):
                assert int((await reader.readline()).split()[1]) == status
            writer.close()
            assert list(behind.stored.values()) in ([], [LIMIT])
            assert status == 200 or not behind.stored


async def test_what_is_no_json_is_the_callers_mistake(site: tuple[str, Behind]) -> None:
    url, _ = site
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        for body in (b"[" * 60_000, b'{"a":' * 20_000, b"\xff", b"null"):
            async with session.post(f"{url}{BASE}/mpu/create/1/r/artifacts/f", data=body) as answer:
                # 501 where the MLflow server has to answer, whose uploads in parts pass by the limits.
                assert answer.status in (400, 501), (body[:9], await answer.text())
                assert "error_code" in await answer.json()
