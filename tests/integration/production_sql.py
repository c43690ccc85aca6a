"""Users' SQL on a ClickHouse server, through the gateway: ``test_production_set`` names this file, for it needs every
role in a process of its own."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

import pytest

from support.cluster import RunstreamCluster
from support.raw_http import RawClient

SQL = "/api/1.0/runstream/sql"
JSON = {"Content-Type": "application/json", "Accept": "application/json"}
# Minutes, block by block.
LONG = (
    "select sum(cityHash64(a, b)) as of_nobody from (select arrayJoin(range(100000)) as a) as x"
    " cross join (select arrayJoin(range(1000000)) as b) as y"
)


@pytest.mark.timeout(300)
def test_statements_whose_callers_leave_are_killed(production_set: RunstreamCluster) -> None:
    """And the others have their turn."""
    before = len(production_set.clickhouse.statements())

    def long_ones() -> list[dict[str, Any]]:
        told = production_set.clickhouse.statements()[before:]
        return [one for one in told if one["sql"].startswith("WITH ") and "of_nobody" in one["sql"]]

    callers = []
    for role in production_set.gateways:
        caller = http.client.HTTPConnection("127.0.0.1", role.port)
        caller.request("POST", SQL, json.dumps({"query": LONG}), JSON)
        callers.append(caller)
    _wait(lambda: len(long_ones()) == len(callers))
    assert len(callers) == 2, "as many as run at once"
    for caller in callers:
        caller.close()
    _wait(lambda: all(one["error"] for one in long_ones()))
    # Not by their time: TIMEOUT_EXCEEDED would say that.
    assert all("QUERY_WAS_CANCELLED" in one["error"] for one in long_ones()), long_ones()
    client = RawClient(production_set.url)
    answer = client.send(
        "POST", SQL, json.dumps({"query": "select count() as n from metrics"}).encode(), JSON
    )
    client.close()
    assert (answer.status, len(answer.json)) == (200, 1)


def _wait(reached: Any) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)
