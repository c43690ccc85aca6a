"""Experiments, runs and models: Runstream answers as stock MLflow does, byte for byte, and makes the same rows.

On SQLite and PostgreSQL. Ids, times of now and random names are named alike before they are compared.
``RUNSTREAM_VERDICT_EXAMPLES=5000`` makes more requests up, other ones each time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from support.postgres import Postgres, postgres_server
from support.raw_http import Answer
from support.runstream_server import RunstreamServer
from support.stock import stock_server
from support.verdicts.control_cases import control_cases, spelling_cases
from support.verdicts.control_made_up import requests
from support.verdicts.control_sides import ControlSide, next_case
from support.verdicts.requests import Case, Request
from support.verdicts.search_cases import search_cases

EXAMPLES = int(os.environ.get("RUNSTREAM_VERDICT_EXAMPLES", "0"))
CASES = [*control_cases(), *search_cases()]
SPELLINGS = list(spelling_cases(all_of_them=EXAMPLES > 0))


@dataclass
class Sides:
    """``clean`` says that the last case left everything as it was, so that the next one may stand on it."""

    stock: ControlSide
    runstream: ControlSide
    ordered: bool
    clean: bool = False


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def sides(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    folder = tmp_path_factory.mktemp("control")
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        stock_uri, own_uri = server.create_database("stock"), server.create_database("own")
        environment = {"RUNSTREAM_METADATA": own_uri}
    else:
        stock_uri, own_uri = f"sqlite:///{folder}/mlflow.db", f"sqlite:///{folder}/data/mlflow.db"
        environment = {}
    with (
        stock_server(folder, backend_store_uri=stock_uri) as stock,
        RunstreamServer(folder / "data", workers=2, environment=environment) as runstream,
        contextlib.closing(ControlSide(stock.url, stock_uri)) as stock_side,
        contextlib.closing(ControlSide(runstream.url, own_uri)) as own_side,
    ):
        yield Sides(stock_side, own_side, ordered=request.param == "sqlite")


def on_both(sides: Sides, action: Any) -> tuple[Any, Any]:
    """Do the same on both at once: two servers, two cores."""
    with ThreadPoolExecutor(1) as beside:
        expected = beside.submit(action, sides.stock)
        result = action(sides.runstream)
        return expected.result(), result


def meaning(answer: Answer) -> Any:
    """All of a good answer; of a refusal, what it says up to the values of a row."""
    content = answer.json
    if isinstance(content, dict) and "error_code" in content:
        return answer.status, content["error_code"], content["message"].partition("[parameters: ")[0]
    return (answer.status, answer.body) if answer.status == 200 else answer.status


def any_order(answer: Answer) -> Any:
    """A run whose lists have no order: MLflow asks for none, and PostgreSQL gives rows as they lie."""
    run = answer.json["run"]
    for name, items in run["data"].items():
        run["data"][name] = sorted(items, key=lambda item: str(item["key"]))
    return run


def compare(case: Case, sides: Sides) -> None:
    if not sides.clean:
        number = next_case()
        on_both(sides, lambda side: side.begin(number))
    sides.clean = accepted = False
    for request in case.requests:
        expected, answer = on_both(sides, partial(_send, request=request))
        accepted |= expected.status == 200 and request.method != "GET"
        if expected.status >= 500 and answer.status == 400 and "log-batch" in request.path:
            return  # stock crashes on bad input there, as the verdicts on metrics say
        if sides.ordered or expected.status != 200 or "runs/get" not in request.path:
            assert meaning(answer) == meaning(expected), f"{case.name}: {request}"
        else:
            assert any_order(answer) == any_order(expected), f"{case.name}: {request}"
    if accepted:
        expected_rows, rows = on_both(sides, ControlSide.rows)
        assert rows == expected_rows, case.name
    sides.clean = not accepted


def _send(side: ControlSide, request: Request) -> Answer:
    return side.send(request)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_control(case: Case, sides: Sides) -> None:
    compare(case, sides)


# Which database it is makes no difference to these.
@pytest.mark.slow_suite
@pytest.mark.parametrize("sides", ["sqlite"], indirect=True, scope="module")
@pytest.mark.parametrize("case", SPELLINGS, ids=lambda case: case.name)
def test_spellings(case: Case, sides: Sides) -> None:
    compare(case, sides)


@pytest.mark.timeout(3600)
@settings(
    max_examples=EXAMPLES or 60,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
@given(sent=requests())
def test_made_up(sent: list[Request], sides: Sides) -> None:
    compare(Case("made up", tuple(sent)), sides)
