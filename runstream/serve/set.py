"""``runstream serve``: the whole server on one machine, as supervised processes over one data folder."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runstream.process.http import listening_socket, stop_on_signals
from runstream.process.prometheus import forget_process
from runstream.serve.data_dir import DataDir
from runstream.serve.supervisor import Job, Supervisor
from runstream.settings import MIN_QUEUE_BYTES, QueueSettings, load

_POLL_S = 0.1
_STOP_TIMEOUT_S = 45.0


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What a user chooses for ``runstream serve``; the rest comes from ``RUNSTREAM_*`` variables."""

    host: str
    port: int
    data_dir: Path
    workers: int
    announce: Callable[[str], None]
    tls: bool = False
    """Whether the gateways have a certificate."""


async def serve(options: ServeOptions) -> None:
    """Run until SIGTERM or SIGINT, then drain and stop everything.

    Announces ``runstream ready at URL`` once every part answers. Raises ``ConfigError`` with one line if the port,
    the folder or a part is not usable.
    """
    stop = stop_on_signals()
    data = DataDir(options.data_dir)
    # Without sharing first: a port that another server shares would otherwise be taken silently, and the kernel
    # itself would hand one out for port 0.
    with listening_socket(options.host, options.port, reuse_port=False) as alone:
        port = alone.getsockname()[1]
    data.claim()
    data.clear_run()
    front = [listening_socket(options.host, port, reuse_port=True) for _ in range(options.workers)]
    # Their ports are taken now and handed over, so that nobody else can come between, however often they restart.
    storage = listening_socket("127.0.0.1", 0, reuse_port=False)
    tracking = listening_socket("127.0.0.1", 0, reuse_port=False)
    # What the parts send to the gateways stays on this machine, where no certificate names the address.
    inner = [listening_socket("127.0.0.1", 0, reuse_port=False)] if options.tls else []
    url = f"{'https' if options.tls else 'http'}://{_in_url(options.host)}:{port}"
    jobs = _jobs(options, data, front, storage, tracking, port, inner)
    supervisor = Supervisor(
        jobs, stop_timeout_s=_STOP_TIMEOUT_S, on_exit=lambda pid: forget_process(pid, data.run)
    )
    announcing = asyncio.create_task(_announce(url, options, stop, supervisor.ready))
    try:
        await supervisor.run(stop)
    finally:
        announcing.cancel()
        data.release()
        for listener in (*front, storage, tracking, *inner):
            listener.close()


def _jobs(
    options: ServeOptions,
    data: DataDir,
    front: list[socket.socket],
    storage: socket.socket,
    tracking: socket.socket,
    port: int,
    inner: list[socket.socket],
) -> list[Job]:
    query_url = f"http://127.0.0.1:{storage.getsockname()[1]}"
    tracking_port = tracking.getsockname()[1]
    # Requests that the gateway sends to itself or to its siblings; 0.0.0.0 is not an address to call.
    gateway_url = f"http://{_in_url(_callable(options.host))}:{port}"
    inner_flags: list[str] = []
    for sock in inner:
        gateway_url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        inner_flags = ["--inner-fd", str(sock.fileno())]
    common = {
        "RUNSTREAM_INTERNAL_TOKEN": secrets.token_urlsafe(32),
        "RUNSTREAM_RUN_DIR": str(data.run),
        "RUNSTREAM_QUEUE": data.queue_url,
        "RUNSTREAM_CLICKHOUSE": data.clickhouse_url,
        # The two parts that may be elsewhere: everything else of the embedded set shares the folder.
        "RUNSTREAM_METADATA": os.environ.get("RUNSTREAM_METADATA") or data.metadata_url,
        "RUNSTREAM_ARTIFACTS": os.environ.get("RUNSTREAM_ARTIFACTS") or data.artifacts_url,
        "RUNSTREAM_TRACKING": f"http://127.0.0.1:{tracking_port}",
        "RUNSTREAM_QUERY": query_url,
        "RUNSTREAM_GATEWAY": gateway_url,
        "PROMETHEUS_MULTIPROC_DIR": str(data.run),
        # Only the gateways, which inherit their listeners, are for others.
        "RUNSTREAM_HOST": "127.0.0.1",
    }
    # -P: a file of the folder where the user happens to be must not pass for a module of ours or of MLflow's.
    run = [sys.executable, "-P", "-m", "runstream"]
    jobs = [
        Job(
            "storage",
            [*run, "storage", "--fd", str(storage.fileno())],
            common,
            descriptors=[storage.fileno()],
            stop_rank=1,
        ),
        Job(
            "tracking",
            [*run, "tracking", "--port", str(tracking_port), "--fd", str(tracking.fileno())],
            common,
            descriptors=[tracking.fileno()],
            stop_rank=2,
        ),
    ]
    # Each gateway bounds its own stream of the log, and the setting is for all of it.
    each_max_bytes = max(MIN_QUEUE_BYTES, load(QueueSettings).queue_max_bytes // options.workers)
    jobs += [
        Job(
            f"gateway-{number}",
            [*run, "gateway", "--fd", str(listener.fileno()), *inner_flags],
            {**common, "RUNSTREAM_QUEUE_MAX_BYTES": str(each_max_bytes)},
            descriptors=[listener.fileno(), *(sock.fileno() for sock in inner)],
        )
        for number, listener in enumerate(front)
    ]
    return jobs


async def _announce(url: str, options: ServeOptions, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    local = url.replace(_in_url(options.host), _in_url(_callable(options.host)), 1)
    # Each try is a new connection, and connections spread over the workers: all of them have to answer.
    needed = 1 if options.workers == 1 else 4 * options.workers
    seen = 0
    while seen < needed and not stop.is_set():
        seen = seen + 1 if await asyncio.to_thread(_answers, f"{local}/ready") else 0
        if not seen:
            await asyncio.sleep(_POLL_S)
    if not stop.is_set():
        ready()
        options.announce(f"runstream ready at {url}")


def _answers(url: str) -> bool:
    # The certificate names the host as callers know it. Nothing is told and nothing believed but that it answers.
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=5, context=anybody) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _callable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
