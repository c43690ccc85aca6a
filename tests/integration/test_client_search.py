"""``search_runs`` through the stock client: filters, order, pages, and newest values."""

from __future__ import annotations

from dataclasses import dataclass

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

COUNT = 8


@dataclass(frozen=True)
class Runs:
    experiment_id: str
    ids: list[str]

    def numbers(self, found: list[mlflow.entities.Run]) -> list[int]:
        return [self.ids.index(run.info.run_id) for run in found]


@pytest.fixture(scope="module")
def runs(client: MlflowClient, experiment_id: str) -> Runs:
    """Runs 0 … 7: ``loss`` falls from 1 to 0.125, ``acc`` only in the even ones, and so on."""
    ids = []
    for number in range(COUNT):
        run = client.create_run(experiment_id, run_name=f"run-{number}")
        metrics = [Metric("loss", 9.0, 1, 0), Metric("loss", (COUNT - number) / COUNT, 2, 1)]
        if number % 2 == 0:
            metrics.append(Metric("val/acc", number / 10, 1, 0))
        client.log_batch(
            run.info.run_id,
            metrics,
            [Param("depth", str(number // 3)), Param("model", f"net-{number}")],
            [RunTag("team", "red" if number < 3 else "blue")],
        )
        ids.append(run.info.run_id)
    dataset = mlflow.data.from_numpy(np.zeros(3), name="zeros", digest="d1")
    with mlflow.start_run(run_id=ids[6]):
        mlflow.log_input(dataset, context="eval")
    return Runs(experiment_id, ids)


@pytest.mark.parametrize(
    ("filter_string", "wanted"),
    [
        ("metrics.loss < 0.5", {5, 6, 7}),
        ("metrics.loss <= 0.5 AND metrics.loss > 0.25", {4, 5}),
        ("metrics.loss = 1", {0}),
        ("metrics.loss != 1 AND metrics.loss > 0.8", {1}),
        ("metrics.`val/acc` >= 0.4", {4, 6}),
        ("metrics.loss < 0.9 AND params.depth = '0'", {1, 2}),
        ("metrics.loss > 0.3 AND tags.team = 'blue'", {3, 4, 5}),
        ("params.model LIKE 'net-%' AND metrics.`val/acc` = 0", {0}),
        ("attributes.run_name = 'run-3'", {3}),
        ("attributes.status = 'FINISHED'", {6}),
        ("dataset.name = 'zeros' AND metrics.loss < 1", {6}),
        ("dataset.context = 'eval'", {6}),
        ("metrics.absent > 0", set()),
        ("tags.team ILIKE 'RED'", {0, 1, 2}),
    ],
)
def test_filter(client: MlflowClient, runs: Runs, filter_string: str, wanted: set[int]) -> None:
    assert set(runs.numbers(client.search_runs([runs.experiment_id], filter_string))) == wanted


def test_filter_by_run_ids(client: MlflowClient, runs: Runs) -> None:
    chosen = ",".join(f"'{runs.ids[n]}'" for n in (1, 4, 6))
    found = client.search_runs(
        [runs.experiment_id], f"attributes.run_id IN ({chosen}) AND metrics.loss < 0.6"
    )
    assert set(runs.numbers(found)) == {4, 6}


@pytest.mark.parametrize(
    ("order", "wanted"),
    [
        (["metrics.loss ASC"], [7, 6, 5, 4, 3, 2, 1, 0]),
        (["metrics.loss DESC"], [0, 1, 2, 3, 4, 5, 6, 7]),
        (["metrics.`val/acc` DESC", "metrics.loss ASC"], [6, 4, 2, 0, 7, 5, 3, 1]),
        (["params.depth DESC", "metrics.loss ASC"], [7, 6, 5, 4, 3, 2, 1, 0]),
        (["tags.team ASC", "metrics.loss DESC"], [3, 4, 5, 6, 7, 0, 1, 2]),
        (["attributes.run_name DESC"], [7, 6, 5, 4, 3, 2, 1, 0]),
    ],
)
def test_order(client: MlflowClient, runs: Runs, order: list[str], wanted: list[int]) -> None:
    assert runs.numbers(client.search_runs([runs.experiment_id], order_by=order)) == wanted


def test_pages(client: MlflowClient, runs: Runs) -> None:
    found: list[int] = []
    token = None
    sizes = []
    while True:
        page = client.search_runs(
            [runs.experiment_id],
            "metrics.loss <= 1",
            order_by=["metrics.loss ASC"],
            max_results=3,
            page_token=token,
        )
        found += runs.numbers(page)
        sizes.append(len(page))
        token = page.token
        if not token:
            break
    assert (found, sizes) == ([7, 6, 5, 4, 3, 2, 1, 0], [3, 3, 2])


def test_newest_metrics_are_in_the_answer(client: MlflowClient, runs: Runs) -> None:
    for run in client.search_runs([runs.experiment_id]):
        number = runs.ids.index(run.info.run_id)
        assert run.data.metrics["loss"] == (COUNT - number) / COUNT
        assert ("val/acc" in run.data.metrics) == (number % 2 == 0)


def test_fluent_search_as_table(runs: Runs) -> None:
    table = mlflow.search_runs([runs.experiment_id], "metrics.loss < 0.5", order_by=["metrics.loss ASC"])
    assert list(table["metrics.loss"]) == [0.125, 0.25, 0.375]
    assert list(table["params.model"]) == ["net-7", "net-6", "net-5"]
