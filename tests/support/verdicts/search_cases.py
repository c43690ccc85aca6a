"""Searches of runs and experiments; the expected answers are stock MLflow's."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from support.verdicts.control_cases import get
from support.verdicts.requests import AJAX, API, Case, Request, dump, post
from support.verdicts.values import BODIES, CONTENT_TYPES, ODD_VALUES

IN_EXPERIMENT = {"experiment_ids": ["@experiment@"]}
FILLED = post(
    "runs/log-batch",
    {
        "run_id": "@active@",
        "params": [{"key": "lr", "value": "0.1"}, {"key": "a b", "value": "x"}],
        "tags": [{"key": "team", "value": "Blue"}],
    },
)
# Not among them: refusals whose words hold a set of Python's, which each process prints in its own order.
FILTERS = (
    "",
    " ",
    "params.lr = '0.1'",
    'params."a b" = "x"',
    "params.`a b` LIKE '%x'",
    "tags.team ILIKE 'b%' and params.lr != '1'",
    "tags.team IS NULL",
    "status = 'RUNNING'",
    "attributes.run_id IN ('@active@')",
    "run_id NOT IN ('@active@')",
    "attribute.start_time = 1",
    "start_time > 1.5",
    "params.lr",
    "x.y = 1",
    "metrics.loss < 'a'",
    "params.lr = 0.1",
    "params.lr = '0.1' OR params.lr = '1'",
    "params.lr = '0.1';",
    "params.lr = '0.1'; params.lr = '0.1'",
    "run_id IN ()",
    "run_id IN (1)",
    "status IN ('RUNNING')",
    "metrics.loss IS NULL",
    "params.lr = '0.1' AND",
    "params.lr = 'it''s'",
    "dataset.name = 'd'",
    "params.lr = '",
)
ORDERS = (["metrics.loss DESC"], ["params.lr", "start_time ASC"], ["Created"], ["params.lr", "params.lr"], ["x.y"],
          [""], ["metrics.a b"], ["metrics.`a b` desc"], ["start_time up"], ["run_id ASC"])  # fmt: skip
TOKENS = ('{"offset": 1}', '{"offset": 0}', '{"offset": "1"}', '{"offset": 99}', "{}", "[1]", "x")


def search_cases() -> Iterator[Case]:
    """Every field, odd and plain."""

    def runs(**fields: Any) -> Request:
        return post("runs/search", {**IN_EXPERIMENT, **fields})

    yield Case("search: filters", (FILLED, *(runs(filter=text) for text in FILTERS)))
    yield Case("search: orders", (FILLED, *(runs(order_by=order) for order in ORDERS)))
    tokens = [base64.b64encode(text.encode()).decode() for text in TOKENS]
    yield Case(
        "search: page tokens",
        (
            FILLED,
            *(
                runs(page_token=token, run_view_type="ALL", order_by=["params.lr"])
                for token in [*tokens, "%%%", "abc", ""]
            ),
        ),
    )
    views = ("ACTIVE_ONLY", "DELETED_ONLY", "ALL", "active_only", "", 1, 3, 9)
    yield Case(
        "search: views", (FILLED, *(runs(run_view_type=view, order_by=["params.lr"]) for view in views))
    )
    counts = (1, 2, 0, -1, 50_000, 50_001, 2**31, "1", "x", 1.0, 1.5)
    yield Case("search: max_results", tuple(runs(max_results=count) for count in counts))
    for field in ("experiment_ids", "filter", "order_by", "page_token"):
        odd = tuple(
            post("runs/search", dump({**IN_EXPERIMENT, field: value}).encode())
            for name, value in ODD_VALUES.items()
            if name in ("null", "empty string", "word", "true", "one", "empty list", "list of strings", "nul")
            # Experiments are numbered by each server, and "12" may be one of them.
            and (field, name) != ("experiment_ids", "list of strings")
        )
        yield Case(f"search: odd {field}", odd)
    yield Case(
        "search: no experiments", (post("runs/search", {}), post("runs/search", {"experiment_ids": []}))
    )
    bodies = tuple(post("runs/search", body) for body in BODIES.values())
    yield Case("search: bodies", bodies)
    body = dump(IN_EXPERIMENT).encode()
    kinds = (Request("POST", f"{API}/runs/search", body, kind) for kind in CONTENT_TYPES.values())
    yield Case("search: content types", tuple(kinds))
    yield Case("search: ajax", (FILLED, post("runs/search", IN_EXPERIMENT, api=AJAX)))
    named = {"filter": "name = '@name@'"}
    yield Case(
        "experiments/search",
        (
            post("experiments/search", {**named, "max_results": 5}),
            post("experiments/search", {**named}),
            post("experiments/search", {**named, "max_results": 5, "view_type": "ALL", "order_by": ["name DESC"]}),
            post("experiments/search", {**named, "max_results": 5, "order_by": ["params.x"]}),
            post("experiments/search", {"max_results": 5, "filter": "tags.x = '1'"}),
            get("experiments/search", max_results=5, **named),
            get("experiments/search", api=AJAX, max_results="x", **named),
            get("experiments/search", max_results=5, view_type="DELETED_ONLY", **named),
            get("experiments/search", max_results=5, order_by=["name", "creation_time DESC"], **named),
            get("experiments/search", **named),
        ),
    )  # fmt: skip
