"""Reads of runs, experiments and models: one statement each, and one row of JSON, whatever they hold."""

from __future__ import annotations

import functools
from collections.abc import Sequence
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


def _list(dialect: Dialect, columns: str, rest: str) -> str:
    """A subquery: an array of arrays, in the order in which the rows are found."""
    if dialect == "sqlite":
        return f"(SELECT json_group_array(json_array({columns})) FROM {rest})"
    return f"(SELECT coalesce(json_agg(json_build_array({columns})), '[]') FROM {rest})"


def whole(dialect: Dialect, columns: str, rest: str) -> str:
    """A statement whose rows are arrays: one row that holds all of them."""
    return f"SELECT {_list(dialect, columns, rest)}" + ("" if dialect == "sqlite" else "::text")


def _exact(dialect: Dialect, column: str) -> str:
    """A double as text that says all of it. SQLite's own printing is not exact to the last digit that counts, so it is
    asked for three more: a million random doubles came back bit for bit with 20 digits, 2 in 1,000 did not with 17."""
    return f"printf('%!.20g', {column})" if dialect == "sqlite" else f"{column}::text"


@functools.cache
def runs_statement(dialect: Dialect) -> str:
    """One row, the JSON of the rows for ``run_body`` of the runs whose ids are its parameter, ``packed``."""
    own = "run_uuid = runs.run_uuid"
    lists = (
        _list(
            dialect,
            f"key, {_exact(dialect, 'value')}, timestamp, step, is_nan",
            f"latest_metrics AS m WHERE m.{own}",
        ),
        _list(dialect, "key, value", f"params AS p WHERE p.{own}"),
        _list(dialect, "key, value", f"tags AS t WHERE t.{own}"),
        _list(
            dialect,
            "d.dataset_uuid, d.name, d.digest, d.dataset_source_type, d.dataset_source, d.dataset_schema,"
            " d.dataset_profile, it.name, it.value",
            "inputs AS i JOIN datasets AS d ON i.source_id = d.dataset_uuid LEFT JOIN input_tags AS it"
            " ON it.input_uuid = i.input_uuid WHERE i.destination_type = 'RUN' AND i.destination_id = runs.run_uuid",
        ),
        _list(
            dialect,
            "i.destination_id",
            "inputs AS i WHERE i.source_type = 'RUN_INPUT' AND i.source_id = runs.run_uuid"
            " AND i.destination_type = 'MODEL_INPUT'",
        ),
        _list(
            dialect,
            "i.destination_id, i.step",
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
    if not run.name and (named := dict(tags).get(RUN_NAME_TAG)):
        run.name = named
    number = answers.number
    data = answers.with_lists(
        metrics=[
            {"key": key, "value": number(float(value), is_nan), "timestamp": timestamp, "step": step}
            for key, value, timestamp, step, is_nan in metrics
        ],
        params=answers.pairs(params),
        tags=answers.pairs(tags),
    )
    inputs = answers.with_lists(
        dataset_inputs=_dataset_inputs(datasets),
        model_inputs=[{"model_id": model_id} for (model_id,) in model_inputs],
    )
    outputs = answers.with_lists(
        model_outputs=[{"model_id": model_id, "step": step} for model_id, step in model_outputs]
    )
    return {"run": {"info": answers.run_info(run), "data": data, "inputs": inputs, "outputs": outputs}}


def _dataset_inputs(rows: list[list[Any]]) -> list[Body]:
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
    tags = _list(
        dialect, "key, value", "experiment_tags AS t WHERE t.experiment_id = experiments.experiment_id"
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
    return {"experiment": answers.experiment(Experiment(*fields), [(key, value) for key, value in tags])}


@functools.cache
def _model_statement(dialect: Dialect, found: str) -> str:
    own = "model_id = logged_models.model_id"
    lists = (
        _list(dialect, "tag_key, tag_value", f"logged_model_tags AS t WHERE t.{own}"),
        _list(dialect, "param_key, param_value", f"logged_model_params AS p WHERE p.{own}"),
        _list(
            dialect,
            f"metric_name, {_exact(dialect, 'metric_value')}, metric_timestamp_ms, metric_step, dataset_name,"
            " dataset_digest, run_id",
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
        dict(tags),
        dict(params),
        [model_metric(row[0], key, float(value), *rest) for key, value, *rest in metrics],
    )
