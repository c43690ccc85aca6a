"""The gateway's artifact routes in a process of their own, before a real MLflow server.

Run as a script it serves until SIGTERM; ``ArtifactGateway`` starts and stops it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

import aiohttp
import psutil
from aiohttp import web

from runstream.ingest.gateway.artifacts.access import ArtifactVerdicts
from runstream.ingest.gateway.artifacts.config import ArtifactConfig
from runstream.ingest.gateway.artifacts.mount import add_artifact_routes
from runstream.ingest.gateway.artifacts.telemetry import ArtifactTelemetry
from runstream.ingest.gateway.http.hosts import HostRules
from runstream.ingest.gateway.http.server_mode import ModeWatch, ServerMode
from runstream.ingest.gateway.http.upstream import Upstream, UpstreamUnavailableError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 40.0
NOWHERE = "http://127.0.0.1:9"


class ArtifactGateway:
    """One process; a context manager. ``url`` is its address, ``log`` holds what it printed."""

    def __init__(
        self,
        folder: Path,
        config: ArtifactConfig,
        *,
        tracking_url: str = NOWHERE,
        environment: dict[str, str] | None = None,
        users: bool = False,
    ) -> None:
        self._folder = folder
        self._arguments = json.dumps({"config": asdict(config), "tracking_url": tracking_url, "users": users})
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        self.log_path = folder / "gateway.log"
        self.url = ""

    def __enter__(self) -> ArtifactGateway:
        self._folder.mkdir(parents=True, exist_ok=True)
        root = Path(__file__).parents[2]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__, self._arguments],
                cwd=self._folder,
                env={
                    **os.environ,
                    "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}",
                    "TMPDIR": str(self._folder / "tmp"),
                    **self._environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        (self._folder / "tmp").mkdir(exist_ok=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode().strip()
        if not line:
            raise RuntimeError(f"the gateway did not start\n{self.log()}")
        self.url = line
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)
        finally:
            if process.stdout is not None:
                process.stdout.close()

    @property
    def process(self) -> psutil.Process:
        """The running process."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def log(self) -> str:
        """All that was printed."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""


def build_app(config: ArtifactConfig, tracking_url: str, users: bool) -> web.Application:
    """The artifact routes and, for everything else, the relay to the MLflow server, which may know ``users``."""
    app = web.Application()

    async def life(app: web.Application):  # type: ignore[no-untyped-def]
        yield
        await upstream.close()

    upstream = Upstream("tracking", tracking_url, timeout_s=30)

    server = ModeWatch(upstream.get, basic_auth=users)
    if tracking_url == NOWHERE:
        server.mode = ServerMode.OPEN

    async def relay(
        request: web.Request, *, content: AsyncIterator[bytes] | None = None
    ) -> web.StreamResponse:
        try:
            return await upstream.relay(request, content=content)
        except UpstreamUnavailableError:
            return web.Response(status=503)

    add_artifact_routes(
        app,
        config,
        prefix="",
        ask=upstream.get,
        relay=relay,
        server=server,
        hosts=HostRules(None),
        telemetry=ArtifactTelemetry(),
        authorize=ArtifactVerdicts(get=upstream.get, post=upstream.post, ttl_s=30),
    )
    app.router.add_route("*", "/{tail:.*}", relay)
    app.cleanup_ctx.append(life)
    return app


async def _serve(config: ArtifactConfig, tracking_url: str, users: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    runner = web.AppRunner(
        build_app(config, tracking_url, users), access_log=None, auto_decompress=False, shutdown_timeout=2
    )
    await runner.setup()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    """Serve until SIGTERM."""
    import uvloop

    logging.basicConfig(level=logging.INFO)
    arguments = json.loads(sys.argv[1])
    uvloop.run(_serve(ArtifactConfig(**arguments["config"]), arguments["tracking_url"], arguments["users"]))


async def eventually(condition, timeout_s: float = 60.0) -> None:  # type: ignore[no-untyped-def]
    """Wait until ``condition()`` (plain or awaitable) is true."""
    deadline = time.monotonic() + timeout_s
    while True:
        outcome = condition()
        if asyncio.iscoroutine(outcome):
            outcome = await outcome
        if outcome:
            return
        if time.monotonic() > deadline:
            raise AssertionError("it did not come about in time")
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    aiohttp  # noqa: B018
    main()
