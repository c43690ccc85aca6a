"""Searches find what MLflow's own store finds, in its order, and print it as MLflow does: byte for byte.

On PostgreSQL, MLflow leaves the order of a run's metrics, params and tags to chance (where rows lie, which plan is
taken); there it is not compared.

Both read the same database, SQLite and PostgreSQL; filters and orders are made up. The bounds by which the finder
chooses its way are small here, so that a hundred runs meet every way.
"""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
    ViewType,
)
from mlflow.protos.service_pb2 import SearchExperiments, SearchRuns
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.proto_json_utils import message_to_json

from runstream.ingest.control.processes import index_builder
from runstream.ingest.control.search import connections, finder, settled
from runstream.ingest.control.search.grammar import Kind, NotPlainError
from runstream.ingest.control.search.service import Searcher
from runstream.ingest.control.table import columns
from runstream.ingest.control.table.grammar import parse_column
from support.postgres import postgres_server

pytestmark = pytest.mark.timeout(900)
# Without the phase that explains: it traces every line.
PHASES = (Phase.explicit, Phase.generate, Phase.shrink)
RUNS = 120
METRICS = ["loss", "acc", "val/loss", "rare"]
PARAMS = ["lr", "name", "long"]
TAGS = ["team", "mlflow.note.content"]
TEXTS = ["a", "A", "b", "ab", "a%b", "a_b", "", "ä", "Ä", "x" * 64, "x" * 65, "x" * 70 + "y"]
NUMBERS = [0.0, 1.0, -1.0, 0.5, 0.25, 1e-7, 1e300, float("nan"), float("inf"), float("-inf")]


WAYS: Counter[str] = Counter()


def fill(store: SqlAlchemyStore) -> list[str]:
    """Two experiments with runs of every kind; their ids."""
    chance = random.Random(5)
    experiments = [store.create_experiment(name) for name in ("one", "two")]
    store.create_experiment("Three", tags=[])
    store.set_experiment_tag(experiments[0], RunTag("team", "a"))
    store.set_experiment_tag(experiments[1], RunTag("team", "A%"))
    store.set_experiment_tag(experiments[1], RunTag("other", ""))
    for number in range(RUNS):
        run = store.create_run(
            chance.choice(experiments),
            chance.choice(["u", "v", ""]),
            chance.choice([0, 1, 2, 5_000]),
            [RunTag(key, chance.choice(TEXTS)) for key in TAGS if chance.random() < 0.7],
            chance.choice(["a", "b", f"run {number}"]),
        )
        run_id = run.info.run_id
        metrics = [
            Metric(key, chance.choice(NUMBERS), chance.randrange(3), chance.randrange(-2, 3))
            for key in METRICS
            if chance.random() < (0.1 if key == "rare" else 0.9)
        ]
        params = [Param(key, chance.choice(TEXTS)) for key in PARAMS if chance.random() < 0.7]
        store.log_batch(run_id, metrics, params, [])
        if chance.random() < 0.3:
            inputs = [
                DatasetInput(
                    Dataset(chance.choice(TEXTS[:4]), str(place), "local", "{}", None, '{"n": 1}'),
                    [InputTag("mlflow.data.context", chance.choice(["train", "eval"])), InputTag("x", "y")],
                )
                for place in range(chance.randrange(1, 3))
            ]
            store.log_inputs(run_id, inputs)
        if chance.random() < 0.2:
            store.log_outputs(run_id, [LoggedModelOutput("m-1", number)])
        if chance.random() < 0.5:
            store.update_run_info(run_id, chance.choice([2, 3, 4]), chance.choice([0, 7, None]), None)
        if chance.random() < 0.15:
            store.delete_run(run_id)
    with store.ManagedSessionMaker(read_only=False) as session:
        # As old versions left them: a name in the tag only.
        session.execute(sa.text("UPDATE runs SET name = NULL WHERE start_time = 2"))
    return [*experiments, "0"]


def make_indexes(uri: str) -> None:
    """What is ours beside MLflow's tables; on SQLite some runs stay unsettled."""
    address = connections.address_of(uri)
    if address.dialect == "postgresql":
        assert index_builder.build(address) is index_builder.Outcome.THERE
        return
    with contextlib.closing(sqlite3.connect(address.name, isolation_level=None)) as connection:
        assert settled.make(connection)
        settler = settled.Settler(connection)
        while settler.work():
            pass


def touch(store: SqlAlchemyStore) -> None:
    """Change what was there before: on SQLite these runs are unsettled now, and others have old entries."""
    chance = random.Random(6)
    with store.ManagedSessionMaker() as session:
        ids = [
            row[0]
            for row in session.execute(sa.text("SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active'"))
        ]
    for run_id in sorted(ids)[::9]:
        metrics = [Metric(key, chance.choice(NUMBERS), 5, 5) for key in ("loss", "rare")]
        store.log_batch(run_id, metrics, [Param("new", "a")], [RunTag("team", chance.choice(TEXTS))])


class Both:
    """MLflow's store and our searcher, on one database."""

    def __init__(self, uri: str) -> None:
        self.store = SqlAlchemyStore(uri, "mlflow-artifacts:/")
        self.experiments = fill(self.store)
        self.connection = connections.connect(connections.address_of(uri), timeout_s=60)
        make_indexes(uri)
        touch(self.store)
        self.searcher = Searcher(self.connection, max_bytes=1 << 26)
        self.scanner = Searcher(self.connection, max_bytes=1 << 26)
        self.scanner.indexed = False

    def runs(self, wanted: dict[str, Any]) -> str:
        """What MLflow answers."""
        found = self.store.search_runs(
            wanted["experiment_ids"],
            wanted.get("filter", ""),
            ViewType.from_string(wanted.get("run_view_type", "ACTIVE_ONLY").lower()),
            wanted.get("max_results", 1000),
            wanted.get("order_by", []),
            wanted.get("page_token"),
        )
        message = SearchRuns.Response()
        message.runs.extend([run.to_proto() for run in found])
        if found.token:
            message.next_page_token = found.token
        return str(message_to_json(message))

    def found_experiments(self, wanted: dict[str, Any]) -> str:
        """What MLflow answers."""
        found = self.store.search_experiments(
            ViewType.from_string(wanted.get("view_type", "ACTIVE_ONLY").lower()),
            wanted["max_results"],
            wanted.get("filter", ""),
            wanted.get("order_by", []),
            wanted.get("page_token"),
        )
        message = SearchExperiments.Response()
        message.experiments.extend([experiment.to_proto() for experiment in found])
        if found.token:
            message.next_page_token = found.token
        return str(message_to_json(message))

    def ours(self, route: str, wanted: dict[str, Any], *, indexed: bool = True) -> str:
        """What we answer. Raises ``NotPlainError``."""
        searcher = self.searcher if indexed else self.scanner
        body = searcher.answer(route, json.dumps(wanted).encode(), None).body
        assert body is not None
        return body.decode()

    def same(self, ours: str, theirs: str) -> bool:
        """Whether two answers are equal."""
        if self.connection.dialect == "sqlite":
            return ours == theirs
        return bool(_with_order(ours) == _with_order(theirs))

    def close(self) -> None:
        """Close both."""
        self.connection.close()
        self.store.engine.dispose()


def _with_order(answer: str) -> Any:
    found = json.loads(answer)
    for run in found.get("runs", []):
        for entries in run["data"].values():
            entries.sort(key=lambda entry: entry["key"])
    for experiment in found.get("experiments", []):
        experiment.get("tags", []).sort(key=lambda entry: entry["key"])
    return found


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    patch = pytest.MonkeyPatch()
    for name, value in {"FEW": 3, "WINDOW": 10, "_UNORDERED": 20}.items():
        patch.setattr(finder, name, value)
    patch.setattr(settled, "_MANY", -1)  # those that go on are settled too
    find = finder.Finder.find

    def counting(self: finder.Finder) -> finder.Found:
        found = find(self)
        WAYS[found.way] += 1
        return found

    patch.setattr(finder.Finder, "find", counting)
    WAYS.clear()
    try:
        if request.param == "postgresql":
            with postgres_server() as server:
                pair = Both(server.create_database("search"))
                yield pair
                pair.close()
        else:
            uri = f"sqlite:///{tmp_path_factory.mktemp('search') / 'mlflow.db'}"
            pair = Both(uri)
            yield pair
            pair.close()
    finally:
        patch.undo()


def quoted(text: str) -> str:
    return "'" + text.replace("'", "") + "'"


NUMBER = st.sampled_from([repr(number) for number in NUMBERS[:6]] + ["0", "1", "-1", "1e300"])
METRIC = st.builds(
    lambda key, sign, number: f"metrics.{key} {sign} {number}",
    st.sampled_from(["loss", "acc", "`val/loss`", "rare", '"none"']),
    st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
    NUMBER,
)
TEXT = st.sampled_from([quoted(text) for text in TEXTS] + ["'%a%'", "'A%'", "'_'", "'%'", '"a"', "'x%y'"])
PAIR = st.builds(
    lambda key, sign, text: f"{key} {sign} {text}",
    st.sampled_from(
        ["params.lr", "params.name", "params.long", "tags.team", "tags.mlflow.note.content", "params.no"]
    ),
    st.sampled_from(["=", "!=", "LIKE", "ILIKE"]),
    TEXT,
)
NULL = st.builds(
    lambda key, what: f"{key} {what}",
    st.sampled_from(["params.lr", "tags.team", "tags.none"]),
    st.sampled_from(["IS NULL", "IS NOT NULL"]),
)
ATTRIBUTE = st.sampled_from(
    ["status = 'FINISHED'", "status != 'RUNNING'", "attributes.run_name = 'a'", "run_name LIKE 'run %'",
     "user_id = 'u'", "start_time > 1", "start_time <= 1", "end_time = 7", "end_time != 7",
     "created >= 5000",
     "artifact_uri ILIKE '%A%'", "run_name ILIKE 'A'", "run_name != 'a'", "end_time < 8", "user_id != ''"]
)  # fmt: skip
DATASET = st.sampled_from(
    ["dataset.name = 'a'", "dataset.digest = '1'", "dataset.context = 'train'", "datasets.context IN ('train', 'eval')",
     "dataset.name != 'a'", "dataset.name ILIKE 'A%'", "dataset.context NOT IN ('train')",
     "dataset.digest LIKE '%'"]
)  # fmt: skip
FILTER = st.lists(METRIC | METRIC | PAIR | PAIR | NULL | ATTRIBUTE | DATASET, max_size=3).map(" AND ".join)
ORDER = st.lists(
    st.builds(
        lambda key, direction: key + direction,
        st.sampled_from(
            ["metrics.loss", "metrics.acc", "metrics.`val/loss`", "metrics.rare", "metrics.none", "params.lr",
             "params.long", "tags.team", "start_time", "end_time", "status", "run_name", "run_id",
             "user_id", "artifact_uri"]
        ),
        st.sampled_from(["", " ASC", " DESC"]),
    ),
    max_size=3,
    unique_by=lambda order: order.split()[0],
)  # fmt: skip
SEARCH = st.fixed_dictionaries(
    {
        "experiment_ids": st.sampled_from([["1"], ["1", "2"], ["2", "0"], ["0"], ["7", "1"], ["1", "1"]]),
        "filter": FILTER,
        "order_by": ORDER,
        "run_view_type": st.sampled_from(["ACTIVE_ONLY", "ACTIVE_ONLY", "ALL", "DELETED_ONLY"]),
        "max_results": st.sampled_from([1, 2, 3, 7, 20, 100, 1000]),
    }
)


@settings(max_examples=80, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
@given(SEARCH, st.booleans() | st.just(True))
def test_runs(both: Both, wanted: dict[str, Any], indexed: bool) -> None:
    for _ in range(3):
        try:
            ours = both.ours("runs/search", wanted, indexed=indexed)
        except NotPlainError:
            pytest.fail(f"not plain: {wanted}")
        assert both.same(ours, both.runs(wanted)), wanted
        token = json.loads(ours).get("next_page_token")
        if token is None:
            break
        wanted = wanted | {"page_token": token}


def test_all_pages(both: Both) -> None:
    """Page after page, of an order with ties, NaN and runs without the metric."""
    for order in (["metrics.loss"], ["metrics.rare DESC"], ["metrics.acc DESC", "params.lr"], []):
        wanted: dict[str, Any] = {"experiment_ids": ["1", "2"], "order_by": order, "max_results": 23}
        while True:
            ours = both.ours("runs/search", wanted)
            assert both.same(ours, both.runs(wanted)), wanted
            token = json.loads(ours).get("next_page_token")
            if token is None:
                break
            wanted = wanted | {"page_token": token}


def test_every_way_was_gone(both: Both) -> None:
    assert {way for way, count in WAYS.items() if count} == {"few", "window", "candidates", "walk", "scan"}


def test_ids(both: Both) -> None:
    found = json.loads(both.ours("runs/search", {"experiment_ids": ["1", "2"], "max_results": 9}))["runs"]
    ids = [run["info"]["run_id"] for run in found]
    some = ", ".join(map(quoted, ids[:4]))
    for filter_string in (
        f"run_id IN ({some})",
        f"attributes.run_id = '{ids[0]}'",
        f"run_id NOT IN ({some})",
    ):
        for order in ([], ["metrics.acc DESC"]):
            wanted = {"experiment_ids": ["1", "2"], "filter": filter_string, "order_by": order}
            assert both.same(both.ours("runs/search", wanted), both.runs(wanted))


EXPERIMENT_FILTER = st.lists(
    st.sampled_from(
        ["name = 'one'", "name != 'one'", "name LIKE 'T%'", "name ILIKE 't%'", "tags.team = 'a'",
         "tags.team ILIKE 'a%'", "tags.other = ''", "tags.team IS NULL", "tags.team IS NOT NULL",
         "creation_time > 5", "last_update_time <= 5",
         "attribute.name != 'Default'", "tag.team != 'x'"]
    ),
    max_size=2,
).map(" AND ".join)  # fmt: skip


@settings(max_examples=30, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
@given(
    st.fixed_dictionaries(
        {
            "filter": EXPERIMENT_FILTER,
            "view_type": st.sampled_from(["ACTIVE_ONLY", "ALL", "DELETED_ONLY"]),
            "max_results": st.sampled_from([1, 2, 100]),
            "order_by": st.lists(
                st.sampled_from(
                    ["name", "name DESC", "creation_time ASC", "last_update_time DESC", "experiment_id"]
                ),
                max_size=2,
            ),
        }
    )
)
def test_experiments(both: Both, wanted: dict[str, Any]) -> None:
    for _ in range(3):
        ours = both.ours("experiments/search", wanted)
        assert both.same(ours, both.found_experiments(wanted)), wanted
        token = json.loads(ours).get("next_page_token")
        if token is None:
            break
        wanted = wanted | {"page_token": token}


def test_an_answer_is_known_until_something_changes(both: Both) -> None:
    body = json.dumps({"experiment_ids": ["1", "2"], "max_results": 3}).encode()
    first = both.searcher.answer("runs/search", body, None)
    again = both.searcher.answer("runs/search", body, first.snapshot)
    assert again.body is None
    run_id = json.loads(first.body or b"")["runs"][0]["info"]["run_id"]
    both.store.set_tag(run_id, RunTag("changed", "yes"))
    changed = both.searcher.answer("runs/search", body, first.snapshot)
    assert changed.body is not None
    assert b'"changed"' in changed.body


@pytest.mark.parametrize("few", [1, 1_000], ids=["by key", "by run"])
def test_columns_of_tables(both: Both, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever way a table reads them, values are those of MLflow's own entities."""
    monkeypatch.setattr(columns, "_FEW", few)
    runs = both.store.search_runs(both.experiments, "", ViewType.ALL, max_results=1_000)
    run_ids = [run.info.run_id for run in runs]
    reader = columns.ColumnReader(both.connection, run_ids, settled=True)
    globs = [parse_column(glob) for glob in ("metrics.*", "params.*", "tags.*")]
    expanded = reader.expanded(globs)
    assert {column.key for column in expanded} >= {*METRICS, *PARAMS, *TAGS, "new"}
    for column in expanded:
        shown = [
            {Kind.METRIC: run.data.metrics, Kind.PARAM: run.data.params, Kind.TAG: run.data.tags}[column.kind]
            for run in runs
        ]
        wanted = [values.get(column.key) for values in shown]
        found = reader.values(column.kind, column.key)
        if column.kind is Kind.METRIC:
            # MLflow keeps infinities as the largest numbers there are.
            assert all(map(_same_number, found, wanted)), column
        else:
            assert found == wanted, column
    names = reader.attributes(["run_name", "start_time", "experiment_id"])
    assert names["start_time"] == [run.info.start_time for run in runs]
    assert names["experiment_id"] == [run.info.experiment_id for run in runs]


def _same_number(left: float | None, right: float | None) -> bool:
    return left == right or (left is not None and right is not None and left != left and right != right)


def test_migrations_do_not_mind(both: Both, tmp_path: Path) -> None:
    """MLflow's schema check and upgrade with our indexes there."""
    from mlflow.store.db.utils import _upgrade_db, _verify_schema

    _verify_schema(both.store.engine)
    _upgrade_db(both.store.engine)
    _verify_schema(both.store.engine)
