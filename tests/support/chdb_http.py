"""ClickHouse's HTTP interface over chDB, for tests: the real engine behind the production HTTP client.

A process of its own (chDB opens one folder per process), started by ``ChdbServer`` or by hand::

    python tests/support/chdb_http.py --path DIR --port 0 [--user u --password p] [--certificate f --key f]

It speaks what clickhouse-connect uses: the query in the URL or the body, ``param_x``, settings and ``database`` in
the URL, data of inserts in any format and with gzip, deflate, lz4 or zstd, compressed answers, ClickHouse's
headers and status codes. ``POST /_faults`` (``Fault`` as JSON) makes it slow, refuse, cut off or die.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import urllib.request
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import chdb
import lz4.frame
import pyarrow as pa
from aiohttp import web

RESERVED = {
    "query", "database", "user", "password", "default_format", "session_id", "session_timeout", "session_check",
    "query_id", "quota_key", "compress", "decompress", "wait_end_of_query", "client_protocol_version", "role",
    "buffer_size", "send_progress_in_http_headers", "http_headers_progress_interval_ms",
    "enable_http_compression",
}  # fmt: skip
INSERT_DATA = re.compile(
    rb"^\s*INSERT\s+INTO\s.*?\bFORMAT\s+(\w+)[ \t]*(?:\r?\n|$)", re.IGNORECASE | re.DOTALL
)
FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
KILL = re.compile(r"^\s*KILL QUERY WHERE query_id = \{id:String\}", re.IGNORECASE)
HAS_RESULT = re.compile(r"^\s*(SELECT|WITH|SHOW|DESC|DESCRIBE|EXISTS|EXPLAIN|\()", re.IGNORECASE)
CODE = re.compile(r"Code: (\d+)\.")
# ClickHouse's exceptionCodeToHTTPStatus.
STATUS = {
    194: 401, 192: 403, 193: 403, 497: 403, 516: 403, 164: 403,
    62: 400, 47: 400, 36: 400, 43: 400, 6: 400, 26: 400, 27: 400, 33: 400, 46: 404, 60: 404, 81: 404, 115: 404,
    158: 500, 159: 408, 202: 503, 252: 503, 241: 500, 48: 501, 1: 501,
}  # fmt: skip


@dataclass
class Fault:
    """What to do with the next ``times`` statements whose text contains ``match``.

    ``delay_s`` before the statement runs. Then ``kind``: ``none``; ``refuse`` with ClickHouse's ``code``;
    ``drop`` the connection without an answer, before or after the statement (``when``); ``cut`` the answer
    half-way; ``die`` as by kill -9, before, during (some milliseconds into it) or after the statement.
    """

    kind: Literal["none", "refuse", "drop", "cut", "die"] = "none"
    match: str = ""
    times: int = 1
    delay_s: float = 0.0
    code: int = 252
    when: Literal["before", "during", "after"] = "before"


class Engine:
    """The engine, and the faults to show."""

    def __init__(self, path: str, user: str | None, password: str) -> None:
        self.path = path
        self.keeper = chdb.connect(f"{path}?log-level=fatal")
        self.credentials = (user, password)
        self.faults: list[Fault] = []
        self.statements: list[dict[str, Any]] = []

    def run(self, sql: bytes, data: bytes | None, parameters: Mapping[str, str]) -> tuple[bytes, str | None]:
        """The result and its format (``None`` for a statement without a result). Blocks."""
        connection = chdb.connect(self.path)
        try:
            if database := parameters.get("database"):
                connection.query(f"USE `{database}`")
            settings = [
                f"{name} = '{_escape(value)}'"
                for name, value in parameters.items()
                if name not in RESERVED and not name.startswith("param_")
            ]
            if settings:
                connection.query("SET " + ", ".join(settings))
            bound = {
                name.removeprefix("param_"): value
                for name, value in parameters.items()
                if name.startswith("param_")
            }
            text = sql.decode()
            if KILL.match(text):
                return self._kill(connection, bound["id"])
            if data is not None:
                _insert(connection, text, data, bound)
                return b"", None
            form = FORMAT.search(text)
            name = form.group(1) if form else parameters.get("default_format", "TabSeparated")
            named = f"/* {parameters['query_id']} */ {text}" if "query_id" in parameters else text
            result: bytes = connection.query(named, name, params=bound).bytes() or b""
            return result, name if HAS_RESULT.match(text) else None
        finally:
            connection.close()

    @staticmethod
    def _kill(connection: Any, name: str) -> tuple[bytes, None]:
        """chDB names its queries itself; what a caller named one is in its text."""
        connection.query(f"KILL QUERY WHERE startsWith(query, '/* {_escape(name)} */') ASYNC")
        return b"", None

    def fault_for(self, statement: str) -> Fault:
        """The fault that applies to a statement, counted down."""
        for fault in self.faults:
            if fault.times > 0 and fault.match in statement:
                fault.times -= 1
                return fault
        return Fault()


def _insert(connection: Any, statement: str, data: bytes, bound: dict[str, str]) -> None:
    head, name = re.split(r"\bFORMAT\s+", statement.strip(), flags=re.IGNORECASE)
    descriptor = os.memfd_create("insert")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        path = f"/proc/self/fd/{descriptor}"
        connection.query(f"{head} FROM INFILE '{path}' FORMAT {name}", "TabSeparated", params=bound)
    finally:
        os.close(descriptor)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


def _decompress(body: bytes, encoding: str) -> bytes:
    if encoding in ("", "identity"):
        return body
    if encoding in ("gzip", "deflate"):
        return zlib.decompress(body, 47)
    if encoding == "lz4":
        return bytes(lz4.frame.decompress(body))
    if encoding == "zstd":
        return bytes(pa.CompressedInputStream(pa.BufferReader(body), "zstd").read())
    raise ValueError(f"Code: 1. DB::Exception: Unknown compression {encoding}. (UNSUPPORTED_METHOD)")


def _compress(body: bytes, accepted: str) -> tuple[bytes, str | None]:
    for encoding in (part.strip().partition(";")[0] for part in accepted.split(",")):
        if encoding == "lz4":
            return lz4.frame.compress(body), encoding
        if encoding == "zstd":
            return pa.compress(body, codec="zstd", asbytes=True), encoding
        if encoding in ("gzip", "deflate"):
            packer = zlib.compressobj(1, wbits=31 if encoding == "gzip" else 15)
            return packer.compress(body) + packer.flush(), encoding
    return body, None


def _authorised(request: web.Request, credentials: tuple[str | None, str]) -> bool:
    user, password = credentials
    if user is None:
        return True
    given = (
        request.headers.get("X-ClickHouse-User", request.query.get("user", "default")),
        request.headers.get("X-ClickHouse-Key", request.query.get("password", "")),
    )
    scheme, _, basic = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        name, _, secret = base64.b64decode(basic).decode().partition(":")
        given = (name, secret)
    return given == (user, password)


def _failure(message: str) -> web.Response:
    found = CODE.search(message)
    code = int(found.group(1)) if found else 1002
    return web.Response(
        status=STATUS.get(code, 500),
        text=message + "\n",
        headers={"X-ClickHouse-Exception-Code": str(code), **_common_headers()},
    )


def _common_headers() -> dict[str, str]:
    return {
        "X-ClickHouse-Server-Display-Name": "chdb-http",
        "X-ClickHouse-Query-Id": os.urandom(8).hex(),
        "X-ClickHouse-Timezone": "UTC",
        "X-ClickHouse-Summary": json.dumps({"read_rows": "0", "written_rows": "0", "elapsed_ns": "0"}),
    }


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def handle(request: web.Request) -> web.StreamResponse:
    engine: Engine = request.app[ENGINE]
    if not _authorised(request, engine.credentials):
        return _failure(
            "Code: 516. DB::Exception: default: Authentication failed: password is incorrect, or there is no "
            "user with such name. (AUTHENTICATION_FAILED)"
        )
    body = await request.read()
    try:
        body = _decompress(body, request.headers.get("Content-Encoding", ""))
    except (ValueError, RuntimeError, OSError, zlib.error) as error:
        return _failure(f"Code: 354. DB::Exception: {error} (ZLIB_INFLATE_FAILED)")
    query = request.query.get("query", "").encode()
    sql = query + (b"\n" if query and body else b"") + body
    data = None
    if match := INSERT_DATA.match(sql):
        sql, data = match.group(0), sql[match.end() :]

    head = sql[:200].decode(errors="replace")
    told = {"sql": head, "query": dict(request.query), "bytes": len(data or b""), "error": None}
    engine.statements.append(told)
    fault = engine.fault_for(head)
    if fault.delay_s:
        await asyncio.sleep(fault.delay_s)
    if fault.kind == "refuse":
        return _failure(f"Code: {fault.code}. DB::Exception: refused as the test wants it. (TEST)")
    if fault.when == "before" and fault.kind == "die":
        _die()
    if fault.when == "before" and fault.kind == "drop":
        return _dropped(request)

    running = asyncio.create_task(asyncio.to_thread(engine.run, sql, data, request.query))
    if fault.kind == "die" and fault.when == "during":
        await asyncio.sleep(0.005)
        _die()
    try:
        result, name = await running
    except Exception as error:
        told["error"] = str(error)
        return _failure(str(error))
    if fault.kind == "die":
        _die()
    if fault.kind == "drop":
        return _dropped(request)

    headers = _common_headers()
    if name:
        headers["X-ClickHouse-Format"] = name
    if request.query.get("enable_http_compression") == "1":
        result, encoding = _compress(result, request.headers.get("Accept-Encoding", ""))
        if encoding:
            headers["Content-Encoding"] = encoding
    if request.query.get("wait_end_of_query") == "1" and fault.kind != "cut":
        return web.Response(body=result, headers=headers)
    response = web.StreamResponse(headers=headers)
    response.enable_chunked_encoding()
    await response.prepare(request)
    end = len(result) // 2 if fault.kind == "cut" else len(result)
    for at in range(0, end, 1 << 16):
        await response.write(result[at : min(at + (1 << 16), end)])
    if fault.kind == "cut":
        return _dropped(request)
    await response.write_eof()
    return response


def _dropped(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def set_faults(request: web.Request) -> web.Response:
    engine: Engine = request.app[ENGINE]
    engine.faults = [Fault(**fault) for fault in json.loads(await request.read())]
    return web.Response(text="Ok.\n")


async def get_statements(request: web.Request) -> web.Response:
    engine: Engine = request.app[ENGINE]
    return web.json_response(engine.statements)


async def ping(_: web.Request) -> web.Response:
    return web.Response(text="Ok.\n")


ENGINE = web.AppKey("engine", Engine)


async def serve(arguments: argparse.Namespace) -> None:
    app = web.Application(client_max_size=1 << 30)
    app[ENGINE] = Engine(arguments.path, arguments.user, arguments.password)
    app.router.add_get("/ping", ping)
    app.router.add_post("/_faults", set_faults)
    app.router.add_get("/_statements", get_statements)
    app.router.add_route("*", "/", handle)
    context = None
    if arguments.certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(arguments.certificate, arguments.key)
    runner = web.AppRunner(
        app, auto_decompress=False, max_line_size=1 << 20, max_field_size=1 << 20, access_log=None
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", arguments.port, ssl_context=context)
    await site.start()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    print(runner.addresses[0][1], flush=True)
    await stopped.wait()
    await runner.cleanup()
    app[ENGINE].keeper.close()


class ChdbServer:
    """A server process on a folder; may be killed and started again on the same port."""

    def __init__(
        self,
        path: Path,
        *,
        user: str | None = None,
        password: str = "",
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        self.path = path
        self.port = 0
        self.scheme = "https" if certificate else "http"
        self.user, self.password = user, password
        self._options = [] if user is None else ["--user", user, "--password", password]
        if certificate is not None:
            self._options += ["--certificate", str(certificate), "--key", str(key)]
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """For ``RUNSTREAM_CLICKHOUSE``."""
        login = f"{self.user}:{self.password}@" if self.user else ""
        return f"{self.scheme}://{login}127.0.0.1:{self.port}/runstream"

    def start(self) -> None:
        command = [sys.executable, __file__, "--path", str(self.path), "--port", str(self.port)]
        self._process = subprocess.Popen([*command, *self._options], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"chdb_http did not start: exit status {self._process.wait()}"
        self.port = int(line)

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9, and wait."""
        self._end(signal.SIGKILL)

    def wait_dead(self, timeout_s: float = 30) -> None:
        """Wait until a fault has killed it."""
        assert self._process is not None
        self._process.wait(timeout_s)
        self._end(signal.SIGKILL)

    def faults(self, *faults: Fault) -> None:
        """Replace the faults to show."""
        self._request("/_faults", json.dumps([asdict(fault) for fault in faults]).encode())

    def statements(self) -> list[dict[str, Any]]:
        """Every statement so far: its beginning, its URL parameters, the bytes of its data, how it failed."""
        found: list[dict[str, Any]] = json.loads(self._request("/_statements"))
        return found

    def _request(self, path: str, body: bytes | None = None) -> bytes:
        context = ssl._create_unverified_context() if self.scheme == "https" else None
        url = f"{self.scheme}://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(url, body, timeout=10, context=context) as response:
            content: bytes = response.read()
            return content

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None


@contextmanager
def chdb_server(path: Path, **options: Any) -> Iterator[ChdbServer]:
    """A running server, stopped at the end whatever state it is in."""
    server = ChdbServer(path, **options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--user")
    parser.add_argument("--password", default="")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
