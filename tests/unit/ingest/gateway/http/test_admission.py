"""Verdicts are asked of a real HTTP server, remembered, and forgotten when they may have changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from runstream.ingest.gateway.http.admission import Admission, RefusedError
from runstream.ingest.gateway.http.epochs import Epochs
from runstream.ingest.gateway.http.upstream import Upstream, UpstreamUnavailableError


@dataclass
class Tracking:
    """Answers empty log-batches as the test wants."""

    status: int = 200
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    hold: asyncio.Event | None = None
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)

    async def log_batch(self, request: web.Request) -> web.Response:
        self.asked.append(((await request.json())["run_id"], request.headers.get("Authorization")))
        if self.hold is not None:
            await self.hold.wait()
        body = self.body if self.body is not None else json.dumps({"told": self.status}).encode()
        return web.Response(status=self.status, body=body, headers=self.headers)


@dataclass
class Setup:
    tracking: Tracking
    admission: Admission
    epochs: Epochs
    runner: web.AppRunner
    now: list[float]


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    tracking = Tracking()
    app = web.Application()
    app.router.add_post("/api/2.0/mlflow/runs/log-batch", tracking.log_batch)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    upstream = Upstream("tracking", f"http://{host}:{port}", timeout_s=5)
    now = [1000.0]
    epochs = Epochs()
    admission = Admission(upstream, epochs, ttl_s=30, stale_s=900, max_entries=3, clock=lambda: now[0])
    yield Setup(tracking, admission, epochs, runner, now)
    await upstream.close()
    await runner.cleanup()


async def test_a_yes_is_remembered_for_a_while(setup: Setup) -> None:
    for _ in range(3):
        await setup.admission.check("run", ())
    assert len(setup.tracking.asked) == 1
    setup.now[0] += 31
    await setup.admission.check("run", ())
    assert len(setup.tracking.asked) == 2


async def test_a_no_is_mlflows_own_and_is_asked_again(setup: Setup) -> None:
    setup.tracking.status = 404
    for _ in range(2):
        with pytest.raises(RefusedError) as refused:
            await setup.admission.check("run", ())
        assert (refused.value.answer.status, refused.value.answer.body) == (404, b'{"told": 404}')
    assert len(setup.tracking.asked) == 2


async def test_an_error_of_mlflows_is_its_answer_whatever_the_status(setup: Setup) -> None:
    """A workspace named where workspaces are off is 500 FEATURE_DISABLED, and no reason to try again."""
    setup.tracking.status = 500
    setup.tracking.body = b'{"error_code": "FEATURE_DISABLED", "message": "workspaces are off"}'
    with pytest.raises(RefusedError) as refused:
        await setup.admission.check("run", (("X-MLFLOW-WORKSPACE", "default"),))
    assert (refused.value.answer.status, refused.value.answer.body) == (500, setup.tracking.body)
    setup.tracking.status = 503
    setup.tracking.body = b'{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "no database"}'
    with pytest.raises(UpstreamUnavailableError):
        await setup.admission.check("run", ())


async def test_wrong_credentials_are_checked_once_in_a_while(setup: Setup) -> None:
    wrong = (("Authorization", "Basic d3Jvbmc="),)
    setup.tracking.status = 401
    setup.tracking.headers = {"WWW-Authenticate": 'Basic realm="mlflow"'}
    for run in ("a", "b", "c"):
        with pytest.raises(RefusedError) as refused:
            await setup.admission.check(run, wrong)
        assert refused.value.answer.headers == setup.tracking.headers
    assert len(setup.tracking.asked) == 1
    setup.tracking.status = 200
    with pytest.raises(RefusedError):
        await setup.admission.check("d", wrong)
    await setup.admission.check("d", (("Authorization", "Basic cmlnaHQ="),))
    setup.epochs.bump(None)  # users were changed
    await setup.admission.check("d", wrong)
    setup.tracking.status = 401
    setup.epochs.bump(None)
    with pytest.raises(RefusedError):
        await setup.admission.check("d", wrong)
    setup.tracking.status = 200
    setup.now[0] += 6
    await setup.admission.check("d", wrong)


async def test_credentials_alone(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for before the work of a large body: only 401 is about them, and no answer is none."""
    wrong, right = ((("Authorization", f"Basic {name}"),) for name in ("wrong", "right"))
    setup.tracking.status = 401
    for identity in ((), wrong, wrong):
        with pytest.raises(RefusedError):
            await setup.admission.check_credentials(identity)
    assert len(setup.tracking.asked) == 2  # once for each
    setup.tracking.status = 400  # there is no such run
    for _ in range(3):
        await setup.admission.check_credentials(right)
    assert len(setup.tracking.asked) == 3
    setup.tracking.status = 503
    setup.now[0] += 31
    await setup.admission.check_credentials(right)
    monkeypatch.setattr("runstream.ingest.gateway.http.admission._PATIENCE_S", 0.05)
    setup.tracking.hold = asyncio.Event()
    async with asyncio.timeout(30):
        await setup.admission.check_credentials(right)
    setup.tracking.hold.set()


async def test_callers_are_told_apart_by_their_credentials(setup: Setup) -> None:
    await setup.admission.check("run", (("Authorization", "alice"),))
    await setup.admission.check("run", (("Authorization", "bob"),))
    assert setup.tracking.asked == [("run", "alice"), ("run", "bob")]


async def test_concurrent_callers_share_one_question(setup: Setup) -> None:
    setup.tracking.hold = asyncio.Event()
    tasks = [asyncio.create_task(setup.admission.check("run", ())) for _ in range(20)]
    while not setup.tracking.asked:
        await asyncio.sleep(0.001)
    setup.tracking.hold.set()
    await asyncio.gather(*tasks)
    assert len(setup.tracking.asked) == 1


async def test_a_change_of_the_run_voids_its_verdict(setup: Setup) -> None:
    await setup.admission.check("run", ())
    setup.epochs.bump("run")
    setup.tracking.status = 400
    with pytest.raises(RefusedError):
        await setup.admission.check("run", ())


async def test_a_change_of_many_runs_voids_every_verdict(setup: Setup) -> None:
    await setup.admission.check("run", ())
    setup.epochs.bump(None)
    await setup.admission.check("run", ())
    assert len(setup.tracking.asked) == 2


async def test_a_change_during_the_question_is_not_missed(setup: Setup) -> None:
    setup.tracking.hold = asyncio.Event()
    first = asyncio.create_task(setup.admission.check("run", ()))
    while not setup.tracking.asked:
        await asyncio.sleep(0.001)
    setup.epochs.bump("run")
    setup.tracking.hold.set()
    await first
    assert not setup.admission.known("run", ())


async def test_memory_is_bounded(setup: Setup) -> None:
    for number in range(5):
        await setup.admission.check(str(number), ())
    assert [setup.admission.known(str(number), ()) for number in range(5)] == [False, False, True, True, True]


async def test_training_goes_on_while_the_mlflow_server_is_away(setup: Setup) -> None:
    await setup.admission.check("run", ())
    await setup.runner.cleanup()
    setup.now[0] += 60
    await setup.admission.check("run", ())
    with pytest.raises(UpstreamUnavailableError):
        await setup.admission.check("unknown", ())
    setup.now[0] += 900
    with pytest.raises(UpstreamUnavailableError):
        await setup.admission.check("run", ())


async def test_an_mlflow_server_that_fails_gives_no_verdict(setup: Setup) -> None:
    """It is there, but its database is not."""
    await setup.admission.check("run", ())
    setup.tracking.status = 503
    setup.now[0] += 60
    await setup.admission.check("run", ())
    with pytest.raises(UpstreamUnavailableError):
        await setup.admission.check("unknown", ())


async def test_training_goes_on_while_the_mlflow_server_hangs(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runstream.ingest.gateway.http.admission._PATIENCE_S", 0.05)
    await setup.admission.check("run", ())
    setup.tracking.hold = asyncio.Event()
    setup.now[0] += 60
    await setup.admission.check("run", ())
    assert setup.tracking.asked == [("run", None)] * 2
    # The same question is still under way; nobody waits for it again.
    setup.now[0] += 1
    async with asyncio.timeout(5):
        for _ in range(1000):
            await setup.admission.check("run", ())
    assert len(setup.tracking.asked) == 2
    # A run that was changed has no older yes; nor has one that was never allowed.
    setup.epochs.bump("run")
    waiting = [asyncio.create_task(setup.admission.check(run, ())) for run in ("run", "unknown")]
    done, _ = await asyncio.wait(waiting, timeout=0.2)
    assert not done
    setup.tracking.status = 404
    setup.tracking.hold.set()
    for task in waiting:
        with pytest.raises(RefusedError):
            await task


async def test_a_late_no_counts(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runstream.ingest.gateway.http.admission._PATIENCE_S", 0.05)
    await setup.admission.check("run", ())
    setup.tracking.hold, setup.tracking.status = asyncio.Event(), 403
    setup.now[0] += 60
    await setup.admission.check("run", ())
    setup.tracking.hold.set()
    setup.now[0] += 1

    async def refused() -> None:
        while True:
            await setup.admission.check("run", ())
            await asyncio.sleep(0.001)

    with pytest.raises(RefusedError) as error:
        await asyncio.wait_for(refused(), 10)
    assert error.value.answer.status == 403


def test_epochs_have_their_room_on_the_disk(tmp_path: Path) -> None:
    """A mapped file with holes ends the process when the disk is full."""
    Epochs(tmp_path / "epochs").close()
    facts = (tmp_path / "epochs").stat()
    assert facts.st_blocks * 512 >= facts.st_size > 0


def test_epochs_are_shared_through_their_file(tmp_path: Path) -> None:
    mine, theirs = Epochs(tmp_path / "epochs"), Epochs(tmp_path / "epochs")
    before = mine.of("run")
    theirs.bump("run")
    assert mine.of("run") != before
    between = mine.of("other")
    theirs.bump(None)
    assert mine.of("other") != between
    mine.close()
    theirs.close()
