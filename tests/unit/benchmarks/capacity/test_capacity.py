"""The capacity model: it adds up, and the page shows what it says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.capacity.capacity import FIGURES, RATES, Figures, main, plan, table
from support.deploy import ROOT

FIGURES_NOW = Figures.load()


def changed(**policy: float) -> Figures:
    return dataclasses.replace(FIGURES_NOW, policy={**FIGURES_NOW.policy, **policy})


@given(st.floats(1e3, 2e8))
def test_no_part_is_planned_beyond_its_limits(rate: float) -> None:
    found = plan(rate, FIGURES_NOW)
    cell, policy = found.cell, FIGURES_NOW.policy
    assert cell.points * found.cells == pytest.approx(rate)
    assert cell.upserts <= policy["upserts_per_s"] * 1.0001
    assert cell.parts_per_shard <= policy["parts_per_s_per_shard"] * 1.0001
    busy = cell.points * FIGURES_NOW.measured["gateway_ms_per_1000_points"] / 1e6
    assert busy <= cell.gateways * policy["utilisation"]
    verdicts = cell.points / 1000 * 10 / policy["verdict_ttl_s"]
    assert verdicts * FIGURES_NOW.measured["verdict_ms"] / 1e3 <= cell.tracking * policy["utilisation"]
    assert cell.partitions >= cell.writers
    assert cell.partitions % cell.brokers == 0
    assert cell.brokers >= policy["kafka_replication"]


@given(st.floats(1e3, 1e8))
def test_disk_and_network_grow_with_the_rate(rate: float) -> None:
    one, two = plan(rate, FIGURES_NOW), plan(2 * rate, FIGURES_NOW)
    assert two.clickhouse_gb_per_day == pytest.approx(2 * one.clickhouse_gb_per_day)
    assert two.kafka_disk_gb == pytest.approx(2 * one.kafka_disk_gb)
    assert sum(two.network.values()) == pytest.approx(2 * sum(one.network.values()))
    assert sum(two.cores.values()) >= sum(one.cores.values())


def test_by_hand() -> None:
    found = plan(1e6, FIGURES_NOW)
    measured, policy = FIGURES_NOW.measured, FIGURES_NOW.policy
    a_day = 1e6 * 86_400 * measured["clickhouse_bytes_per_point"] * policy["clickhouse_replicas"]
    assert found.clickhouse_gb_per_day == pytest.approx(a_day / 1e9)
    kept = 1e6 * measured["queue_bytes_per_point"] * 3600 * policy["kafka_retention_hours"]
    assert found.kafka_disk_gb == pytest.approx(kept * policy["kafka_replication"] / 1e9)
    assert found.network["clients to gateways"] == pytest.approx(8e6 * measured["http_bytes_per_point"] / 1e9)


def test_limits_make_cells() -> None:
    assert plan(1e7, changed(upserts_per_s=1e9)).cells == 1
    assert plan(1e7, changed(upserts_per_s=1e5)).cells == 5
    assert plan(1e8, changed(upserts_per_s=1e9, parts_per_s_per_shard=5)).cells > 1
    with pytest.raises(ValueError, match="parts_per_s_per_shard"):
        plan(1e7, changed(upserts_per_s=1e9, parts_per_s_per_shard=1))


def test_every_figure_says_where_it_comes_from() -> None:
    for name, entry in json.loads(FIGURES.read_text())["measured"].items():
        assert entry["value"] > 0, name
        assert entry["source"], name


def test_the_page_shows_what_the_model_says() -> None:
    page = (ROOT / "docs" / "internals" / "scaling.md").read_text()
    assert table([plan(rate, FIGURES_NOW) for rate in RATES]) in page
    assert "images/capacity.png" in page


def test_command_line_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "made" / "capacity.png"
    main(["--rate", "250000", "--plot", str(picture)])
    assert "| 250,000 |" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
