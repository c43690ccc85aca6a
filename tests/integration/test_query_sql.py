"""SQL for users: it computes on the metrics view, and reaches nothing else."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from runstream.query.service import QueryConfig
from runstream.query.sql.functions import ALLOWED
from runstream.roles.sql_process import SqlProcess
from runstream.schemas.ports.database import DatabaseError
from support.clickhouse_engine import insert_points, shared_database
from support.query_server import TOKEN, query_server


@pytest.fixture(scope="module", params=["threads", "process"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    config = QueryConfig(internal_token=TOKEN, sql_timeout_s=1.5)
    apart = None
    if request.param == "process":
        folder = tmp_path_factory.mktemp("sql")
        # Time enough for a loaded machine to follow a table of many small parts.
        apart = SqlProcess(shared_database(), folder, max_query_s=config.sql_timeout_s, grace_s=30)
    with query_server(config=config, statements=apart) as address:
        yield f"{address}/api/1.0/runstream/sql"


@pytest.fixture(scope="module")
def run() -> str:
    run_id = uuid.uuid4().hex
    for _ in range(2):
        insert_points(shared_database(), run_id, "loss", [(s, 100 + s, 1 / (s + 1)) for s in range(10)])
        insert_points(shared_database(), run_id, "it's/acc", [(s, 100 + s, float(s)) for s in range(4)])
    return run_id


def ask(url: str, query: str, **parameters: Any) -> requests.Response:
    return requests.post(
        url,
        json={"query": query, "parameters": parameters},
        headers={"Accept": "application/json"},
        timeout=60,
    )


GOOD = [
    ("select count() n from metrics where run_id = {run:String}", [{"n": 14}]),
    (
        "select key, max(value) as top from metrics where run_id = {run:String} group by key order by key desc",
        [{"key": "loss", "top": 1.0}, {"key": "it's/acc", "top": 3.0}],
    ),
    (
        "SELECT step FROM metrics WHERE run_id={run:String} AND key='loss' ORDER BY step DESC LIMIT 2",
        [{"step": 9}, {"step": 8}],
    ),
    (
        "with best as (select key, argMin(step, value) as at from metrics where run_id = {run:String} group by key)"
        " select at from best where key in ('loss', 'acc')",
        [{"at": 9}],
    ),
    (
        "select quantileExactIf(0.5)(value, key = 'loss') > 0 as yes from metrics where run_id = {run:String}",
        [{"yes": True}],
    ),
    (
        "select m.step from metrics m join metrics n using (run_id, step) where m.run_id = {run:String}"
        " and m.key = 'loss' and n.key like 'it%' and m.step > 2",
        [{"step": 3}],
    ),
    (
        "select step, row_number() over (partition by key order by step) as r from metrics"
        " where run_id = {run:String} and key = 'loss' and step % 5 = 4 order by r",
        [{"step": 4, "r": 1}, {"step": 9, "r": 2}],
    ),
    (
        "select arrayMap(x -> x * 2, [1, 2]) as a, if(1 > 2, 'b', 'c') as b from metrics"
        " where run_id = {run:String} limit 1",
        [{"a": [2, 4], "b": "c"}],
    ),
    ("select 1 as one where {run:String} != ''", [{"one": 1}]),
    (
        "select count() as n from (select distinct key from metrics where run_id = {run:String} union all select 'x')",
        [{"n": 3}],
    ),
    (
        "select key from metrics where run_id = {run:String} and step in"
        " (select step from metrics where step = 3 and run_id = {run:String}) order by key",
        [{"key": "it's/acc"}, {"key": "loss"}],
    ),
]


@pytest.mark.parametrize(("query", "rows"), GOOD)
def test_questions(url: str, run: str, query: str, rows: list[dict[str, Any]]) -> None:
    answer = ask(url, query, run=run)
    assert answer.status_code == 200, answer.text
    assert [
        {name: bool(v) if name == "yes" else v for name, v in row.items()} for row in answer.json()
    ] == rows


def test_lists_are_parameters_too(url: str, run: str) -> None:
    answer = ask(
        url,
        "select count() as n from metrics where run_id = {run:String} and step in {steps:Array(Int64)}"
        " and key = {key:String}",
        run=run,
        steps=[1, 2],
        key="it's/acc",
    )
    assert answer.json() == [{"n": 2}]


BAD = [
    "select * from system.tables",
    "select * from system.one",
    "select * from information_schema.tables",
    "select * from runstream.metrics",
    "select * from runstream_migrations",
    "select * from numbers(5)",
    "select * from file('/etc/passwd')",
    "select * from file('/etc/passwd', 'LineAsString')",
    "select file('/etc/passwd')",
    "select * from url('http://127.0.0.1:1/', 'CSV', 'a String')",
    "select * from remote('127.0.0.1', system.one)",
    "select * from s3('http://127.0.0.1:1/x')",
    "select * from mysql('h:1', 'd', 't', 'u', 'p')",
    "select * from merge('', '.*')",
    "select * from executable('id', 'TSV', 'a String')",
    "select * from view(select 1)",
    "select * from values('a Int8', 1)",
    "select * from generateRandom('a Int8')",
    "select * from cluster('default', system.one)",
    "select * from dictionary('d')",
    "select * from (select * from system.settings)",
    "select 1 where 1 in system.one",
    "select 1 where 1 in (system.one)",
    "select 1 where 'a' in (select name from system.tables)",
    "select (select count() from system.tables)",
    "select exists(select 1 from system.tables)",
    "select dictGet('d', 'a', 1)",
    "select joinGet('j', 'a', 1)",
    "select getSetting('max_threads')",
    "select hostName()",
    "select currentDatabase()",
    "select version()",
    "select sleep(3)",
    "select throwIf(1)",
    "select 1 settings max_threads = 8",
    "select 1 into outfile '/tmp/x'",
    "select 1 format JSON",
    "select 1; select 2",
    "select 1; drop table metrics",
    "drop table metrics",
    "insert into metrics values ('a', 'b', 1, 1, 1)",
    "create table x (a Int8) engine = Memory",
    "alter table metrics delete where 1",
    "truncate table metrics",
    "set max_threads = 8",
    "explain ast select 1",
    "show tables",
    "describe metrics",
    "attach table x",
    "system flush logs",
    "kill query where 1",
    "select 1) union all select name from (select name from system.tables",
    "select 1)) union all select * from (select name from system.tables where (1",
    "select 1 -- comment",
    "select /* comment */ 1",
    "select 1 # comment",
    "select `key` from metrics",
    'select "key" from metrics',
    "select 'a\\'b'",
    "select $$text$$",
    "select ‘text’",
    "select * from {table:Identifier}",
    "select {x:Array(Array(String))}",
    "select _part from metrics",
    "select columns('.*') from metrics",
    "with runstream_migrations as (select 1) select * from runstream_migrations",
    "select * from metrics array join (select groupArray(name) from system.tables) as x",
    "select * from metrics as m join system.tables as t on 1 = 1",
    "select",
    "",
    "   ",
    "select (1",
]


@pytest.mark.parametrize("query", BAD)
def test_everything_else_is_refused(url: str, query: str) -> None:
    parameters = {"table": "system.tables"} if "{table" in query else {"x": [["a"]]} if "{x" in query else {}
    answer = ask(url, query, **parameters)
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize(
    "query",
    [
        "select count() from metrics as a cross join metrics as b cross join metrics as c cross join metrics as d"
        " cross join metrics as e cross join metrics as f cross join metrics as g cross join metrics as h",
        "select arraySort(range(500000000)) as a",
        "select arrayJoin(range(3000000)) as a",
    ],
)
def test_a_query_that_asks_too_much_is_stopped(url: str, run: str, query: str) -> None:
    answer = ask(url, query)
    assert answer.status_code == 400
    assert "ClickHouse says" in answer.json()["message"]


def test_a_failed_query_leaves_nothing_behind() -> None:
    database = shared_database()
    for _ in range(3):
        with pytest.raises(DatabaseError):
            database.arrow(
                "SELECT * FROM (SELECT arrayJoin(range(3000000)) AS left_over)",
                settings={"max_result_rows": 1000, "result_overflow_mode": "throw"},
            )
        assert database.arrow("SELECT 1 AS one").to_pylist() == [{"one": 1}]


def test_parameters_must_fit(url: str) -> None:
    assert ask(url, "select {a:Int64} as a", a=5).json() == [{"a": 5}]
    assert ask(url, "select {a:Int64} as a").status_code == 400
    assert ask(url, "select 1 as a", a=5).status_code == 400
    assert ask(url, "select {a:Int64} as a", a="x' or 1").status_code == 400


def test_mistakes_are_explained(url: str) -> None:
    answer = ask(url, "select nothing from metrics")
    assert answer.status_code == 400
    assert "nothing" in answer.json()["message"]


def test_the_list_names_functions_that_exist() -> None:
    known = {
        name.lower()
        for name in shared_database().arrow("SELECT name FROM system.functions")["name"].to_pylist()
    }
    # Written as functions by ClickHouse's parser, without being any.
    syntax = {"lambda", "exists", "untuple"}
    assert ALLOWED - known - syntax == set()
