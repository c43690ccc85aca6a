"""Runstream answers requests on the metric plane as stock MLflow does, and stores the same.

Every case goes to a stock ``mlflow server``, started beside, and to the server under test. Status, error code and
message have to be equal, and so has what MLflow shows after an accepted request. ``is_meant`` holds the differences
that are meant. ``RUNSTREAM_VERDICT_EXAMPLES=5000`` makes more requests up, other ones each time.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import operator
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from support.raw_http import Answer
from support.stock import stock_server
from support.verdicts.cases import READS, ROUTES, WRITES
from support.verdicts.made_up import READ, writes
from support.verdicts.requests import API, JSON, Case, Request, batch, dump, one, point
from support.verdicts.sides import Side, parser_stops_half_way

T = TypeVar("T")
EXAMPLES = int(os.environ.get("RUNSTREAM_VERDICT_EXAMPLES", "0"))


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    with (
        stock_server(tmp_path_factory.mktemp("stock")) as server,
        contextlib.closing(Side(server.url)) as side,
    ):
        yield side


@pytest.fixture(scope="module")
def runstream(runstream_url: str) -> Iterator[Side]:
    with contextlib.closing(Side(runstream_url)) as side:
        yield side


# --- what has to be equal, and what need not


def meaning(answer: Answer) -> Any:
    """What has to be equal of an answer."""
    content = answer.json
    if isinstance(content, dict) and "error_code" in content:
        # The database's own words end in the row's values, and these in the experiment's number.
        return answer.status, content["error_code"], content["message"].partition("\n[parameters: ")[0]
    if answer.status == 200:
        return answer.status, json.dumps(content, sort_keys=True)
    return answer.status  # a page of HTML


def is_meant(request: Request, expected: Answer, answer: Answer) -> bool:
    """Bad input on which stock MLflow crashes, or of which it takes the half that it could read, is refused."""
    if expected.status >= 500 or (
        expected.status == 200 and request.method == "POST" and parser_stops_half_way(request)
    ):
        assert (answer.status, answer.json["error_code"]) == (400, "INVALID_PARAMETER_VALUE"), request
        return True
    return False


def on_both(stock: Side, runstream: Side, action: Callable[[Side], T]) -> tuple[T, T]:
    """Do the same on both at once: two servers, two cores."""
    with ThreadPoolExecutor(1) as beside:
        expected = beside.submit(action, stock)
        result = action(runstream)
        return expected.result(), result


def compare(case: Case, stock: Side, runstream: Side) -> None:
    """Send a case to both and compare answers and, if anything was accepted, what is stored."""
    on_both(stock, runstream, Side.begin)
    accepted = meant = unknown_model = False
    for number, request in enumerate(case.requests):
        expected, answer = on_both(stock, runstream, operator.methodcaller("send", request))
        accepted |= expected.status == 200
        meant = is_meant(request, expected, answer)
        if meant:
            break
        assert meaning(answer) == meaning(expected), f"request {number} of {case.name}: {request}"
        # Stock MLflow has stored the run's metrics by then, which we leave to the next attempt.
        unknown_model |= b'"BAD_REQUEST"' in expected.body
    if accepted and not meant and not unknown_model:
        of_model = any(b"@model@" in (request.body or b"") for request in case.requests)
        expected_stored, stored = on_both(stock, runstream, lambda side: side.stored(of_model=of_model))
        assert stored == expected_stored, case
    on_both(stock, runstream, lambda side: side.end(clean=not (accepted or unknown_model)))


def case_name(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", WRITES, ids=case_name)
def test_writes(case: Case, stock: Side, runstream: Side) -> None:
    compare(case, stock, runstream)


@pytest.mark.parametrize("case", [*READS, *ROUTES], ids=case_name)
def test_reads(case: Case, stock: Side, runstream: Side) -> None:
    for request in case.requests:
        expected, answer = on_both(stock, runstream, operator.methodcaller("send", request))
        if not is_meant(request, expected, answer):
            assert meaning(answer) == meaning(expected), request


# --- requests that nobody has thought of

_made_up = settings(
    max_examples=EXAMPLES or 150,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.timeout(3600)
@_made_up
@given(request=writes())
def test_made_up_writes(request: Request, stock: Side, runstream: Side) -> None:
    compare(Case("made up", (request,)), stock, runstream)


@pytest.mark.timeout(3600)
@_made_up
@given(request=READ)
def test_made_up_reads(request: Request, stock: Side, runstream: Side) -> None:
    expected, answer = on_both(stock, runstream, operator.methodcaller("send", request))
    if not is_meant(request, expected, answer):
        assert meaning(answer) == meaning(expected), request


# --- bodies that stock MLflow does not take


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body)


def _raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("gzip", _gzip),
        ("x-gzip", _gzip),
        ("deflate", zlib.compress),
        ("deflate", _raw_deflate),
        ("identity", bytes),
    ],
    ids=["gzip", "x-gzip", "deflate", "raw deflate", "identity"],
)
def test_encoded_bodies_are_taken(coding: str, pack: Any, runstream: Side) -> None:
    for path, body in (("log-metric", one(value=1.5)), ("log-batch", batch(point(step=5)))):
        runstream.begin()
        packed = pack(dump(body).replace("@active@", runstream.ids["active"]).encode())
        headers = {"Content-Type": JSON, "Content-Encoding": coding}
        assert runstream.client.send("POST", f"{API}/runs/{path}", packed, headers) == Answer(200, b"{}")
        assert len(runstream.stored(of_model=False)["metrics"]) == 1


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", b"not gzip"),
        ("gzip", gzip.compress(b"{}")[:-5]),
        ("deflate", b"\x78\x9cnot deflate"),
        ("br", b"{}"),
        ("gzip", gzip.compress(b" " * 300_000_000)),
        ("gzip, gzip", gzip.compress(gzip.compress(b" " * 300_000_000))),
    ],
    ids=["garbage", "cut off", "garbage deflate", "unknown coding", "bomb", "nested bomb"],
)
def test_bad_encodings_are_refused(coding: str, body: bytes, runstream: Side) -> None:
    headers = {"Content-Type": JSON, "Content-Encoding": coding}
    answer = runstream.client.send("POST", f"{API}/runs/log-batch", body, headers)
    assert answer.status == (413 if len(body) > 1000 or "," in coding else 400)
    assert answer.json["error_code"] == "INVALID_PARAMETER_VALUE"


def test_chunked_bodies_are_taken(runstream: Side) -> None:
    runstream.begin()
    body = dump(one()).replace("@active@", runstream.ids["active"]).encode()
    chunks = (body[at : at + 10] for at in range(0, len(body), 10))
    answer = runstream.client.send("POST", f"{API}/runs/log-metric", chunks, {"Content-Type": JSON})
    assert answer == Answer(200, b"{}")
    assert len(runstream.stored(of_model=False)["metrics"]) == 1


@pytest.mark.parametrize("path", ["log-metric", "log-batch", "set-tag"])
def test_a_workspace_named_where_there_are_none_is_answered_at_once(
    path: str, stock: Side, runstream: Side
) -> None:
    body = {"log-metric": one(), "log-batch": batch(point()), "set-tag": one(value="v")}[path]
    headers = {"Content-Type": JSON, "X-MLFLOW-WORKSPACE": "default"}
    on_both(stock, runstream, Side.begin)

    def send(side: Side) -> Answer:
        text = dump(body).replace("@active@", side.ids["active"])
        return side.client.send("POST", f"{API}/runs/{path}", text.encode(), headers)

    expected, answer = on_both(stock, runstream, send)
    assert expected.json["error_code"] == "FEATURE_DISABLED"
    assert meaning(answer) == meaning(expected)
