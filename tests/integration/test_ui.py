"""MLflow's web page in a real browser, with charts of points that this server stores."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from support.browser import chromium, new_tab

RUN_NAME = "sgd-eta0.01"
STEPS = 300
KEYS = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")


@pytest.fixture(scope="module")
def run_id(client: MlflowClient, experiment_id: str) -> str:
    """A run with four curves."""
    client.rename_experiment(experiment_id, f"digits-{experiment_id}")
    created: str = client.create_run(experiment_id, run_name=RUN_NAME).info.run_id
    now = int(time.time() * 1000) - STEPS * 1000
    points = []
    for step in range(STEPS):
        decay = math.exp(-step / 60)
        wobble = math.sin(step * 1.7) * 0.02
        values = (
            2.3 * decay + 0.1 + wobble,
            0.97 - 0.87 * decay - wobble,
            2.2 * decay + 0.2 - wobble,
            0.95 - 0.85 * decay,
        )
        points += [
            Metric(key, value, now + step * 1000, step) for key, value in zip(KEYS, values, strict=True)
        ]
    for first in range(0, len(points), 1000):
        client.log_batch(created, points[first : first + 1000])
    client.log_batch(created, params=[Param("eta0", "0.01"), Param("alpha", "1e-4")])
    client.set_terminated(created)
    return created


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """A tab of a real browser that talks to nothing but this machine."""
    with chromium() as browser:
        yield new_tab(browser)


def test_metric_charts_of_a_run(page: Any, tracking_uri: str, experiment_id: str, run_id: str) -> None:
    answers: list[Any] = []
    page.on("response", lambda response: answers.append(response) if is_history(response.url) else None)

    page.goto(f"{tracking_uri}/")
    page.wait_for_function("document.title.includes('MLflow')")
    page.goto(f"{tracking_uri}/#/experiments/{experiment_id}/runs/{run_id}")
    page.get_by_role("tab", name="Model metrics").click()
    for key in KEYS:
        page.get_by_text(f"{RUN_NAME} ({key})", exact=True).first.wait_for()
    # plotly draws each curve as one path of an SVG, and only once it has the points; a short one is the legend's.
    page.wait_for_function(f"""
        [...document.querySelectorAll('svg.main-svg path.js-line')]
            .filter(path => path.getAttribute('d').length > 500).length >= {len(KEYS)}
    """)

    histories: dict[str, list[tuple[int, float]]] = {}
    for answer in answers:
        assert answer.status == 200
        for point in metrics_in(answer.json()):
            histories.setdefault(point["key"], []).append((int(point["step"]), point["value"]))
    assert set(KEYS) <= histories.keys()
    assert {step for step, _ in histories["train/loss"]} == set(range(STEPS))

    shot = os.environ.get("RUNSTREAM_TEST_SCREENSHOT")
    if shot:
        page.wait_for_timeout(1000)
        page.screenshot(path=shot)


def is_history(url: str) -> bool:
    """Whether the page asks for points."""
    return "get-history-bulk-interval" in url or url.endswith("/graphql")


def metrics_in(answer: Any) -> list[dict[str, Any]]:
    """The points of a REST or GraphQL answer."""
    data = answer.get("data") or answer
    data = data.get("mlflowGetMetricHistoryBulkInterval") or data
    found: list[dict[str, Any]] = data.get("metrics") or []
    return found


def test_table_of_runs_shows_the_newest_values(
    page: Any, tracking_uri: str, experiment_id: str, run_id: str
) -> None:
    with page.expect_response(lambda response: "runs/search" in response.url) as waiting:
        page.goto(f"{tracking_uri}/#/experiments/{experiment_id}/runs")
        page.reload()
    assert waiting.value.status == 200
    assert run_id in json.dumps(waiting.value.json())
    page.get_by_text(RUN_NAME).first.wait_for()
