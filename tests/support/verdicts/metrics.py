"""Requests to ``runs/log-metric``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from support.verdicts.requests import AJAX, UNKNOWN, Case, Raw, dump, log_metric, one, post
from support.verdicts.values import BODIES, CONTENT_TYPES, KEYS, ODD_VALUES


def fields_of_log_metric() -> Iterator[Case]:
    for field in ("run_id", "key", "value", "timestamp", "step"):
        for name, value in ODD_VALUES.items():
            yield Case(f"log-metric/{field}/{name}", (log_metric(one(**{field: value})),))
    some = ("null", "empty string", "word", "zero", "true", "empty list", "empty object", "lone surrogate")
    for field in (
        "run_uuid",
        "runUuid",
        "runId",
        "model_id",
        "dataset_name",
        "dataset_digest",
        "unknown",
        "[x]",
    ):
        for name in some:
            yield Case(f"log-metric/{field}/{name}", (log_metric(one(**{field: ODD_VALUES[name]})),))
    for field in ("value", "timestamp", "step"):
        for name in ("word", "empty list", "fraction", "400 digits", "int64 max + 1", "bare NaN"):
            for run in ("deleted", "unknown"):
                body = one(run_id=f"@{run}@", **{field: ODD_VALUES[name]})
                yield Case(f"log-metric/{run} run, {field}/{name}", (log_metric(body),))
    # One field that cannot be read, and then another thing that is wrong.
    wrong: dict[str, dict[str, Any]] = {
        "bad key": {"key": "../k"},
        "missing key": {"key": ...},
        "negative timestamp": {"timestamp": -1},
        "missing timestamp": {"timestamp": ...},
        "null model": {"model_id": None},
        "half a dataset": {"dataset_name": "d"},
        "number for a dataset": {"dataset_name": 5, "dataset_digest": 6},
        "unknown run": {"run_id": "@unknown@"},
        "no run": {"run_id": ""},
    }
    for name, fields in wrong.items():
        yield Case(f"log-metric/unreadable value, {name}", (log_metric({**one(**fields), "step": 1.5}),))
        late = {**one(**fields), "value": [1]}
        yield Case(f"log-metric/unreadable value type, {name}", (log_metric(late),))


def log_metric_cases() -> Iterator[Case]:
    for name, value in KEYS.items():
        yield Case(f"log-metric/key {name}", (log_metric(one(key=value)),))
    for name, body in BODIES.items():
        yield Case(f"log-metric/body {name}", (log_metric(body),))
    for name, content_type in CONTENT_TYPES.items():
        yield Case(f"log-metric/content type {name}", (log_metric(one(), content_type),))
        yield Case(f"log-metric/bad body, content type {name}", (log_metric(b"{", content_type),))
    text = dump(one())
    for name, body in {
        "in a string": json.dumps(text).encode(),
        "with a byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "with a byte order mark, in a string": json.dumps("\ufeff" + text).encode(),
        "UTF-16": text.encode("utf-16"),
        "UTF-16 without a mark": text.encode("utf-16-le"),
        "UTF-32": text.encode("utf-32"),
        "latin-1": dump(one(key=Raw('"é"'))).encode("latin-1"),
        "white space": b" \r\n\t" + json.dumps(json.loads(text), indent=4).encode() + b"\n\n",
        "escaped names": text.replace('"key"', r'"k\u0065y"').encode(),
        "repeated name": (text[:-1] + ',"value":7,"key":"k2"}').encode(),
        "repeated name, first wrong": ('{"value":"x","value":8,' + text[1:]).encode(),
        "unknown fields": (text[:-1] + ',"x":{"y":[NaN,null,{}]},"Key":1,"":2}').encode(),
    }.items():
        yield Case(f"log-metric/{name}", (log_metric(body),))
    fields: Any
    for name, fields in {
        "run_uuid only": {"run_id": ..., "run_uuid": "@active@"},
        "null run_id, run_uuid": {"run_id": None, "run_uuid": "@active@"},
        "empty run_id, run_uuid": {"run_id": "", "run_uuid": "@active@"},
        "run_id wins": {"run_uuid": "@unknown@"},
        "run_id wins, unknown": {"run_id": "@unknown@", "run_uuid": "@active@"},
        "runUuid only": {"run_id": ..., "runUuid": "@active@"},
        "runId only": {"run_id": ..., "runId": "@active@"},
        "runId and run_id": {"runId": "@active@"},
        "null runId and run_id": {"runId": None},
        "runUuid and run_uuid": {"runUuid": "@active@", "run_uuid": "@active@"},
        "runId and run_uuid": {"run_id": ..., "runId": "@active@", "run_uuid": "@active@"},
        "model_id and modelId": {"model_id": "m", "modelId": "m"},
        "dataset_name only": {"dataset_name": "d"},
        "dataset_digest only": {"dataset_digest": "d"},
        "datasetName only": {"datasetName": "d"},
        "dataset": {"dataset_name": "d", "dataset_digest": "e"},
        "dataset in camel case": {"datasetName": "d", "datasetDigest": "e"},
        "dataset in both cases": {"datasetName": "d", "dataset_digest": "e"},
        "dataset_name twice": {"datasetName": "d", "dataset_name": "e"},
        "empty dataset": {"dataset_name": "", "dataset_digest": ""},
        "half a dataset, bad key": {"dataset_name": "d", "key": "../k"},
        "unknown model": {"model_id": "m-0123"},
        "unknown model in camel case": {"modelId": "m-0123"},
        "unknown model, bad key": {"model_id": "m-0123", "key": "../k"},
        "unknown model, negative timestamp": {"model_id": "m-0123", "timestamp": -1},
        "unknown model, unknown run": {"model_id": "m-0123", "run_id": "@unknown@", "key": "../k"},
        "unknown model, deleted run": {"model_id": "m-0123", "run_id": "@deleted@", "key": "../k"},
        "unknown model, impossible run": {"model_id": "m-0123", "run_id": "a b"},
        "unknown model, half a dataset": {"model_id": "m-0123", "dataset_name": "d"},
        "model": {"model_id": "@model@"},
        "model in camel case": {"modelId": "@model@", "value": "NaN"},
        "model with a dataset": {"model_id": "@model@", "dataset_name": "d", "dataset_digest": "e"},
        "model, unreadable step": {"model_id": "@model@", "step": 1.5},
        "unknown run": {"run_id": "@unknown@"},
        "unknown run, bad key": {"run_id": "@unknown@", "key": "../k"},
        "unknown run, negative timestamp": {"run_id": "@unknown@", "timestamp": -1},
        "deleted run": {"run_id": "@deleted@"},
        "deleted run, bad key": {"run_id": "@deleted@", "key": "@"},
        "deleted run, long key": {"run_id": "@deleted@", "key": "k" * 251},
        "run id with spaces": {"run_id": "a b"},
        "run id with a slash": {"run_id": "../../x"},
        "run id of 256 characters": {"run_id": "a" * 256},
        "run id of 257 characters": {"run_id": "a" * 257},
        "run id in capitals": {"run_id": UNKNOWN.upper()},
        "run id with a newline": {"run_id": "@active@\n"},
        "run id with a space": {"run_id": "@active@ "},
        "bad key and negative timestamp": {"key": "@", "timestamp": -1},
        "long key and negative timestamp": {"key": "k" * 251, "timestamp": -1},
        "no step": {"step": ...},
    }.items():
        yield Case(f"log-metric/{name}", (log_metric(one(**fields)),))
    yield Case("log-metric/order of fields", (log_metric(dict(reversed(one(step="x").items()))),))
    yield Case("log-metric/the same twice", (log_metric(one()), log_metric(one())))
    yield Case("log-metric/smaller step later", (log_metric(one(value=1)), log_metric(one(value=2, step=1))))
    yield Case("log-metric/ajax", (post("runs/log-metric", one(), api=AJAX),))
    for status in ("FINISHED", "KILLED", "FAILED", "SCHEDULED"):
        update = post("runs/update", {"run_id": "@active@", "status": status, "end_time": 5})
        yield Case(f"log-metric/{status} run", (update, log_metric(one())))
    yield Case(
        "log-metric/run deleted and restored",
        (
            log_metric(one(value=1)),
            post("runs/delete", {"run_id": "@active@"}),
            log_metric(one(value=2)),
            post("runs/restore", {"run_id": "@active@"}),
            log_metric(one(value=3)),
        ),
    )
