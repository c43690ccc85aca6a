"""What comes to the door of a real server as nobody's client sends it."""

from __future__ import annotations

import json
import socket
import time
from urllib.parse import urlsplit

import pytest

from support.raw_http import RawClient

API = "/api/2.0/mlflow"


def raw(url: str, *pieces: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes, and read until the server closes the connection: all of these are answered with that."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(0.05)  # or all would come as one
            connection.sendall(piece)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *rows = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (row.partition(": ") for row in rows)}
    return int(first.split()[1]), headers, body


def ask(
    url: str, line: str, *headers: str, body: bytes = b"", host: str | None = ""
) -> tuple[int, dict[str, str], bytes]:
    rows = [line, *headers, "Connection: close"]
    if host is not None:
        rows.append(f"Host: {host or urlsplit(url).netloc}")
    if body:
        rows += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return raw(url, "\r\n".join(rows).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body)


SEARCH = b'{"max_results": 1}'


@pytest.mark.parametrize(
    "headers",
    [
        ("Cookie: a=" + "c" * 70_000,),
        ("Authorization: Bearer " + "t" * 60_000,),
        tuple(f"X-{number}: 1" for number in range(150)),
        ("Cookie: a=ü",),
    ],
    ids=("cookie", "token", "many", "utf-8"),
)
@pytest.mark.parametrize("line", [f"POST {API}/experiments/search", "GET /api/1.0/runstream/openapi.json"])
def test_what_stock_takes_is_taken_by_every_role(
    runstream_url: str, line: str, headers: tuple[str, ...]
) -> None:
    body = SEARCH if line.startswith("POST") else b""
    status, _, _ = ask(runstream_url, f"{line}?x={'a' * 61_000} HTTP/1.1", *headers, body=body)
    assert status == 200


@pytest.mark.parametrize(
    "path", ["/health", f"{API}/experiments/search", "/api/1.0/runstream/openapi.json", "/nowhere"]
)
@pytest.mark.parametrize(
    ("headers", "host", "status"),
    [
        ((), None, 400),
        (("Host: a",), "", 400),
        (("Authorization: a", "Authorization: b"), "", 400),
        (("Cookie: a", "Cookie: b"), "", 400),
        (("Connection: Host",), "", 400),
        (("Authorization: \udcff",), "", 400),
        (("X: " + "x" * (300 << 10),), "", 431),
        (("no colon",), "", 400),
        ((), "10.evil.example", 403),
    ],
    ids=("no host", "hosts", "users", "cookies", "named", "no text", "large", "no colon", "look-alike"),
)
def test_what_is_odd_is_refused_on_every_path(
    runstream_url: str, path: str, headers: tuple[str, ...], host: str | None, status: int
) -> None:
    got, _, body = ask(runstream_url, f"GET {path} HTTP/1.1", *headers, host=host)
    assert got == status
    assert status == 403 or json.loads(body)["error_code"] == "INVALID_PARAMETER_VALUE"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /health HTTP/1.1\nHost: localhost\nConnection: close\n\n", 400),
        (b"GET x://a/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
        (b"GET /health HTTP/2.0\r\nHost: localhost\r\nConnection: close\r\n\r\n", 505),
        (b"GET /health HTTP/1.0\r\n\r\n", 403),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ],
    ids=("bare newlines", "another scheme", "another version", "no host", "TLS"),
)
def test_what_is_no_request_is_answered_at_once(runstream_url: str, request_: bytes, status: int) -> None:
    assert raw(runstream_url, request_)[0] == status


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"5\r\nabcdefgh\r\n", b"ffffffffffffffff\r\n{"])
@pytest.mark.parametrize(
    "line",
    [
        f"POST {API}/runs/log-batch",
        f"POST {API}/registered-models/create",
        "PUT /api/2.0/mlflow-artifacts/artifacts/door/chunks",
        "POST /api/1.0/runstream/sql",
        "POST /nowhere",
    ],
)
def test_a_chunk_that_is_none_is_answered_at_once(runstream_url: str, line: str, chunk: bytes) -> None:
    """And what came of the body before it is nowhere taken for all of it."""
    head = f"{line} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n"
    for pieces in ([chunk], [b"", chunk], [b"2\r\n{}\r\n", chunk]):
        status, _, body = raw(runstream_url, head.encode() + pieces[0], *pieces[1:])
        assert (status, json.loads(body)["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
        assert b"Bad request: " in body
    assert ask(runstream_url, "GET /api/2.0/mlflow-artifacts/artifacts/door/chunks HTTP/1.1")[0] == 404


def test_probes_have_the_rule_of_hosts(runstream_url: str) -> None:
    for path in ("/health", "/ready", "/metrics"):
        assert ask(runstream_url, f"GET {path} HTTP/1.1", host="evil.example")[0] == 403
        assert ask(runstream_url, f"GET {path} HTTP/1.1", host="203.0.113.9:5000")[0] == 200


def test_a_range_of_very_many_digits_is_an_answer(runstream_url: str) -> None:
    path = "/api/2.0/mlflow-artifacts/artifacts/door/range"
    client = RawClient(runstream_url)
    assert client.send("PUT", path, b"0123456789").status == 200
    client.close()
    assert ask(runstream_url, f"GET {path} HTTP/1.1", f"Range: bytes={'9' * 5_000}-")[0] == 400


def test_allowed_origins_may_use_runstreams_own_api_as_they_may_use_mlflows(runstream_url: str) -> None:
    lines = (f"POST {API}/runs/search HTTP/1.1", "POST /api/1.0/runstream/metrics/query HTTP/1.1")
    bodies = (b'{"experiment_ids": ["0"]}', b'{"runs": ["none"]}')
    told = "access-control-allow-origin"
    for origin, allowed in (("http://localhost:3000", True), ("http://evil.example", False)):
        for line, body in zip(lines, bodies, strict=True):
            status, headers, _ = ask(runstream_url, line, f"Origin: {origin}", body=body)
            assert (status != 403) is allowed
            assert (headers.get(told) == origin) is allowed
            before = line.replace("POST", "OPTIONS")
            status, headers, _ = ask(
                runstream_url, before, f"Origin: {origin}", "Access-Control-Request-Method: POST"
            )
            assert (status, headers.get(told)) == ((200, origin) if allowed else (400, None))


def test_no_answer_of_ours_names_its_software(runstream_url: str) -> None:
    assert "server" not in ask(runstream_url, "GET /health HTTP/1.1")[1]
