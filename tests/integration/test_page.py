"""The page of curves, in a real browser, with points that this server stores."""

from __future__ import annotations

import concurrent.futures
import json
import math
import re
import time
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Metric

from support.browser import new_tab, until

STEPS = 200
START_MS = 1_760_000_000_000
NAMES = ("seed-1", "seed-2", '<img src=x onerror="window.hacked=1">')
LONG = 1_000_000
QUERY = "/api/1.0/runstream/metrics/query"
READY = """key => {
    const chart = document.querySelector(`figure[data-key="${key}"]`);
    return chart?.dataset.state === "ready" && chart.dataset.points !== "0" && !chart.chart._frame;
}"""
SHOWN = 'key => document.querySelector(`figure[data-key="${key}"]`).chart.shown'
BAND = 'key => document.querySelector(`figure[data-key="${key}"]`)?.chart.shown.band'
DETAIL = """key => {
    const figure = document.querySelector(`figure[data-key="${key}"]`);
    return figure.dataset.detail === "true" && !figure.chart._frame;
}"""
COUNT = 'key => Number(document.querySelector(`figure[data-key="${key}"]`)?.dataset.points ?? 0)'


@dataclass
class Data:
    """An experiment with three runs, and what was logged to them: run -> key -> values by step."""

    url: str
    experiment: str
    runs: list[str]
    values: dict[str, dict[str, list[float]]]

    def address(self, **fields: Any) -> str:
        fields = {"experiments": self.experiment, "runs": ",".join(self.runs), **fields}
        return f"{self.url}/runstream/?" + "&".join(f"{name}={value}" for name, value in fields.items())


def curves(seed: int) -> dict[str, list[float]]:
    """Values by step: a loss, an accuracy, and a norm with holes."""
    loss = [(1 + seed / 10) * math.exp(-step / 50) + 0.1 * seed + 0.05 * (step % 2) for step in range(STEPS)]
    norm = [1.0 + step % 7 for step in range(STEPS)]
    norm[20], norm[60], norm[90] = math.nan, math.inf, -math.inf
    return {"train/loss": loss, "val/accuracy": [1 - value / 4 for value in loss], "norm": norm}


@pytest.fixture(scope="module")
def data(client: MlflowClient, tracking_uri: str, experiment_id: str) -> Data:
    found = Data(tracking_uri, experiment_id, [], {})
    for seed, name in enumerate(NAMES):
        run_id = client.create_run(
            experiment_id, run_name=name, start_time=START_MS + seed * 60_000
        ).info.run_id
        values = curves(seed)
        for key, series in values.items():
            points = [
                Metric(key, value, START_MS + seed * 60_000 + step * 1000, step)
                for step, value in enumerate(series)
            ]
            client.log_batch(run_id, points)
        found.runs.append(run_id)
        found.values[run_id] = values
    return found


def lines(page: Any, key: str) -> dict[str, Any]:
    """The chart's lines by run, once it shows them."""
    until(page, READY, key)
    return {line["id"]: line for line in page.evaluate(SHOWN, key)["lines"]}


def asked(requests_: list[Any], key: str) -> list[dict[str, Any]]:
    """The bodies of the questions for this metric's points."""
    bodies = [request.post_data_json for request in requests_ if request.url.endswith(QUERY)]
    return [body for body in bodies if body["keys"] == [key]]


def drag(page: Any, key: str, begin: float, end: float) -> None:
    """Drag over this part of a chart's width, once it shows its points."""
    until(page, READY, key)
    box = page.locator(f'figure[data-key="{key}"] .u-over').bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + begin * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], middle, steps=3)
    page.mouse.up()


def test_curves_of_runs_are_the_logged_points(tab: Any, data: Data) -> None:
    tab.goto(f"{data.url}/runstream?experiments={data.experiment}")
    for key in ("train/loss", "val/accuracy", "norm"):
        shown = lines(tab, key)
        assert shown.keys() == set(data.runs)
        for run_id, line in shown.items():
            logged = data.values[run_id][key]
            assert line["x"] == list(range(STEPS))
            assert line["y"] == [value if math.isfinite(value) else None for value in logged]
    colours = {run_id: line["colour"] for run_id, line in lines(tab, "norm").items()}
    assert len(set(colours.values())) == 3
    assert colours == {run_id: line["colour"] for run_id, line in lines(tab, "train/loss").items()}
    # Something of each colour is on the canvas.
    until(tab, PAINTED, ["train/loss", sorted(colours.values())])
    # No colour without its name: the legend has each run, with a link to MLflow's page of it.
    for run_id in data.runs:
        chip = tab.locator(f'.chip[data-run="{run_id}"]')
        assert chip.locator("path").get_attribute("stroke") == colours[run_id]
        assert chip.locator("a").get_attribute("href") == f"/#/experiments/{data.experiment}/runs/{run_id}"
    assert tab.locator("#mlflow").get_attribute("href") == "/"


PAINTED = """([key, colours]) => {
    const canvas = document.querySelector(`figure[data-key="${key}"] canvas`);
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const near = hex => {
        const [r, g, b] = [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16));
        for (let i = 0; i < pixels.length; i += 4) {
            if (Math.abs(pixels[i] - r) + Math.abs(pixels[i + 1] - g) + Math.abs(pixels[i + 2] - b) < 12) return true;
        }
        return false;
    };
    return colours.every(near);
}"""


def test_names_of_users_stay_text(tab: Any, data: Data) -> None:
    key = "<img src=x onerror=window.hacked=2>"

    def add_key(route: Any) -> None:
        answer = route.fetch()
        body = answer.json()
        for run in body["runs"]:
            run["data"]["metrics"].append({"key": key, "value": 1, "step": 0, "timestamp": 0})
        route.fulfill(response=answer, json=body)

    tab.route("**/runs/search", add_key)
    tab.goto(data.address())
    lines(tab, "train/loss")
    until(tab, "key => [...document.querySelectorAll('h3')].some(title => title.textContent === key)", key)
    figure = tab.locator("figure", has=tab.get_by_role("heading", name=key))
    assert (
        "No points" in figure.locator(".message").inner_text()
        or figure.get_attribute("data-state") == "loading"
    )
    tab.locator('figure[data-key="train/loss"] .plot').focus()
    tab.keyboard.press("ArrowRight")
    readout = tab.locator('figure[data-key="train/loss"] .readout')
    assert NAMES[2] in readout.inner_text()
    assert tab.evaluate("() => window.hacked === undefined && !document.querySelector('img[onerror]')")


def test_choice_is_kept_in_the_address(tab: Any, data: Data) -> None:
    tab.goto(data.address())
    lines(tab, "norm")
    tab.locator("#key-globs").fill("*/*")
    until(tab, "() => document.querySelectorAll('figure').length === 2")
    tab.locator("#runs").get_by_role("checkbox", name="seed-2").click()
    tab.locator("#smooth").fill("0.6")
    tab.locator("fieldset").get_by_text("Log").click()
    tab.locator("#bands").select_option("minmax")
    left = [run for run in data.runs if run != data.runs[1]]
    until(tab, "() => document.querySelectorAll('.chip').length === 2")
    until(tab, BAND, "train/loss")
    drag(tab, "train/loss", 0.25, 0.5)
    until(tab, "() => location.search.includes('from=')")
    shown = tab.evaluate(SHOWN, "train/loss")["range"]

    # The address alone brings all of it back, elsewhere too.
    other = new_tab(tab.context.browser)
    other.goto(tab.url)
    assert lines(other, "train/loss").keys() == set(left)
    until(other, BAND, "train/loss")
    assert other.evaluate(SHOWN, "train/loss")["range"] == pytest.approx(shown)
    assert other.locator("figure").count() == 2
    assert other.locator("#smooth").input_value() == "0.6"
    assert other.locator('input[name="y"][value="log"]').is_checked()
    other.context.close()

    tab.go_back()
    until(tab, "() => document.querySelector('#bands').value === 'off'")


def test_smoothing_and_logarithm(tab: Any, data: Data) -> None:
    tab.goto(data.address(keys="train/loss"))
    raw = lines(tab, "train/loss")
    tab.locator("#smooth").fill("0.9")
    until(tab, "() => document.querySelector('figure').chart.shown.lines[0].faint")
    for run_id, line in lines(tab, "train/loss").items():
        assert line["faint"] == raw[run_id]["y"]
        assert line["y"] == pytest.approx(tensorboard(line["faint"], 0.9))
    heights = (
        "() => { const p = document.querySelector('figure').chart._plot._plot;"
        " return [1, 0.1].map(v => p.valToPos(v, 'y')).concat(p.valToPos(0.01, 'y')); }"
    )
    tab.locator("fieldset").get_by_text("Log").click()
    # Decades are equally far apart.
    until(
        tab,
        f"() => {{ const [a, b, c] = ({heights})(); return Math.abs((b - a) - (c - b)) < 0.01 && b > a; }}",
    )


def tensorboard(values: list[float], weight: float) -> list[float]:
    """TensorBoard's smoothing (vz_line_chart2/line-chart.ts, resmoothDataset)."""
    last, smoothed = 0.0, []
    for count, value in enumerate(values, 1):
        last = last * weight + (1 - weight) * value
        smoothed.append(last / (1 - weight**count))
    return smoothed


def test_axes_of_time(tab: Any, data: Data) -> None:
    tab.goto(data.address(keys="train/loss", x="time"))
    begins = {run_id: line["x"][0] for run_id, line in lines(tab, "train/loss").items()}
    assert begins == {run_id: START_MS + seed * 60_000 for seed, run_id in enumerate(data.runs)}
    tab.locator("fieldset").get_by_text("Relative").click()
    until(tab, "() => document.querySelector('figure').chart.shown.lines[0].x[0] === 0")
    for line in lines(tab, "train/loss").values():
        assert line["x"] == list(range(STEPS))
    drag(tab, "train/loss", 0.5, 0.75)
    until(tab, "() => document.querySelector('figure').dataset.detail === 'true'")
    for line in lines(tab, "train/loss").values():
        assert 80 < line["x"][0] <= 100
        assert 149 <= line["x"][-1] < 170


def test_values_that_are_no_numbers_are_marked(tab: Any, data: Data) -> None:
    tab.goto(data.address(keys="norm"))
    for line in lines(tab, "norm").values():
        assert sorted(line["marks"]) == [[20, "nan"], [60, "+inf"], [90, "-inf"]]
        assert line["y"][20] is line["y"][60] is line["y"][90] is None
    assert tab.evaluate(SHOWN, "norm")["marks"] == 9
    note = tab.locator("figure .note").inner_text()
    assert ["3 NaN" in note, "3 +∞" in note, "3 −∞" in note] == [True] * 3
    # The readout names them as well.
    box = tab.locator("figure .u-over").bounding_box()
    tab.mouse.move(box["x"] + box["width"] * 60 / (STEPS - 1), box["y"] + 50)
    readout = tab.locator("figure .readout").inner_text()
    assert "step 60" in readout
    assert readout.count("+∞") == 3


@pytest.mark.parametrize(("bands", "low", "high"), [("minmax", 0.0, 1.0), ("p10p90", 0.1, 0.9)])
def test_bands_across_runs(tab: Any, data: Data, bands: str, low: float, high: float) -> None:
    tab.goto(data.address(keys="train/loss", bands=bands))
    lines(tab, "train/loss")
    rows = until(tab, "() => document.querySelector('figure').chart.shown.band?.rows")
    names = ("min", "max") if bands == "minmax" else ("p10", "p90")
    assert [row["step"] for row in rows] == list(range(STEPS))
    for row in rows:
        values = sorted(data.values[run][row["key"]][row["step"]] for run in data.runs)
        assert row["mean"] == pytest.approx(sum(values) / 3)
        for name, share in zip(names, (low, high), strict=True):
            place = 2 * share
            inside = values[int(place)] + (place % 1) * (values[min(2, int(place) + 1)] - values[int(place)])
            assert row[name] == pytest.approx(inside)


def test_new_points_and_new_metrics_appear(tab: Any, data: Data, client: MlflowClient) -> None:
    run_id = client.create_run(data.experiment, run_name="training").info.run_id
    client.log_metric(run_id, "loss", 1.0, step=0)
    tab.goto(f"{data.url}/runstream/?experiments={data.experiment}&runs={run_id}")
    until(tab, READY, "loss")
    until(tab, "() => document.querySelector('#live').dataset.state === 'on'")
    questions: list[Any] = []
    tab.on("request", lambda request: questions.append(request))
    client.log_batch(run_id, [Metric("loss", 1 / (step + 1), START_MS, step) for step in range(1, 50)])
    until(tab, f"key => ({COUNT})(key) === 50", "loss")
    assert lines(tab, "loss")[run_id]["y"] == [1 / (step + 1) for step in range(50)]
    assert not asked(questions, "loss"), "live points come by themselves"
    client.log_metric(run_id, "accuracy", 0.5, step=1)
    assert lines(tab, "accuracy")[run_id]["y"] == [0.5]


def test_a_million_points_stay_few(tab: Any, data: Data, client: MlflowClient) -> None:
    run_id = client.create_run(data.experiment, run_name="long").info.run_id
    log_long(data.url, run_id)
    questions: list[Any] = []
    tab.on("request", lambda request: questions.append(request))
    tab.goto(f"{data.url}/runstream/?experiments={data.experiment}&runs={run_id}&keys=wave")
    (line,) = lines(tab, "wave").values()
    (first,) = asked(questions, "wave")
    assert len(line["x"]) <= first["max_points"] + 2 <= 4_002
    assert (line["x"][0], line["x"][-1]) == (0, LONG - 1)
    # The one spike is there, however few points there are.
    assert max(line["y"]) == 100

    drag(tab, "wave", 0.4, 0.41)
    assert tab.evaluate("() => !location.search.includes('from=')"), "too short to be meant"
    for _ in range(4):
        before = tab.url
        drag(tab, "wave", 0.4, 0.5)
        until(tab, "before => location.href !== before", before)
        until(tab, DETAIL, "wave")
    zooms = asked(questions, "wave")[1:]
    assert len(zooms) == 4, "one question for each zoom"
    assert all(zoom["max_points"] == first["max_points"] for zoom in zooms)
    (line,) = lines(tab, "wave").values()
    # A ten-thousandth of the range, every point of it.
    assert 90 <= len(line["x"]) <= 120
    assert line["x"] == list(range(line["x"][0], line["x"][-1] + 1))
    assert line["y"] == [wave(step) for step in line["x"]]

    tab.locator("figure .u-over").dblclick()
    until(tab, "() => !location.search.includes('from=')")
    (line,) = lines(tab, "wave").values()
    assert (line["x"][0], line["x"][-1]) == (0, LONG - 1)
    assert len(asked(questions, "wave")) == 5, "what is known is not asked again"


def wave(step: int) -> float:
    """A value with four digits; one of them stands out."""
    return 100.0 if step == 654_321 else (step * 7919 % 1000) / 1000


def log_long(url: str, run_id: str) -> None:
    """A million points, in the largest batches that MLflow allows."""

    def send(first: int) -> None:
        with requests.Session() as session:
            for start in range(first, LONG, 4_000):
                points = ",".join(
                    f'{{"key":"wave","value":{wave(step)},"timestamp":{START_MS + step},"step":{step}}}'
                    for step in range(start, start + 1_000)
                )
                body = f'{{"run_id":"{run_id}","metrics":[{points}]}}'
                answer = session.post(
                    f"{url}/api/2.0/mlflow/runs/log-batch", data=body, headers=JSON, timeout=60
                )
                assert answer.status_code == 200, answer.text

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(send, range(0, 4_000, 1_000)))


JSON = {"Content-Type": "application/json"}


def test_page_says_what_there_is_not(tab: Any, data: Data, client: MlflowClient) -> None:
    empty = client.create_experiment(f"empty-{time.time_ns()}")
    tab.goto(f"{data.url}/runstream/?experiments={empty}")
    tab.get_by_text("No runs yet").wait_for()
    code = tab.locator("pre").inner_text()
    assert len(code.splitlines()) == 5
    assert f'set_tracking_uri("{data.url}")' in code
    run_id = client.create_run(empty).info.run_id
    tab.goto(f"{data.url}/runstream/?experiments={empty}&runs={run_id}")
    tab.get_by_text("No metrics yet").first.wait_for()
    client.log_metric(run_id, "loss", 1.0)
    until(tab, READY, "loss")

    tab.goto(f"{data.url}/runstream/?experiments={empty}&filter=params.lr+=+oops")
    until(tab, "() => !document.querySelector('#trouble').hidden")
    assert "oops" in tab.locator("#trouble").inner_text()


def test_page_waits_for_a_server_that_is_away(tab: Any, data: Data) -> None:
    tab.route(f"**{QUERY}", lambda route: route.abort())
    tab.goto(data.address(keys="train/loss"))
    until(tab, "() => document.querySelector('#trouble').textContent.includes('away')")
    tab.unroute(f"**{QUERY}")
    lines(tab, "train/loss")
    until(tab, "() => document.querySelector('#trouble').hidden")


def test_keyboard_reads_and_zooms(tab: Any, data: Data) -> None:
    tab.goto(data.address(keys="train/loss"))
    lines(tab, "train/loss")
    tab.locator("figure .plot").focus()
    tab.keyboard.press("ArrowRight")
    assert re.search(r"step \d+\n", tab.locator("figure .readout").inner_text())
    tab.keyboard.press("+")
    until(tab, "() => location.search.includes('from=')")
    low, high = tab.evaluate(SHOWN, "train/loss")["range"]
    assert high - low == pytest.approx((STEPS - 1) / 2, rel=0.05)
    tab.keyboard.press("0")
    until(tab, "() => !location.search.includes('from=')")


def test_functions_of_the_page(tab: Any, data: Data) -> None:
    tab.goto(data.address(keys="none"))
    base = tab.locator('script[type="module"]').get_attribute("src").rsplit("/", 1)[0]
    found = json.loads(tab.evaluate(FUNCTIONS, base))
    assert found["smooth"] == [2, None, 4, "NaN"]
    assert found["debiased"] == pytest.approx(tensorboard([1.0, 5.0, -2.0], 0.7))
    assert found["thinned"][0] == 0
    assert found["thinned"][-1] == 9_999
    assert {1234, 4321, 7000} <= set(found["thinned"])
    assert len(found["thinned"]) <= 101
    assert found["nearest"] == [-1, 0, 1, 2]
    assert found["drawable"] == {
        "x": [1, 2, 3, 4],
        "y": [5, None, None, 1],
        "marks": [[2, "-inf"]],
        "hidden": 1,
    }
    assert found["globs"] == [True, False, True, True, False, True, False]
    assert found["state"] == "?keys=train/*,a&smooth=0.5&y=log&from=1&to=2"
    assert found["bounded"] <= 200


FUNCTIONS = """async base => {
    const {smooth, thinned, nearest, drawable, globPattern} = await import(`${base}/curves.js`);
    const {Points} = await import(`${base}/series.js`);
    const {fromQuery, toQuery} = await import(`${base}/state.js`);
    const long = Array.from({length: 10000}, (_, i) => i === 1234 ? 9 : i === 4321 ? -9 : i === 7000 ? NaN : i % 2);
    const globs = [["train/*", "train/a/b"], ["train/*", "val/a"], ["?oss", "loss"], ["[a-c]x", "bx"],
        ["[!a-c]x", "bx"], ["a.b", "a.b"], ["a.b", "axb"]];
    const points = new Points(100);
    points.fill([]);
    for (let i = 0; i < 5000; i++) points.add("run", i, i, Math.sin(i));
    return JSON.stringify({
        smooth: smooth([2, null, 4, NaN], 0).map(value => Number.isNaN(value) ? "NaN" : value),
        debiased: smooth([1, 5, -2], 0.7),
        thinned: thinned(long, 100),
        nearest: [nearest([], 3), nearest([1, 2, 3], -5), nearest([1, 2, 3], 2.1), nearest([1, 2, 3], 9)],
        drawable: drawable([3, 1, 2, 4], [-1, 5, -Infinity, 1], true),
        globs: globs.map(([glob, key]) => globPattern(glob).test(key)),
        state: "?" + toQuery(fromQuery("?keys=train/*,a&smooth=0.5&y=log&from=1&to=2&x=odd&bands=odd")),
        bounded: points.count,
    });
}"""
