"""Reads of runs, experiments and models: one statement each, and one row of JSON, whatever they hold."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

from runstream.ingest.control import answers, errors
from runstream.ingest.control.answers import Body
from runstream.ingest.control.database.reads import Dialect, ReadPool
from runstream.ingest.control.database.sql import packed, source
from runstream.ingest.control.entities import (
    DELETED,
    EXPERIMENT_COLUMNS,
    MODEL_COLUMNS,
    RUN_COLUMNS,
    RUN_NAME_TAG,
    Experiment,
    LoggedModel,
    Run,
)
from runstream.ingest.control.errors import PassOnError
from runstream.ingest.control.models import model_metric

# Models of one page of a search, unless it says otherwise.
_MODELS = 100


def _columns(dialect: Dialect, columns: Sequence[str], rest: str) -> str:
    """A subquery: an array for each column, its values in the order in which the rows are found (PostgreSQL: null
    without rows). Columns cost both databases and Python half of what an array for each row does."""
    if dialect == "sqlite":
        lists = ", ".join(f"json_group_array({column})" for column in columns)
        return f"(SELECT json_array({lists}) FROM {rest})"
    lists = ", ".join(f"array_agg({column})" for column in columns)
    return f"(SELECT json_build_array({lists}) FROM {rest})"


def _rows(columns: list[list[Any] | None]) -> Iterator[tuple[Any, ...]]:
    """The rows of ``_columns``."""
    return zip(*(column or () for column in columns), strict=True)


def whole(dialect: Dialect, columns: str, rest: str) -> str:
    """A statement whose rows are arrays: one row that holds all of them."""
    if dialect == "sqlite":
        return f"SELECT json_group_array(json_array({columns})) FROM {rest}"
    return f"SELECT coalesce(json_agg(json_build_array({columns})), '[]')::text FROM {rest}"


def _exact(dialect: Dialect, column: str) -> str:
    """A double as text that says all of it. SQLite's own printing is not exact to the last digit that counts, so it is
    asked for three more: a million random doubles came back bit for bit with 20 digits, 2 in 1,000 did not with 17."""
    return f"printf('%!.20g', {column})" if dialect == "sqlite" else f"{column}::text"


@functools.cache
def runs_statement(dialect: Dialect) -> str:
    """One row, the JSON of the rows for ``run_body`` of the runs whose ids are its parameter, ``packed``."""
    own = "run_uuid = runs.run_uuid"
    lists = (
        _columns(
            dialect,
            ("key", _exact(dialect, "value"), "timestamp", "step", "is_nan"),
            f"latest_metrics AS m WHERE m.{own}",
        ),
        _columns(dialect, ("key", "value"), f"params AS p WHERE p.{own}"),
        _columns(dialect, ("key", "value"), f"tags AS t WHERE t.{own}"),
        _columns(
            dialect,
            (
                *("d.dataset_uuid", "d.name", "d.digest", "d.dataset_source_type", "d.dataset_source"),
                *("d.dataset_schema", "d.dataset_profile", "it.name", "it.value"),
            ),
            "inputs AS i JOIN datasets AS d ON i.source_id = d.dataset_uuid LEFT JOIN input_tags AS it"
            " ON it.input_uuid = i.input_uuid WHERE i.destination_type = 'RUN' AND i.destination_id = runs.run_uuid",
        ),
        _columns(
            dialect,
            ("i.destination_id",),
            "inputs AS i WHERE i.source_type = 'RUN_INPUT' AND i.source_id = runs.run_uuid"
            " AND i.destination_type = 'MODEL_INPUT'",
        ),
        _columns(
            dialect,
            ("i.destination_id", "i.step"),
            "inputs AS i WHERE i.source_type = 'RUN_OUTPUT' AND i.source_id = runs.run_uuid"
            " AND i.destination_type = 'MODEL_OUTPUT'",
        ),
    )
    columns = f"{RUN_COLUMNS}, {', '.join(lists)}"
    return whole(dialect, columns, f"runs WHERE run_uuid IN (SELECT c0 FROM {source(dialect, 'text')})")


async def array(reads: ReadPool, sql: str, parameters: Sequence[Any]) -> list[list[Any]]:
    """The rows of a ``whole`` statement."""
    [(text,)] = await reads.rows(sql, parameters)
    found: list[list[Any]] = orjson.loads(text)
    return found


async def read_runs(reads: ReadPool, run_ids: Sequence[str]) -> dict[str, list[Any]]:
    """Rows for ``run_body``, of the runs that are there."""
    found = await array(reads, runs_statement(reads.dialect), [packed([[run_id] for run_id in run_ids])])
    return {row[0]: row for row in found}


def run_body(row: list[Any]) -> Body:
    """``runs/get`` (``SqlAlchemyStore.get_run``)."""
    run = Run(*row[:9])
    metrics, params, tags, datasets, model_inputs, model_outputs = row[9:]
    if run.user_id is None or run.start_time is None:
        raise PassOnError  # rows that MLflow itself does not make, and has its own trouble with
    if not run.name and (named := dict(_rows(tags)).get(RUN_NAME_TAG)):
        run.name = named
    data = answers.with_lists(
        metrics=_metrics(*(column or [] for column in metrics)),
        params=answers.pairs(_rows(params)),
        tags=answers.pairs(_rows(tags)),
    )
    inputs = answers.with_lists(
        dataset_inputs=_dataset_inputs(_rows(datasets)),
        model_inputs=[{"model_id": model_id} for (model_id,) in _rows(model_inputs)],
    )
    outputs = answers.with_lists(
        model_outputs=[{"model_id": model_id, "step": step} for model_id, step in _rows(model_outputs)]
    )
    return {"run": {"info": answers.run_info(run), "data": data, "inputs": inputs, "outputs": outputs}}


def _metrics(
    keys: list[str], values: list[str], timestamps: list[int], steps: list[int], are_nan: list[int]
) -> list[Body]:
    number = answers.number
    rows = zip(keys, map(float, values), timestamps, steps, are_nan, strict=True)
    return [
        {
            "key": key,
            # Most numbers are those that need no thought: a call for each is a third of this function's time.
            "value": value if 1e-4 <= value < 1e15 and not is_nan else number(value, bool(is_nan)),
            "timestamp": timestamp,
            "step": step,
        }
        for key, value, timestamp, step, is_nan in rows
    ]


def _dataset_inputs(rows: Iterable[tuple[Any, ...]]) -> list[Body]:
    inputs: dict[str, Body] = {}
    for dataset_id, name, digest, source_type, uri, schema, profile, tag, value in rows:
        if dataset_id not in inputs:
            dataset = {"name": name, "digest": digest, "source_type": source_type, "source": uri}
            dataset |= {"schema": schema} if schema else {}
            dataset |= {"profile": profile} if profile else {}
            inputs[dataset_id] = {"tags": [], "dataset": dataset}
        if tag is not None:
            inputs[dataset_id]["tags"].append({"key": tag, "value": value})
    return [item if item["tags"] else {"dataset": item["dataset"]} for item in inputs.values()]


@functools.cache
def _experiment_statement(dialect: Dialect, column: str) -> str:
    tags = _columns(
        dialect, ("key", "value"), "experiment_tags AS t WHERE t.experiment_id = experiments.experiment_id"
    )
    return whole(dialect, f"{EXPERIMENT_COLUMNS}, {tags}", f"experiments WHERE {column} = ?")


async def experiment_by_id(reads: ReadPool, experiment_id: int) -> Body:
    """``experiments/get``."""
    rows = await array(reads, _experiment_statement(reads.dialect, "experiment_id"), [experiment_id])
    if not rows:
        raise errors.no_experiment(experiment_id)
    return _experiment_body(rows)


async def experiment_by_name(reads: ReadPool, name: str) -> Body:
    """``experiments/get-by-name``."""
    rows = await array(reads, _experiment_statement(reads.dialect, "name"), [name])
    if not rows:
        raise errors.missing(f"Could not find experiment with name '{name}'")
    return _experiment_body(rows)


def _experiment_body(rows: list[list[Any]]) -> Body:
    if len(rows) > 1 or rows[0][2] is None:
        raise PassOnError
    *fields, tags = rows[0]
    return {"experiment": answers.experiment(Experiment(*fields), list(_rows(tags)))}


@functools.cache
def _model_statement(dialect: Dialect, found: str) -> str:
    own = "model_id = logged_models.model_id"
    lists = (
        _columns(dialect, ("tag_key", "tag_value"), f"logged_model_tags AS t WHERE t.{own}"),
        _columns(dialect, ("param_key", "param_value"), f"logged_model_params AS p WHERE p.{own}"),
        _columns(
            dialect,
            (
                *("metric_name", _exact(dialect, "metric_value"), "metric_timestamp_ms", "metric_step"),
                *("dataset_name", "dataset_digest", "run_id"),
            ),
            f"logged_model_metrics AS m WHERE m.{own}",
        ),
    )
    return whole(dialect, f"{MODEL_COLUMNS}, {', '.join(lists)}", found)


async def logged_model(reads: ReadPool, model_id: str) -> Body:
    """``GET logged-models/{model_id}``, of models that were not deleted."""
    rows = await array(reads, _model_statement(reads.dialect, "logged_models WHERE model_id = ?"), [model_id])
    if not rows or rows[0][7] == DELETED:
        raise errors.no_model(model_id)
    return {"model": _model_body(rows[0])}


async def logged_models_named(reads: ReadPool, experiment_ids: Sequence[int], name: str) -> Body:
    """``logged-models/search`` by name, newest first (``SqlAlchemyStore.search_logged_models``): the first page, where
    it is the only one. Raises ``PassOnError`` if there are more."""
    these = ", ".join("?" * len(experiment_ids))
    found = (
        f"(SELECT * FROM logged_models WHERE experiment_id IN ({these}) AND name = ? AND lifecycle_stage != ?"
        f" LIMIT {_MODELS + 1}) AS logged_models"
    )
    rows = await array(reads, _model_statement(reads.dialect, found), [*experiment_ids, name, DELETED])
    if len(rows) > _MODELS:
        raise PassOnError
    rows.sort(key=lambda row: (-row[4], row[0]))
    return {"models": [_model_body(row) for row in rows]} if rows else {}


def _model_body(row: list[Any]) -> Body:
    *fields, tags, params, metrics = row
    return answers.logged_model(
        LoggedModel(*fields),
        dict(_rows(tags)),
        dict(_rows(params)),
        [model_metric(row[0], key, float(value), *rest) for key, value, *rest in _rows(metrics)],
    )
