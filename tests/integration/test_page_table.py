"""The table of runs, in a real browser and in Python, of runs that this server stores."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

import runstream
from support.browser import until

RUNS = 60
RATES = ("0.1", "0.01", "0.001")
WHOLE = "() => runstreamPage.table.loader.whole && document.querySelectorAll('.grid-row').length > 0"
NAMES = "() => [...document.querySelectorAll('.grid-row')].sort((a, b) => a.dataset.row - b.dataset.row)\
.map(row => row.querySelector('.name').textContent)"
COUNT = "() => document.querySelector('#table-count').textContent"


@dataclass
class Data:
    """An experiment; losses of its runs, which begin at ``first`` and fall by a half at step 1."""

    url: str
    experiment: str
    runs: list[str]
    first: list[float]

    def address(self, **fields: str) -> str:
        fields = {"view": "table", "experiments": self.experiment, **fields}
        return f"{self.url}/runstream/?" + "&".join(f"{name}={value}" for name, value in fields.items())


@pytest.fixture(scope="module")
def data(client: MlflowClient, tracking_uri: str, experiment_id: str) -> Data:
    made = Data(tracking_uri, experiment_id, [], [])
    for number in range(RUNS):
        run_id = client.create_run(
            experiment_id, run_name=f"run-{number:02}", start_time=1_760_000_000_000 + number
        ).info.run_id
        first = 1 + (number * 7 % RUNS) / RUNS
        points = [Metric("val/loss", value, 1, step) for step, value in enumerate((first, first / 2, first))]
        params = [Param("lr", RATES[number % 3]), Param("seed", str(number))]
        client.log_batch(run_id, points, params)
        made.runs.append(run_id)
        made.first.append(first)
    return made


def test_only_what_is_seen_is_in_the_document_and_sorts_and_filters(tab: Any, data: Data) -> None:
    tab.goto(data.address(cols="params.*,metrics.*.min,metrics.val/loss.at(1)", sort="metrics.val/loss.min"))
    until(tab, WHOLE)
    until(tab, f"() => ({COUNT})().startsWith('{RUNS} runs, 4 columns')")
    order = sorted(range(RUNS), key=lambda number: data.first[number])
    shown = until(tab, NAMES)
    assert 10 < len(shown) < RUNS
    assert shown == [f"run-{number:02}" for number in order[: len(shown)]]
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.locator("#table-filter").fill("metrics.`val/loss`.min < 0.6 and params.lr = '0.1'")
    fits = [number for number in order if data.first[number] / 2 < 0.6 and number % 3 == 0]
    until(tab, f"() => ({COUNT})().startsWith('{len(fits)} of {RUNS} runs')")
    until(
        tab,
        f"() => JSON.stringify(({NAMES})()) === JSON.stringify({[f'run-{number:02}' for number in fits]})",
    )
    assert not [url for url in asked if url.endswith("/api/1.0/runstream/runs")], (
        "what is here is not asked again"
    )
    assert "filter=" in tab.url


def test_groups_have_mean_and_spread(tab: Any, data: Data) -> None:
    tab.goto(data.address(cols="metrics.val/loss", group="params.lr", sort="params.lr"))
    until(tab, WHOLE)
    until(tab, f"() => ({COUNT})().includes('in 3 groups')")
    found = list(csv.DictReader(io.StringIO(tab.evaluate("() => runstreamPage.table.csv()"))))
    losses = pd.Series(data.first).groupby([RATES[number % 3] for number in range(RUNS)])
    for row in found:
        assert float(row["metrics.`val/loss` mean"]) == pytest.approx(losses.mean()[row["params.lr"]])
        assert float(row["metrics.`val/loss` std"]) == pytest.approx(losses.std()[row["params.lr"]])
    tab.locator("#grid").focus()
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    until(
        tab,
        "() => document.querySelector('[aria-expanded=true]') && document.querySelectorAll('.grid-row.run').length > 5",
    )


def test_a_picked_run_has_its_colour_in_table_plot_and_curves(tab: Any, data: Data) -> None:
    tab.goto(data.address(plot="scatter", axes="params.lr,metrics.val/loss"))
    until(tab, WHOLE)
    until(tab, f"() => runstreamPage.table.plots.drawn === {RUNS}")
    tab.locator(".grid-row .lead").first.click()
    until(tab, "() => document.querySelectorAll('.chip[data-run]').length === 1")
    stroke = "document.querySelector('{}')?.getAttribute('stroke')"
    row, chip = stroke.format(".grid-row.chosen path"), stroke.format(".chip path")
    until(tab, f"() => !!{row} && {row} === {chip}")
    tab.locator("#table-tools").get_by_text("Parallel").click()
    until(tab, f"() => runstreamPage.table.plots.drawn === {RUNS}")
    tab.locator(".views").get_by_text("Curves").click()
    until(tab, "() => document.querySelector('figure')?.dataset.points === '3'")


def test_the_python_that_is_copied_gives_what_is_shown(tab: Any, data: Data) -> None:
    tab.goto(data.address(cols="params.*,metrics.val/loss.min", sort="-metrics.val/loss.min"))
    until(tab, WHOLE)
    shown = pd.read_csv(io.StringIO(tab.evaluate("() => runstreamPage.table.csv()")))
    code = tab.evaluate("() => runstreamPage.table.pandas()")
    named = f'runstream.connect("{data.url}")'
    assert named in code
    with runstream.connect(data.url) as server:
        names: dict[str, Any] = {"server": server}
        exec(code.replace(named, "server"), names)
    frame = names["df"]
    assert list(frame["run_id"]) == list(shown["attributes.run_id"])
    assert list(frame["metrics.`val/loss`.min"]) == list(shown["metrics.`val/loss`.min"])


def test_python_reads_runs_as_pandas_polars_and_arrow(data: Data) -> None:
    with runstream.connect(data.url) as server:
        frame = server.runs(data.experiment, columns=["params.lr", "metrics.val/loss.min"], max_results=7)
        assert len(frame) == 7
        whole = server.runs(
            [data.experiment], filter="params.lr = '0.1'", order_by="metrics.`val/loss`.min ASC"
        )
        assert list(whole["params.lr"]) == ["0.1"] * 20
        arrow = server.runs(data.experiment, as_="arrow")
        assert set(arrow.column("run_id").to_pylist()) == set(data.runs)
