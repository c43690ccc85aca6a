"""Requests to the metric-history endpoints, and to paths beside the metric plane's."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from support.verdicts.requests import (
    AJAX,
    API,
    Case,
    Request,
    batch,
    bulk,
    dump,
    history,
    interval,
    one,
    point,
    post,
)


def histories() -> Iterator[Case]:
    def token(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    known = {"run_id": "@history@", "metric_key": "k"}
    query: Any
    for name, query in {
        "all": {},
        "page": {"max_results": 7},
        "page of all": {"max_results": 50},
        "page of one less": {"max_results": 49},
        "page beyond": {"max_results": 51},
        "one": {"max_results": 1},
        "none": {"max_results": 0},
        "negative": {"max_results": -1},
        "int32 max": {"max_results": 2**31 - 1},
        "int32 max + 1": {"max_results": 2**31},
        "int32 min": {"max_results": -(2**31)},
        "word": {"max_results": "x"},
        "empty": {"max_results": ""},
        "fraction": {"max_results": "1.5"},
        "integral float": {"max_results": "7.0"},
        "exponent": {"max_results": "1e1"},
        "space": {"max_results": " 7"},
        "plus": {"max_results": "+7"},
        "underscore": {"max_results": "1_0"},
        "twice": {"max_results": [3, 4]},
        "camel case": {"maxResults": 3},
        "token": {"max_results": 7, "page_token": token('{"offset": 7}')},
        "token without max_results": {"page_token": token('{"offset": 7}')},
        "token at the end": {"max_results": 7, "page_token": token('{"offset": 50}')},
        "token beyond the end": {"max_results": 7, "page_token": token('{"offset": 500}')},
        "token of a string": {"max_results": 7, "page_token": token('{"offset": "7"}')},
        "token of a float": {"max_results": 7, "page_token": token('{"offset": 7.9}')},
        "token of zero": {"max_results": 7, "page_token": token('{"offset": 0}')},
        "token of a word": {"max_results": 7, "page_token": token('{"offset": "x"}')},
        "token of a list": {"max_results": 7, "page_token": token('{"offset": [7]}')},
        "token of true": {"max_results": 7, "page_token": token('{"offset": true}')},
        "token of null": {"max_results": 7, "page_token": token('{"offset": null}')},
        "token without offset": {"max_results": 7, "page_token": token("{}")},
        "token with more": {"max_results": 7, "page_token": token('{"offset": 7, "x": 1}')},
        "token of a JSON list": {"max_results": 7, "page_token": token("[7]")},
        "token of no JSON": {"max_results": 7, "page_token": token("offset")},
        "token of base64 letters": {"max_results": 7, "page_token": "abcd"},
        "token of three letters": {"max_results": 7, "page_token": "abc"},
        "token of no base64": {"max_results": 7, "page_token": "%%%"},
        "token of wide letters": {"max_results": 7, "page_token": "漢字"},
        "empty token": {"max_results": 7, "page_token": ""},
        "negative token": {"max_results": 7, "page_token": token('{"offset": -3}')},
        "huge token": {"max_results": 7, "page_token": token('{"offset": 9223372036854775807}')},
        "huger token": {"max_results": 7, "page_token": token('{"offset": 9223372036854775808}')},
        "unknown field": {"x": 1},
        "other key": {"metric_key": "other"},
        "no such key": {"metric_key": "none"},
        "key that cannot be": {"metric_key": "../k"},
        "key of NaN": {"metric_key": "nan"},
        "key of infinities": {"metric_key": "inf"},
        "key of extremes": {"metric_key": "extreme"},
        "key with a slash": {"metric_key": "a/b c"},
        "empty key": {"metric_key": ""},
        "two keys": {"metric_key": ["k", "other"]},
        "key with a nul": {"metric_key": "a\0b"},
        "empty run": {"run_id": "@empty@"},
        "unknown run": {"run_id": "@unknown@"},
        "deleted run": {"run_id": "@deleted@"},
        "run id that cannot be": {"run_id": "a b"},
        "no run id": {"run_id": ""},
        "unknown run, bad token": {"run_id": "@unknown@", "page_token": "%%%"},
        "bad max_results and bad token": {"max_results": 0, "page_token": "%%%"},
    }.items():
        yield Case(f"get-history/{name}", (history(**(known | query)),))
    for name, path in {
        "nothing": "get-history",
        "run only": "get-history?run_id=@history@",
        "key only": "get-history?metric_key=k",
        "run_uuid": "get-history?run_uuid=@history@&metric_key=k&max_results=2",
        "run_uuid and run_id": "get-history?run_uuid=@unknown@&run_id=@history@&metric_key=k&max_results=2",
        "empty run_id and run_uuid": "get-history?run_uuid=@history@&run_id=&metric_key=k&max_results=2",
        "runId": "get-history?runId=@history@&metric_key=k",
        "metricKey": "get-history?run_id=@history@&metricKey=k",
        "bad percent": "get-history?run_id=@history@&metric_key=%zz",
        "bad UTF-8": "get-history?run_id=@history@&metric_key=%ff",
        "plus is a space": "get-history?run_id=@history@&metric_key=a/b+c",
        "no values": "get-history?run_id&metric_key",
    }.items():
        yield Case(f"get-history, {name}", (Request("GET", f"{API}/metrics/{path}", None, None),))
    in_body = dump(known | {"max_results": 3}).encode()
    for name, body in {
        "body": in_body,
        "broken body": b"{",
        "no body": b"",
        "body in a string": json.dumps("{}").encode(),
    }.items():
        yield Case(f"get-history, {name}", (Request("GET", f"{API}/metrics/get-history", body),))
    yield Case(
        "get-history, ajax", (Request("GET", f"{AJAX}/metrics/get-history?run_id=@history@&metric_key=k"),)
    )


def bulk_histories() -> Iterator[Case]:
    both = {"run_id": ["@history@", "@history2@"], "metric_key": "k"}
    query: Any
    for name, query in {
        "two runs": {},
        "reversed": {"run_id": ["@history2@", "@history@"]},
        "the same run twice": {"run_id": ["@history@", "@history@"]},
        "unknown among them": {"run_id": ["@unknown@", "@history@"]},
        "unknown only": {"run_id": "@unknown@"},
        "deleted": {"run_id": "@deleted@"},
        "run ids that cannot be": {"run_id": ["a b", "", "@history@"]},
        "empty run id": {"run_id": ""},
        "100 runs": {"run_id": ["@history@"] * 100},
        "101 runs": {"run_id": ["@history@"] * 101},
        "no such key": {"metric_key": "none"},
        "empty key": {"metric_key": ""},
        "NaN": {"metric_key": "nan"},
        "infinities": {"metric_key": "inf"},
        "extremes": {"metric_key": "extreme"},
        "some": {"max_results": 60},
        "one": {"max_results": 1},
        "none": {"max_results": 0},
        "minus one": {"max_results": -1},
        "minus 60": {"max_results": -60},
        "more than there may be": {"max_results": 25_001},
        "huge": {"max_results": 10**30},
        "word": {"max_results": "x"},
        "empty": {"max_results": ""},
        "fraction": {"max_results": "1.5"},
        "space": {"max_results": " 5 "},
        "underscore": {"max_results": "1_0"},
        "twice": {"max_results": [2, 3]},
    }.items():
        yield Case(f"get-history-bulk/{name}", (bulk(**(both | query)),))
    for name, path in {
        "nothing": "",
        "no key": "?run_id=@history@",
        "no run": "?metric_key=k",
        "run_ids": "?run_ids=@history@&metric_key=k",
        "bad number and no key": "?run_id=@history@&max_results=x",
    }.items():
        yield Case(f"get-history-bulk, {name}", (Request("GET", f"{AJAX}/metrics/get-history-bulk{path}"),))
    yield Case(
        "get-history-bulk, not ajax",
        (Request("GET", f"{API}/metrics/get-history-bulk?run_id=x&metric_key=k"),),
    )


def interval_histories() -> Iterator[Case]:
    both = {"run_ids": ["@history@", "@history2@"], "metric_key": "k"}
    query: Any
    for name, query in {
        "two runs": {},
        "reversed": {"run_ids": ["@history2@", "@history@"]},
        "the same run twice": {"run_ids": ["@history@", "@history@"], "max_results": 3},
        "unknown among them": {"run_ids": ["@unknown@", "@history@"]},
        "unknown only": {"run_ids": "@unknown@"},
        "deleted": {"run_ids": "@deleted@"},
        "run ids that cannot be": {"run_ids": ["a b", "", "@history@"]},
        "empty run id": {"run_ids": ""},
        "100 runs": {"run_ids": ["@history@"] * 100, "max_results": 2},
        "101 runs": {"run_ids": ["@history@"] * 101},
        "no such key": {"metric_key": "none"},
        "empty key": {"metric_key": ""},
        "NaN": {"metric_key": "nan"},
        "NaN sampled": {"metric_key": "nan", "max_results": 2},
        "infinities": {"metric_key": "inf"},
        "extremes": {"metric_key": "extreme"},
        **{
            f"{count} of 50": {"max_results": count}
            for count in (1, 2, 3, 5, 7, 24, 25, 26, 48, 49, 50, 51, 2500)
        },
        "0 of 50": {"max_results": 0},
        "-1 of 50": {"max_results": -1},
        "2501 of 50": {"max_results": 2501},
        "int32 max + 1 of 50": {"max_results": 2**31},
        "word": {"max_results": "x"},
        "empty": {"max_results": ""},
        "fraction": {"max_results": "1.5"},
        "integral float": {"max_results": "7.0"},
        "exponent": {"max_results": "1e1"},
        "space": {"max_results": " 5"},
        "underscore": {"max_results": "1_0"},
        "twice": {"max_results": [2, 3]},
        "camel case": {"maxResults": 3},
        "steps": {"start_step": 3, "end_step": 11},
        "steps sampled": {"start_step": 3, "end_step": 11, "max_results": 3},
        "one step": {"start_step": 3, "end_step": 3},
        "no such steps": {"start_step": 1000, "end_step": 2000},
        "negative steps": {"start_step": -100, "end_step": 0},
        "int32 steps": {"start_step": -(2**31), "end_step": 2**31 - 1},
        "steps beyond int32": {"start_step": -(2**31) - 1, "end_step": 2**31},
        "steps of int64": {"start_step": -(2**63), "end_step": 2**63 - 1},
        "steps beyond int64": {"start_step": -(2**63) - 1, "end_step": 2**63},
        "reversed steps": {"start_step": 5, "end_step": 4},
        "start only": {"start_step": 5},
        "end only": {"end_step": 5},
        "empty start": {"start_step": "", "end_step": 5},
        "word for a step": {"start_step": "x", "end_step": 5},
        "fraction for a step": {"start_step": "1.5", "end_step": 5},
        "integral float for a step": {"start_step": "1.0", "end_step": 5},
        "word for a step alone": {"start_step": "x"},
        "word for a step, bad max_results": {"start_step": "x", "end_step": 1, "max_results": 0},
    }.items():
        yield Case(f"get-history-bulk-interval/{name}", (interval(**(both | query)),))
    for name, path in {
        "nothing": "",
        "no key": "?run_ids=@history@",
        "no runs": "?metric_key=k",
        "run_id": "?run_id=@history@&metric_key=k",
        "runIds": "?runIds=@history@&metric_key=k",
        "101 runs and no key": "?" + "&".join(["run_ids=x"] * 101),
    }.items():
        request = Request("GET", f"{AJAX}/metrics/get-history-bulk-interval{path}", None, None)
        yield Case(f"get-history-bulk-interval, {name}", (request,))
    yield Case("get-history-bulk-interval, not ajax", (interval(API, **both),))
    body = dump(both | {"max_results": 3}).encode()
    path = f"{AJAX}/metrics/get-history-bulk-interval"
    yield Case("get-history-bulk-interval, body", (Request("GET", path, body),))


def routes() -> Iterator[Case]:
    for api in (API, AJAX):
        for path in ("runs/log-metric", "runs/log-batch"):
            for method in ("GET", "PUT", "DELETE", "PATCH", "HEAD"):
                yield Case(f"{method} {api}/{path}", (Request(method, f"{api}/{path}", b"{}"),))
            yield Case(f"slash after {api}/{path}", (post(f"{path}/", one(), api=api),))
            yield Case(f"double slash in {api}/{path}", (post(path.replace("/", "//"), one(), api=api),))
            yield Case(f"query after {api}/{path}", (post(f"{path}?run_id=x", one(), api=api),))
        for path in ("get-history", "get-history-bulk", "get-history-bulk-interval"):
            yield Case(f"POST {api}/metrics/{path}", (post(f"metrics/{path}", {}, api=api),))
            yield Case(f"slash after {api}/metrics/{path}", (Request("GET", f"{api}/metrics/{path}/"),))
    yield Case("log-batch of API 3", (post("runs/log-batch", batch(point()), api="/api/3.0/mlflow"),))
