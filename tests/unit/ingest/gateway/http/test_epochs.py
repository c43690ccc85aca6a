"""A change whose answer was lost voids verdicts now, and again when it may have come into effect."""

from __future__ import annotations

import asyncio

import pytest

from runstream.ingest.control.database.reads import MetadataUnavailableError
from runstream.ingest.gateway.control.routes import ControlRoutes
from runstream.ingest.gateway.http import epochs as module
from runstream.ingest.gateway.http.epochs import Epochs
from runstream.ingest.gateway.http.handling import Routes
from runstream.ingest.gateway.http.holding import Holding
from runstream.ingest.gateway.http.rights import Rights
from runstream.ingest.gateway.http.upstream import UpstreamUnavailableError
from runstream.schemas.errors import RunstreamError

RUN = "0" * 32
BODY = b'{"run_id": "' + RUN.encode() + b'"}'


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PERHAPS_LATER_S", (0.02, 0.2, 0.4))


async def changes(epochs: Epochs, run_id: str, count: int) -> None:
    """Wait until a reader has found its verdicts void so many times."""
    seen, found = epochs.of(run_id), 0
    async with asyncio.timeout(30):
        while found < count:
            await asyncio.sleep(0.001)
            if epochs.of(run_id) != seen:
                seen, found = epochs.of(run_id), found + 1


@pytest.mark.parametrize("run_id", [RUN, None])
async def test_a_lost_answer_counts_now_and_later(run_id: str | None) -> None:
    epochs = Epochs()
    before = epochs.of(RUN)
    epochs.bump_later(run_id)
    assert epochs.of(RUN) != before
    await changes(epochs, RUN, 3)
    epochs.bump_later(run_id)
    epochs.close()  # what is still to come does not harm a process that ends
    await asyncio.sleep(0.05)


class Lost:
    """A store, and MLflow's server, of which nobody knows whether they did what was asked."""

    def __init__(self, error: RunstreamError, *, is_here: bool) -> None:
        self._error = error
        self._is_here = is_here
        self.rights = Rights(ttl_s=1, stale_s=1, epoch=int)

    def store(self, identity: object) -> Lost | None:
        return self if self._is_here else None

    async def change(self, change: object) -> None:
        raise self._error

    async def post(self, path: str, call: object) -> None:
        raise self._error


class _Counts:
    def request(self, route: str) -> None:
        pass

    def refused(self, reason: str) -> None:
        pass


@pytest.mark.parametrize("route", ["runs/delete", "runs/restore", "experiments/delete"])
@pytest.mark.parametrize("is_here", [True, False], ids=["store", "server"])
async def test_a_change_of_the_lifecycle_whose_answer_is_lost(route: str, is_here: bool) -> None:
    epochs = Epochs()
    error: RunstreamError = MetadataUnavailableError("the commit's answer is lost")
    if not is_here:
        error = UpstreamUnavailableError("broke off", nothing_done=False)
    error.nothing_done = False
    lost = Lost(error, is_here=is_here)
    line = Holding(max_s=1, max_requests=1, max_bytes=1).line()
    routes = Routes(_Counts(), max_body_bytes=1000, retry_after_s=1)
    ControlRoutes(lost, lost, lost, epochs, line).add_to(routes, "")  # type: ignore[arg-type]
    body = BODY if route.startswith("runs") else b'{"experiment_id": "1"}'
    before = epochs.of(RUN)
    outcome = await routes.answer(
        routes.by_address["POST", f"/api/2.0/mlflow/{route}"],
        {"content-type": "application/json"},
        (),
        "",
        body,
    )
    assert outcome.status == 503
    assert epochs.of(RUN) != before
    await changes(epochs, RUN, 3)
