"""Requests to ``runs/log-batch``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from support.verdicts.requests import (
    AJAX,
    Case,
    Raw,
    batch,
    dump,
    log_batch,
    log_metric,
    one,
    pairs,
    point,
    points,
    post,
)
from support.verdicts.values import BODIES, CONTENT_TYPES, KEYS, ODD_VALUES


def fields_of_log_batch() -> Iterator[Case]:
    for name, value in ODD_VALUES.items():
        for field in ("key", "value", "timestamp", "step"):
            yield Case(f"log-batch/metric {field}/{name}", (log_batch(batch(point(**{field: value}))),))
        yield Case(f"log-batch/run_id/{name}", (log_batch(batch(point(), run_id=value)),))
    some: tuple[str, ...] = (
        "absent",
        "null",
        "empty string",
        "word",
        "zero",
        "true",
        "empty list",
        "list",
        "empty object",
    )
    some += ("lone surrogate", "list of strings", "nul", "reversed surrogates")
    for name in some:
        value = ODD_VALUES[name]
        for field in ("metrics", "params", "tags", "unknown", "[x]"):
            yield Case(f"log-batch/{field}/{name}", (log_batch(batch(point(), **{field: value})),))
        for field in ("model_id", "dataset_name", "dataset_digest", "run_id", "unknown", "[x]"):
            yield Case(f"log-batch/metric {field}/{name}", (log_batch(batch(point(**{field: value}))),))
        if value is not ...:
            for field in ("metrics", "params", "tags"):
                good: Any = point() if field == "metrics" else {"key": "p", "value": "v"}
                yield Case(
                    f"log-batch/{field} with item {name}", (log_batch(batch(**{field: [good, value]})),)
                )
        for field in ("params", "tags"):
            for part in ("key", "value"):
                pair = {"key": "p", "value": "v", part: value}
                pair = {name: item for name, item in pair.items() if item is not ...}
                yield Case(f"log-batch/{field} {part}/{name}", (log_batch(batch(**{field: [pair]})),))
    # What is wrong in the second metric, with and without a first that cannot be read in full.
    fields: Any
    for name, fields in {
        "missing key": {"key": ...},
        "empty value": {"value": ""},
        "null timestamp": {"timestamp": None},
        "bad key": {"key": "../k"},
        "long key": {"key": "k" * 251},
        "negative timestamp": {"timestamp": -1},
        "half a dataset": {"dataset_name": "d"},
        "unreadable step": {"step": "x"},
        "good": {},
    }.items():
        second = point(**fields)
        for run in ("active", "deleted", "unknown"):
            body = batch(point(), second, run_id=f"@{run}@")
            yield Case(f"log-batch/{run} run, second metric {name}", (log_batch(body),))
        yield Case(f"log-batch/unreadable first, second {name}", (log_batch(batch(point(step="x"), second)),))
        late = {"metrics": [point(step=1.5), second], "run_id": "@active@"}
        yield Case(f"log-batch/unreadable first, run_id last, second {name}", (log_batch(late),))
        early = batch(second, params=[{"key": "p", "value": 5}])
        yield Case(f"log-batch/unreadable param after {name}", (log_batch(early),))


def log_batch_cases() -> Iterator[Case]:
    for name, value in KEYS.items():
        yield Case(f"log-batch/metric key {name}", (log_batch(batch(point(), point(key=value))),))
        yield Case(f"log-batch/param key {name}", (log_batch(batch(params=[{"key": value, "value": "v"}])),))
        yield Case(f"log-batch/tag key {name}", (log_batch(batch(tags=[{"key": value, "value": "v"}])),))
    for name, body in BODIES.items():
        yield Case(f"log-batch/body {name}", (log_batch(body),))
    for name, content_type in CONTENT_TYPES.items():
        yield Case(f"log-batch/content type {name}", (log_batch(batch(point()), content_type),))
        yield Case(f"log-batch/bad body, content type {name}", (log_batch(b"{", content_type),))
    text = dump(batch(point()))
    for name, body in {
        "in a string": json.dumps(text).encode(),
        "with a byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "UTF-16": text.encode("utf-16"),
        "UTF-32 without a mark": text.encode("utf-32-be"),
        "white space": b"\n\t" + json.dumps(json.loads(text), indent=2).encode() + b" \r\n",
        "escaped names": text.replace('"metrics"', r'"m\u0065trics"').encode(),
        "repeated name": (text[:-1] + ',"metrics":[]}').encode(),
        "repeated name, first wrong": ('{"metrics":5,' + text[1:]).encode(),
        "repeated name in a metric": text.replace('"step"', '"key":"k2","step"').encode(),
        "unknown fields": (text[:-1] + ',"x":{"y":[NaN,null,{}]},"Metrics":1}').encode(),
        "long string": json.dumps("x" * 1_000_001).encode(),
        "long object in a string": json.dumps(text + " " * 1_000_001).encode(),
        "white space of 2 MB": text.encode() + b" " * 2_000_000,
        "unknown field of 2 MB": (text[:-1] + ',"x":"' + "x" * 2_000_000 + '"}').encode(),
    }.items():
        yield Case(f"log-batch/{name}", (log_batch(body),))
    fields: Any
    for name, fields in {
        "run_uuid only": {"run_id": ..., "run_uuid": "@active@"},
        "runId only": {"run_id": ..., "runId": "@active@"},
        "runId and run_id": {"runId": "@active@"},
        "unknown run": {"run_id": "@unknown@"},
        "deleted run": {"run_id": "@deleted@"},
        "run id with a space": {"run_id": "a b"},
        "run id with an underscore first": {"run_id": "_ab"},
        "run id with a dash": {"run_id": "a-b"},
        "run id with letters": {"run_id": "aé"},
        "run id of 256 characters": {"run_id": "a" * 256},
        "run id of 257 characters": {"run_id": "a" * 257},
        "run id with a newline": {"run_id": "abc\n"},
        "params": {"params": pairs(3)},
        "tags": {"tags": pairs(3)},
        "everything": {"params": pairs(3), "tags": pairs(4)},
        "100 params": {"params": pairs(100)},
        "101 params": {"params": pairs(101)},
        "100 tags": {"tags": pairs(100)},
        "101 tags": {"tags": pairs(101)},
        "101 params and tags": {"params": pairs(101), "tags": pairs(101)},
        "101 params, deleted run": {"params": pairs(101), "run_id": "@deleted@"},
        "101 params, unknown run": {"params": pairs(101), "run_id": "@unknown@"},
        "duplicate params": {"params": [*pairs(2), *pairs(3)]},
        "duplicate equal params": {"params": [{"key": "p", "value": "v"}] * 2},
        "duplicate params, unknown run": {"params": pairs(1) * 2, "run_id": "@unknown@"},
        "duplicate params, 101": {"params": pairs(50) * 2 + pairs(1)},
        "duplicate tags": {"tags": [{"key": "t", "value": "1"}, {"key": "t", "value": "2"}]},
        "param of 6000 characters": {"params": pairs(1, "v" * 6000)},
        "param of 6001 characters": {"params": pairs(1, "v" * 6001)},
        "param of 6001 wide characters": {"params": pairs(1, "漢" * 6001)},
        "tag of 8000 characters": {"tags": pairs(1, "v" * 8000)},
        "tag of 8001 characters": {"tags": pairs(1, "v" * 8001)},
        "no param value": {"params": [{"key": "p"}]},
        "no tag value": {"tags": [{"key": "t"}]},
        "run name": {"tags": [{"key": "mlflow.runName", "value": "renamed"}]},
        "bad param key and bad tag key": {"params": [{"key": "@"}], "tags": [{"key": "@"}]},
        "params of every character": {"params": pairs(1, "".join(map(chr, range(1, 0x250))) + "\u2028😀")},
    }.items():
        yield Case(f"log-batch/{name}", (log_batch(batch(point(), **fields)),))
        without_metrics: dict[str, Any] = {"run_id": "@active@", **fields}
        without_metrics = {field: value for field, value in without_metrics.items() if value is not ...}
        yield Case(f"log-batch/{name}, no metrics", (log_batch(without_metrics),))
    for name, metrics in {
        "no metrics": [],
        "1000 metrics": points(1000),
        "1001 metrics": points(1001),
        "1001 metrics, the last bad": [*points(1000), point(key="@")],
        "1001 metrics, the last without a key": [*points(1000), point(key=...)],
        "1500 metrics of the same": [point()] * 1500,
        "1000 metrics of the same": [point()] * 1000,
        "1000 keys of 250 characters": [point(key=f"{number:0>250}") for number in range(1000)],
        "1000 keys of 300 characters": [point(key=f"{number:0>300}") for number in range(1000)],
        "1000 metrics with long numbers": [
            point(value=Raw(f"0.{number:0>1500}"), step=number) for number in range(1000)
        ],
        "1 MB of metrics": [point(key=f"{number:0>250}", step=number, x="x" * 700) for number in range(1000)],
        "duplicates": [point(), point(value=1), point()],
        "duplicate NaN": [point(value="NaN")] * 3,
        "NaN and zero": [point(value="NaN"), point(value=0), point(value=-0.0)],
        "infinities and the largest": [
            point(value=value)
            for value in ("Infinity", "-Infinity", 1.7976931348623157e308, -1.7976931348623157e308)
        ],
        "mixed order": [
            point(step=step, value=step % 3, timestamp=10 - step % 4) for step in (5, -3, 7, 0, 7, 2, -9)
        ],
        "ties": [point(value=value, timestamp=time) for value in (2, 1, 3, "NaN", -1) for time in (5, 4)],
        "latest by value": [point(value=value) for value in (1, 3, 2)],
        "latest with NaN": [point(value=value) for value in (-1, "NaN", -2)],
        "latest of NaN only": [point(value="NaN"), point(value="NaN", step=1)],
        "extreme steps": [point(step=step) for step in (2**63 - 1, -(2**63), 0)],
        "extreme timestamps": [point(timestamp=time, step=0) for time in (2**63 - 1, 0, 1)],
        "subnormals": [
            point(value=Raw(value), step=0) for value in ("5e-324", "-5e-324", "2.5e-324", "1e-310")
        ],
        "precise": [
            point(value=value, key=f"k{i}") for i, value in enumerate((0.1, 1 / 3, 1e22, 123456789.123456789))
        ],
        "booleans and strings": [
            point(value=True),
            point(value="2", step="7", timestamp="8"),
            point(value="1e-3"),
        ],
        "unknown model": [point(), point(key="m", model_id="m-0123")],
        "unknown model in camel case": [point(key="m", modelId="m-0123")],
        "model": [point(), point(key="m", model_id="@model@"), point(key="m", step=9, model_id="@model@")],
        "model and none for one key": [
            point(model_id="@model@"),
            point(step=9),
            point(value=7, model_id="@model@"),
        ],
        "model in camel case": [point(key="m", modelId="@model@", value="Infinity")],
        "model with a dataset": [point(model_id="@model@", dataset_name="d", dataset_digest="e"), point()],
        "model and duplicates": [point(model_id="@model@"), point(), point(model_id="@model@")],
        "1000 metrics of a model": [{**item, "model_id": "@model@"} for item in points(1000)],
        "both spellings of a model": [point(), point(model_id="m", modelId="m")],
        "dataset": [point(dataset_name="d", dataset_digest="e")],
        "dataset in camel case": [point(datasetName="d", datasetDigest="e")],
        "half a dataset in camel case": [point(datasetName="d")],
        "null dataset and half": [point(dataset_name=None, dataset_digest="e")],
        "a run_id of its own": [point(run_id="@unknown@")],
        "two run_ids of its own": [point(run_id="a", runId="b")],
        "half a dataset and a bad run id": [point(dataset_name="d")],
    }.items():
        run = "a b" if "bad run id" in name else "@active@"
        yield Case(f"log-batch/{name}", (log_batch(batch(*metrics, run_id=run)),))
    for count, params, tags in (
        (900, 50, 50),
        (900, 51, 50),
        (900, 100, 1),
        (999, 1, 0),
        (999, 1, 1),
        (1000, 1, 0),
    ):
        large = batch(*points(count), params=pairs(params), tags=pairs(tags))
        yield Case(f"log-batch/{count} metrics, {params} params, {tags} tags", (log_batch(large),))
    of_model = batch(point(), point(key="m", model_id="@model@"), params=pairs(2), tags=pairs(2))
    yield Case("log-batch/everything of a model", (log_batch(of_model), log_batch(of_model)))
    yield Case("log-batch/ajax", (post("runs/log-batch", batch(point()), api=AJAX),))
    yield Case("log-batch/the same twice", (log_batch(batch(*points(20))), log_batch(batch(*points(20)))))
    yield Case(
        "log-batch/overlapping",
        (log_batch(batch(*points(20))), log_batch(batch(*points(30), point(value="NaN")))),
    )
    yield Case(
        "log-batch/then log-metric", (log_batch(batch(point())), log_metric(one()), log_metric(one(step=1)))
    )
    yield Case(
        "log-batch/param again, equal",
        (log_batch(batch(params=pairs(2))), log_batch(batch(point(), params=pairs(3)))),
    )
    yield Case(
        "log-batch/param again, other",
        (log_batch(batch(params=pairs(2))), log_batch(batch(point(), params=pairs(1, "w"), tags=pairs(1)))),
    )
    yield Case(
        "log-batch/param again, other, no metrics",
        (log_batch(batch(params=pairs(2))), log_batch(batch(params=[*pairs(1, "w"), {"key": "new"}]))),
    )
    yield Case(
        "log-batch/long param again, equal",
        (log_batch(batch(params=pairs(1, "v" * 6001))), log_batch(batch(params=pairs(1, "v" * 7000)))),
    )
    yield Case(
        "log-batch/tag again",
        (log_batch(batch(tags=pairs(2))), log_batch(batch(point(), tags=pairs(1, "w")))),
    )
    yield Case(
        "log-batch/deleted and restored",
        (
            log_batch(batch(point(value=1))),
            post("runs/delete", {"run_id": "@active@"}),
            log_batch(batch(point(value=2))),
            log_batch(batch(point(key="@"))),
            log_batch(batch(params=pairs(1))),
            post("runs/restore", {"run_id": "@active@"}),
            log_batch(batch(point(value=3), params=pairs(1))),
        ),
    )
