"""Requests on experiments, runs and models; the expected answers are stock MLflow's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlencode

from support.verdicts.requests import AJAX, API, JSON, Case, Request, dump, pairs, post
from support.verdicts.values import BODIES, CONTENT_TYPES, KEYS, ODD_VALUES

RUN = {"run_id": "@active@"}
IN_EXPERIMENT = {"experiment_id": "@experiment@"}
DATASET = {"name": "d", "digest": "e", "source_type": "local", "source": "{}"}
TAGGED: dict[str, Any] = {"dataset": DATASET, "tags": [{"key": "mlflow.data.context", "value": "train"}]}
# A good body for every route.
GOOD: dict[str, dict[str, Any]] = {
    "experiments/create": {"name": "@name@ new", "tags": [{"key": "a", "value": "b"}]},
    "experiments/update": {**IN_EXPERIMENT, "new_name": "@name@ renamed"},
    "experiments/delete": IN_EXPERIMENT,
    "experiments/restore": IN_EXPERIMENT,
    "experiments/set-experiment-tag": {**IN_EXPERIMENT, "key": "k", "value": "v"},
    "experiments/delete-experiment-tag": {**IN_EXPERIMENT, "key": "k"},
    "runs/create": {**IN_EXPERIMENT, "user_id": "u", "run_name": "r", "start_time": 5, "tags": pairs(2)},
    "runs/update": {**RUN, "status": "FINISHED", "end_time": 9, "run_name": "renamed"},
    "runs/delete": RUN,
    "runs/restore": RUN,
    "runs/log-parameter": {**RUN, "key": "k", "value": "v"},
    "runs/set-tag": {**RUN, "key": "k", "value": "v"},
    "runs/delete-tag": {**RUN, "key": "mlflow.runName"},
    "runs/log-batch": {**RUN, "params": pairs(3), "tags": pairs(2)},
    "runs/log-inputs": {**RUN, "datasets": [TAGGED]},
    "runs/outputs": {**RUN, "models": [{"model_id": "m-@model@", "step": 3}]},
    "logged-models": {
        **IN_EXPERIMENT,
        "name": "n",
        "model_type": "agent",
        "source_run_id": "@active@",
        "params": pairs(2),
        "tags": pairs(2),
    },
}
# Values for fields: some that every kind of field refuses, some that only some take.
_FEW = ("absent", "null", "empty string", "true", "one", "number in a string", "lone surrogate", "nul")
_MANY = (
    "absent",
    "null",
    "empty string",
    "word",
    "true",
    "zero",
    "one",
    "minus one",
    "fraction",
    "integral float",
    "int64 max + 1",
    "number in a string",
    "word with letters",
    "lone surrogate",
    "surrogate pair",
    "nul",
    "empty list",
    "list of strings",
    "empty object",
)


def _named(table: dict[str, dict[str, Any]]) -> Iterable[tuple[str, dict[str, Any]]]:
    return table.items()


def get(path: str, api: str = API, **query: Any) -> Request:
    return Request("GET", f"{api}/{path}?{urlencode(query, doseq=True)}", None, None)


def patch(path: str, body: Any) -> Request:
    return Request("PATCH", f"{API}/{path}", dump(body).encode("utf-8", "surrogatepass"), JSON)


def changed(path: str, **fields: Any) -> Request:
    body = {**GOOD[path], **fields}
    return post(path, {name: value for name, value in body.items() if value is not ...})


SEE_RUN = get("runs/get", run_id="@active@")
SEE_EXPERIMENT = get("experiments/get", experiment_id="@experiment@")
SEE_MODEL = Request("GET", f"{API}/logged-models/m-@model@", None, None)


def control_cases() -> Iterator[Case]:
    """What depends on the database, or on the route."""
    yield from _routes()
    yield from _experiments()
    yield from _runs()
    yield from _inputs()
    yield from _models()


def spelling_cases(*, all_of_them: bool) -> Iterator[Case]:
    """What is decided before any database is asked."""
    for path, good in GOOD.items():
        for field in (*good, "unknown", "run_uuid", "runId"):
            for name in _MANY if all_of_them else _FEW:
                yield Case(f"{path}/{field}/{name}", (changed(path, **{field: ODD_VALUES[name]}),))
    keyed = ("runs/log-parameter", "runs/set-tag", "experiments/set-experiment-tag", "runs/create")
    for path in keyed if all_of_them else ("runs/log-parameter", "runs/create"):
        for name, key in KEYS.items():
            fields = {"tags": [{"key": key, "value": "v"}]} if path == "runs/create" else {"key": key}
            yield Case(f"{path}/key {name}", (changed(path, **fields), SEE_RUN))
    for path in ("runs/set-tag", "runs/create", "experiments/create") if all_of_them else ("runs/set-tag",):
        for name, body in BODIES.items():
            yield Case(f"{path}/body {name}", (post(path, body),))
        for name, content_type in CONTENT_TYPES.items():
            yield Case(f"{path}/content type {name}", (post(path, GOOD[path], content_type),))


def _routes() -> Iterator[Case]:
    for path, good in GOOD.items():
        yield Case(f"{path}/ajax", (post(path, good, api=AJAX), SEE_RUN, SEE_EXPERIMENT))
        yield Case(f"{path}/twice", (post(path, good), post(path, good), SEE_RUN, SEE_EXPERIMENT))
        if "run_id" in good:
            for run in ("deleted", "unknown"):
                yield Case(f"{path}/{run} run", (changed(path, run_id=f"@{run}@"),))
            yield Case(f"{path}/run_uuid too", (changed(path, run_uuid="@deleted@"), SEE_RUN))
        if "experiment_id" in good:
            for number in ("99999999", "0", "00", " 0", "-1", "+1", "٣"):
                if not path.startswith("experiments/") or number != "0":
                    yield Case(f"{path}/experiment {number!r}", (changed(path, experiment_id=number),))
            gone = post("experiments/delete", IN_EXPERIMENT)
            back = post("experiments/restore", IN_EXPERIMENT)
            yield Case(
                f"{path}/deleted experiment", (gone, post(path, good), SEE_EXPERIMENT, back, SEE_EXPERIMENT)
            )


def _experiments() -> Iterator[Case]:
    create = GOOD["experiments/create"]
    for name, fields in _named(
        {
            "no tags": {"tags": ...},
            "the same name": {"name": "@name@"},
            "a quote in a name": {"name": '@name@ it\'s "x" %s {y}'},
            "a long name": {"name": "@name@" + "n" * 200},
            "a longer name": {"name": "@name@" + "n" * 300},
            "the longest name": {"name": "n" * 501},
            "a wide name": {"name": "@name@ 漢字😀\x7f"},
            "a location": {"artifact_location": "s3://bucket/path"},
            "a bad location": {"artifact_location": "s3://bucket/../path#x"},
            "a tag twice": {"tags": [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]},
            "a bad tag": {"tags": [{"key": "@", "value": "1"}]},
            "a long tag": {"tags": [{"key": "a", "value": "v" * 20_001}]},
            "a tag without a value": {"tags": [{"key": "a"}]},
            "a view": {"tags": [{"key": "mlflow.customView.view1", "value": "{}"}]},
            "a retention": {"tags": [{"key": "mlflow.trace.archivalRetention", "value": "{}"}]},
        }
    ):
        yield Case(f"experiments/create/{name}", (changed("experiments/create", **fields),))
    by_name = get("experiments/get-by-name", experiment_name="@name@ new")
    yield Case("experiments/get-by-name", (by_name, post("experiments/create", create), by_name))
    for name, query in _named(
        {
            "unknown": {"experiment_id": "99999999"},
            "a word": {"experiment_id": "x"},
            "empty": {"experiment_id": ""},
            "none": {},
            "two": {"experiment_id": ["0", "@experiment@"]},
            "spaces": {"experiment_id": " 0"},
            "and more": {"experiment_id": "@experiment@", "x": "y"},
        }
    ):
        yield Case(f"experiments/get/{name}", (get("experiments/get", **query),))
    for name in ("", "no such name", "it's", "%", "a\x00b", "漢字", "Default", "default"):
        yield Case(
            f"experiments/get-by-name/{name!r}", (get("experiments/get-by-name", experiment_name=name),)
        )
    yield Case(
        "experiments/rename to a taken name",
        (post("experiments/create", create), changed("experiments/update", new_name="@name@ new")),
    )
    yield Case(
        "experiments/rename to its own name",
        (changed("experiments/update", new_name="@name@"), SEE_EXPERIMENT),
    )
    tag = "experiments/set-experiment-tag"
    yield Case(
        "experiments/tags",
        (
            changed(tag),
            changed(tag, key="b", value=""),
            changed(tag, value="w"),
            SEE_EXPERIMENT,
            post("experiments/delete-experiment-tag", GOOD["experiments/delete-experiment-tag"]),
            SEE_EXPERIMENT,
        ),
    )


def _runs() -> Iterator[Case]:
    named = [{"key": "mlflow.runName", "value": "tagged"}]
    for name, fields in _named(
        {
            "no name": {"run_name": ...},
            "an empty name": {"run_name": ""},
            "a tag for a name": {"run_name": ..., "tags": named},
            "both": {"tags": named},
            "both alike": {"run_name": "tagged", "tags": named},
            "an empty tag for a name": {"run_name": ..., "tags": [{"key": "mlflow.runName", "value": ""}]},
            "nothing but the experiment": dict.fromkeys(("run_name", "tags", "user_id", "start_time"), ...),
            "a name of 250": {"run_name": "n" * 250},
            "a name of 251": {"run_name": "n" * 251},
            "a tag twice": {"tags": [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]},
            "a tag without a value": {"tags": [{"key": "a"}]},
            "a tag without a key": {"tags": [{"value": "a"}]},
            "a long tag": {"tags": [{"key": "a", "value": "v" * 9000}]},
            "a long key": {"tags": [{"key": "k" * 251, "value": "v"}]},
            "a parent": {"tags": [{"key": "mlflow.parentRunId", "value": "@active@"}]},
            "101 tags": {"tags": pairs(101)},
            "an id of the client's": {"run_id": "a" * 32},
            "characters": {
                "run_name": "é漢😀\x7f\x01",
                "tags": [{"key": "x", "value": "é漢😀\x7f\x01\n\u2028"}],
            },
            "no experiment": {"experiment_id": ...},
        }
    ):
        yield Case(
            f"runs/create/{name}",
            (changed("runs/create", **fields), get("runs/get", run_id="@hex0@"), SEE_RUN),
        )
    for name, fields in _named(
        {
            "status only": {"end_time": ..., "run_name": ...},
            "end only": {"status": ..., "run_name": ...},
            "name only": {"status": ..., "end_time": ...},
            "nothing": {"status": ..., "end_time": ..., "run_name": ...},
            "a number for a status": {"status": 3},
            "an unknown number": {"status": 77},
            "an unknown status": {"status": "DONE"},
            "killed": {"status": "KILLED"},
            "scheduled": {"status": "SCHEDULED"},
            "end zero": {"end_time": 0},
            "end in a string": {"end_time": "12"},
            "a name of 251": {"run_name": "n" * 251},
        }
    ):
        yield Case(f"runs/update/{name}", (changed("runs/update", **fields), SEE_RUN))
    param, tag = "runs/log-parameter", "runs/set-tag"
    yield Case("params/again", (changed(param), changed(param), changed(param, value="w"), SEE_RUN))
    for size in (6000, 6001):
        long = changed(param, value="漢" * size)
        yield Case(f"params/{size} characters", (long, long, SEE_RUN))
    for size in (8000, 8001):
        yield Case(f"tags/{size} characters", (changed(tag, value="漢" * size), SEE_RUN))
    for value in ("renamed", "", "n" * 251):
        yield Case(f"tags/run name {value[:9]!r}", (changed(tag, key="mlflow.runName", value=value), SEE_RUN))
    yield Case(
        "tags/order",
        (
            changed(tag, key="b"),
            changed(tag, key="a"),
            changed(tag, key="b", value="2"),
            post("runs/delete-tag", {**RUN, "key": "a"}),
            post("runs/delete-tag", {**RUN, "key": "a"}),
            changed(tag, key="a"),
            SEE_RUN,
        ),
    )
    yield Case(
        "runs/deleted and restored",
        (
            changed(tag),
            post("runs/delete", RUN),
            changed(tag, value="2"),
            SEE_RUN,
            post("runs/delete", RUN),
            post("runs/restore", RUN),
            post("runs/restore", RUN),
            changed(tag, value="3"),
            SEE_RUN,
        ),
    )
    points = [
        {"key": f"m{number}", "value": value, "timestamp": 7, "step": number}
        for number, value in enumerate(
            (0.1, 1e22, 1e-5, 1e16, 123456789.123, -0.0, 5e-324, "NaN", "Infinity", 3)
        )
    ]
    yield Case(
        "runs/get/metrics", (post("runs/log-batch", {**RUN, "metrics": points, "params": pairs(4)}), SEE_RUN)
    )
    for name, query in _named(
        {
            "unknown": {"run_id": "@unknown@"},
            "deleted": {"run_id": "@deleted@"},
            "empty": {"run_id": ""},
            "none": {},
            "uuid": {"run_uuid": "@active@"},
            "uuid and id": {"run_uuid": "@deleted@", "run_id": "@active@"},
            "two": {"run_id": ["@active@", "@deleted@"]},
            "odd": {"run_id": "a b"},
            "long": {"run_id": "a" * 40},
            "quote": {"run_id": "it's"},
            "and more": {"run_id": "@active@", "x": "y"},
        }
    ):
        yield Case(f"runs/get/{name}", (get("runs/get", **query),))


def _inputs() -> Iterator[Case]:
    inputs = "runs/log-inputs"
    other = {"dataset": {**DATASET, "digest": "f", "schema": "{}", "profile": "{}"}}
    for name, fields in _named(
        {
            "two": {"datasets": [TAGGED, other]},
            "one twice": {"datasets": [TAGGED, {**TAGGED, "tags": []}]},
            "none": {"datasets": []},
            "a model": {"datasets": ..., "models": [{"model_id": "m-@model@"}]},
            "an unknown model": {"models": [{"model_id": "m-nobody"}]},
            "an empty dataset": {"datasets": [{}]},
            "a dataset without a source": {"datasets": [{"dataset": {"name": "a", "digest": "b"}}]},
            "empty schema": {"datasets": [{"dataset": {**DATASET, "schema": "", "profile": ""}}]},
            "a long name": {"datasets": [{"dataset": {**DATASET, "name": "n" * 501}}]},
            "a long digest": {"datasets": [{"dataset": {**DATASET, "digest": "n" * 37}}]},
            "a long type": {"datasets": [{"dataset": {**DATASET, "source_type": "n" * 37}}]},
            "a tag twice": {"datasets": [{**TAGGED, "tags": TAGGED["tags"] * 2}]},
            "a long tag": {"datasets": [{**TAGGED, "tags": [{"key": "k" * 256, "value": "v"}]}]},
        }
    ):
        yield Case(f"{inputs}/{name}", (changed(inputs, **fields), changed(inputs, **fields), SEE_RUN))
    for name, models in {
        "two": [{"model_id": "m-a", "step": 1}, {"model_id": "m-b"}],
        "one twice": [{"model_id": "m-a"}, {"model_id": "m-a"}],
        "none": [],
        "no id": [{}],
        "a long id": [{"model_id": "m" * 40}],
        "a step in a string": [{"model_id": "m-a", "step": "4"}],
    }.items():
        yield Case(f"runs/outputs/{name}", (changed("runs/outputs", models=models), SEE_RUN))


def _models() -> Iterator[Case]:
    create = "logged-models"
    see = Request("GET", f"{API}/logged-models/m-@hex0@", None, None)
    for name, fields in _named(
        {
            "no name": {"name": ...},
            "a bad name": {"name": "a/b"},
            "a name of 501": {"name": "n" * 501},
            "nothing more": {"model_type": ..., "source_run_id": ..., "params": ..., "tags": ...},
            "a param twice": {"params": pairs(1) * 2},
            "a long key": {"params": [{"key": "k" * 256, "value": "v"}]},
            "a key without a value": {"params": [{"key": "k"}], "tags": [{"key": "k"}]},
            "keys out of order": {"params": [{"key": key, "value": "v"} for key in ("b", "a", "C")]},
            "an id of the client's": {"model_id": "a" * 32},
            "a long source run": {"source_run_id": "x" * 33},
        }
    ):
        yield Case(f"{create}/{name}", (changed(create, **fields), see))
    for status in ("LOGGED_MODEL_READY", "LOGGED_MODEL_UPLOAD_FAILED", "READY", 2, 9, None):
        body = {"model_id": "m-@model@", "status": status}
        yield Case(f"{create}/finalize {status}", (patch("logged-models/m-@model@", body), SEE_MODEL))
    for name in ("searched", "no such model"):
        made = post(create, {"experiment_id": "@experiment@", "name": "searched", "params": pairs(2)})
        find = {"experiment_ids": ["@experiment@"], "filter": f"name = '{name}'"}
        yield Case(f"{create}/search {name}", (made, made, post("logged-models/search", find)))
    other = patch("logged-models/m-@model@", {"model_id": "m-nobody", "status": "LOGGED_MODEL_READY"})
    yield Case(f"{create}/finalize another", (other, SEE_MODEL))
    yield Case(
        f"{create}/tags",
        (
            patch("logged-models/m-@model@/tags", {"tags": pairs(2)}),
            patch("logged-models/m-@model@/tags", {"tags": [*pairs(1, "w"), *pairs(1, "x")]}),
            patch("logged-models/m-@model@/tags", {"tags": []}),
            patch("logged-models/m-nobody/tags", {"tags": pairs(1)}),
            Request("DELETE", f"{API}/logged-models/m-@model@/tags/p0", None, None),
            Request("DELETE", f"{API}/logged-models/m-@model@/tags/p0", None, None),
            Request("DELETE", f"{API}/logged-models/m-nobody/tags/p0", None, None),
            SEE_MODEL,
        ),
    )
    params = {"model_id": "m-@model@", "params": pairs(2)}
    yield Case(
        f"{create}/params",
        (
            post("logged-models/m-@model@/params", params),
            post("logged-models/m-@model@/params", {**params, "params": [{"key": "z", "value": "1"}]}),
            post("logged-models/m-@model@/params", params),
            post("logged-models/m-@model@/params", {"params": pairs(1)}),
            post("logged-models/m-nobody/params", {**params, "model_id": "m-nobody"}),
            SEE_MODEL,
        ),
    )
    for model in ("m-nobody", "@unknown@", "it's", "m-" + "a" * 60, "search"):
        yield Case(f"{create}/get {model}", (Request("GET", f"{API}/logged-models/{model}", None, None),))
    yield Case(
        f"{create}/deleted",
        (
            Request("DELETE", f"{API}/logged-models/m-@model@", None, None),
            SEE_MODEL,
            Request("GET", f"{API}/logged-models/m-@model@?allow_deleted=true", None, None),
            patch("logged-models/m-@model@", {"model_id": "m-@model@", "status": "LOGGED_MODEL_READY"}),
            patch("logged-models/m-@model@/tags", {"tags": pairs(1)}),
        ),
    )
