"""Large and odd bodies, understood in a process of their own: as here, or refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable

import pytest

from runstream.ingest.gateway.writes.aside import Aside
from runstream.ingest.gateway.writes.log_request import LogRequest
from runstream.ingest.gateway.writes.parse import ODD_BYTES, PARSERS, PLAIN_BYTES
from runstream.schemas.errors import MlflowError

RUN = "0" * 32
JSON = "application/json"


def batch(metrics: int, **also: object) -> bytes:
    metric = {"key": "z", "value": 1, "timestamp": 1, "step": 1}
    return json.dumps({"run_id": RUN, "metrics": [metric] * metrics, **also}).encode()


TAGS = [{"key": f"t{i}", "value": "ü" * 2_000} for i in range(90)]
BODIES = {
    "plain": batch(10),
    "odd": batch(10, unknown=1),
    "forwarded": batch(10, tags=TAGS),
    "not finite": b'{"run_id": "a", "metrics": [{"key": "k", "value": "NaN", "timestamp": 1}]}',
    "a bare NaN": b'{"run_id": "a", "metrics": [{"key": "k", "value": NaN, "timestamp": 1}]}',
    "too many": batch(230_000),
    "not JSON": b"x" * (2 << 20),
    "nested": b"[" * 200_000,
    "a lone surrogate": b'{"run_id": "a", "metrics": [{"key": "\\ud800", "value": 1, "timestamp": 1}]}',
    "a bad name": batch(1, tags=[{"key": "\u2028" * 3, "value": ""}]),
}


@pytest.fixture
async def aside() -> AsyncIterator[Aside]:
    made = Aside()
    yield made
    await made.close()


async def outcome(log: LogRequest | Awaitable[LogRequest]) -> tuple[str, bytes | None]:
    """Everything about a request, or about the error that it gets."""
    if not isinstance(log, LogRequest):
        log = await log
    deferred, log.deferred_error = log.deferred_error, None
    return repr(log), deferred.body() if deferred is not None else None


async def test_every_body_is_understood_as_it_is_here(aside: Aside) -> None:
    for name, body in BODIES.items():
        if name in ("too many", "not JSON", "nested", "a lone surrogate", "a bad name"):
            with pytest.raises(MlflowError) as here:
                PARSERS["log-batch"].whole(body, JSON)
            with pytest.raises(MlflowError) as there:
                await aside.parse("log-batch", body, JSON)
            assert there.value.body() == here.value.body(), name
        else:
            expected = await outcome(PARSERS["log-batch"].whole(body, JSON))
            assert await outcome(aside.parse("log-batch", body, JSON)) == expected, name


async def test_what_ends_the_process_is_refused_and_the_next_has_a_new_one(aside: Aside) -> None:
    asked = asyncio.create_task(aside.parse("log-batch", batch(100_000), JSON))
    async with asyncio.timeout(60):
        while aside._process is None:
            await asyncio.sleep(0.001)
        aside._process.kill()
        with pytest.raises(MlflowError) as raised:
            await asked
        assert raised.value.code == "BODY_TOO_LARGE"
        assert (
            await aside.parse("log-metric", b'{"run_id": "a", "key": "k", "value": 1, "timestamp": 1}', JSON)
        ).keys
        left = asyncio.create_task(aside.parse("log-batch", batch(100_000), JSON))
        await asyncio.sleep(0)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        assert (await aside.parse("log-batch", batch(2), JSON)).keys == ["z", "z"]


async def test_no_more_may_wait_than_the_bound(aside: Aside) -> None:
    body = b" " * (15 << 20)
    asked = [asyncio.create_task(aside.parse("log-batch", body, JSON)) for _ in range(6)]
    done = await asyncio.gather(*asked, return_exceptions=True)
    codes = [error.code for error in done if isinstance(error, MlflowError)]
    assert sorted(codes) == ["INVALID_PARAMETER_VALUE"] * 4 + ["RESOURCE_EXHAUSTED"] * 2


def test_only_small_bodies_are_understood_at_once() -> None:
    parser = PARSERS["log-batch"]
    assert parser.at_once(batch(1_000), JSON) is not None
    assert parser.at_once(batch(1_000), f"{JSON}; charset=utf-8") is not None
    assert parser.at_once(batch(1_000) + b" " * PLAIN_BYTES, JSON) is None
    assert parser.at_once(batch(10, unknown=1), JSON) is not None
    assert parser.at_once(batch(10, unknown=1) + b" " * ODD_BYTES, JSON) is None


def test_what_is_beyond_the_limits_of_a_batch_is_counted_and_not_looked_at() -> None:
    fields = json.loads(batch(5_000))
    fields["metrics"][2_000] = {"key": "../bad", "value": "x"}
    with pytest.raises(MlflowError, match=r"at most 1000 metrics. Got 5000 metrics"):
        PARSERS["log-batch"].whole(json.dumps(fields).encode(), JSON)


def test_a_bare_nan_refuses_the_whole_batch_and_says_which_point_it_is() -> None:
    fields = json.loads(batch(1_000))
    fields["metrics"][17]["value"] = float("nan")
    request = PARSERS["log-batch"].whole(json.dumps(fields).encode(), JSON)
    assert request.keys == []
    assert request.deferred_error is not None
    assert "metrics[17].value" in request.deferred_error.message
    assert '"NaN"' in request.deferred_error.message
    fields["metrics"][17]["value"] = "NaN"
    assert len(PARSERS["log-batch"].whole(json.dumps(fields).encode(), JSON).keys) == 1_000
