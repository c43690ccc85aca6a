"""Which runs a caller may see is asked of a real HTTP server, once for an experiment, and never for another caller."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from runstream.ingest.gateway.http.admission import RefusedError
from runstream.ingest.gateway.http.caller import Caller
from runstream.ingest.gateway.http.rights import Rights
from runstream.ingest.gateway.http.upstream import Upstream, UpstreamUnavailableError
from runstream.ingest.gateway.reads.verdicts import RunVerdicts

ANN = Caller((("Authorization", "ann"),), "", "127.0.0.1")
BOB = Caller((("Authorization", "bob"),), "", "127.0.0.1")


@dataclass
class Tracking:
    """Runs of experiments, and who may see which experiments."""

    runs: dict[str, str]
    rights: dict[str, set[str]]
    status: int = 0
    gets: list[tuple[str, str]] = field(default_factory=list)
    searches: int = 0

    async def get(self, request: web.Request) -> web.Response:
        run_id, user = request.query["run_id"], request.headers.get("Authorization", "")
        self.gets.append((user, run_id))
        if self.status:
            return web.json_response({"error_code": "X"}, status=self.status)
        if run_id not in self.runs:
            return web.json_response({"error_code": "RESOURCE_DOES_NOT_EXIST"}, status=404)
        if self.runs[run_id] not in self.rights.get(user, set()):
            return web.json_response({"error_code": "PERMISSION_DENIED"}, status=403)
        return web.json_response({"run": {"info": {"run_id": run_id, "experiment_id": self.runs[run_id]}}})

    async def search(self, request: web.Request) -> web.Response:
        self.searches += 1
        asked = await request.json()
        named = re.findall(r"'([^']*)'", asked["filter"])
        assert asked["run_view_type"] == "ALL"
        assert len(named) <= asked["max_results"]
        user = request.headers.get("Authorization", "")
        found = [
            {"info": {"run_id": run_id, "experiment_id": self.runs[run_id]}}
            for run_id in named
            if self.runs.get(run_id) in set(asked["experiment_ids"]) & self.rights.get(user, set())
        ]
        return web.json_response({"runs": found})


@dataclass
class Setup:
    tracking: Tracking
    verdicts: RunVerdicts
    now: list[float]
    epoch: list[int]


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    runs = {f"{number:032x}": str(number % 3) for number in range(1000)}
    tracking = Tracking(runs, {"ann": {"0", "1", "2"}, "bob": {"1"}})
    app = web.Application()
    app.router.add_get("/api/2.0/mlflow/runs/get", tracking.get)
    app.router.add_post("/api/2.0/mlflow/runs/search", tracking.search)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    upstream = Upstream("tracking", f"http://127.0.0.1:{runner.addresses[0][1]}", timeout_s=5)
    now, epoch = [1000.0], [0]
    rights = Rights(ttl_s=30, stale_s=900, epoch=lambda: epoch[0], clock=lambda: now[0])
    verdicts = RunVerdicts(get=upstream.get, post=upstream.post, rights=rights)
    yield Setup(tracking, verdicts, now, epoch)
    await upstream.close()
    await runner.cleanup()


def of(tracking: Tracking, experiment: str) -> list[str]:
    return [run_id for run_id, its in tracking.runs.items() if its == experiment]


async def test_a_thousand_runs_cost_one_question_for_each_experiment(setup: Setup) -> None:
    await setup.verdicts.check(ANN, list(setup.tracking.runs))
    assert len(setup.tracking.gets) == 3
    assert setup.tracking.searches <= 12
    await setup.verdicts.check(ANN, list(setup.tracking.runs))
    assert len(setup.tracking.gets) == 3


async def test_no_caller_profits_from_another(setup: Setup) -> None:
    mine, others = of(setup.tracking, "1"), of(setup.tracking, "0")
    await setup.verdicts.check(ANN, [*mine, *others])
    await setup.verdicts.check(BOB, mine)
    assert [run for user, run in setup.tracking.gets if user == "bob"] == mine[:1]
    for asked in (others[:1], [*mine, others[0]], [others[0], *mine], [*mine[:2], *others]):
        with pytest.raises(RefusedError) as refused:
            await setup.verdicts.check(BOB, asked)
        assert refused.value.answer.status == 403
    nobody = Caller((), "", "127.0.0.1")
    with pytest.raises(RefusedError):
        await setup.verdicts.check(nobody, mine[:1])
    elsewhere = Caller((*BOB.identity, ("X-MLFLOW-WORKSPACE", "w")), "w", "127.0.0.1")
    asked_before = len(setup.tracking.gets)
    await setup.verdicts.check(elsewhere, mine[:1])
    assert len(setup.tracking.gets) == asked_before + 1


async def test_a_run_that_is_not_there_is_not_passed_over(setup: Setup) -> None:
    mine = of(setup.tracking, "1")
    for asked in (["f" * 32], [*mine, "f" * 32], ["f" * 32, *mine]):
        with pytest.raises(RefusedError) as refused:
            await setup.verdicts.check(ANN, asked)
        assert refused.value.answer.status == 404
        assert json.loads(refused.value.answer.body)["error_code"] == "RESOURCE_DOES_NOT_EXIST"


async def test_a_right_that_is_taken_away_is_felt(setup: Setup) -> None:
    run_id = of(setup.tracking, "1")[0]
    await setup.verdicts.check(BOB, [run_id])
    setup.tracking.rights["bob"] = set()
    await setup.verdicts.check(BOB, [run_id])
    setup.epoch[0] += 1  # a change through a gateway of this machine
    with pytest.raises(RefusedError):
        await setup.verdicts.check(BOB, [run_id])
    setup.tracking.rights["bob"] = {"1"}
    await setup.verdicts.check(BOB, [run_id])
    setup.tracking.rights["bob"] = set()
    setup.now[0] += 31  # one that passed elsewhere
    with pytest.raises(RefusedError):
        await setup.verdicts.check(BOB, [run_id])


async def test_a_refusal_is_not_remembered(setup: Setup) -> None:
    run_id = of(setup.tracking, "2")[0]
    with pytest.raises(RefusedError):
        await setup.verdicts.check(BOB, [run_id])
    setup.tracking.rights["bob"] = {"2"}
    await setup.verdicts.check(BOB, [run_id])


@pytest.mark.parametrize("status", [401, 500, 503])
async def test_no_answer_is_no_yes(setup: Setup, status: int) -> None:
    setup.tracking.status = status
    with pytest.raises((RefusedError, UpstreamUnavailableError)):
        await setup.verdicts.check(ANN, of(setup.tracking, "0"))
