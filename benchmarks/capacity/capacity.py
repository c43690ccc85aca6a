"""What a rate of points needs: processes, partitions, machines, disk, network and money.

    python -m benchmarks capacity                          # the table for 1, 10 and 100 million points a second
    python -m benchmarks capacity --rate 250000 --figures mine.json
    python -m benchmarks capacity --plot docs/images/capacity.png

The model multiplies measured costs per point by the rate, divides by the share of a core that is planned to be busy,
and rounds up. Two limits do not grow with more machines of one installation: rows that one PostgreSQL can upsert, and
parts that one table takes in a second. Beyond them the rate is spread over *cells*: installations of their own, each
with its own address. ``capacity.json`` holds the figures; every one says where it comes from.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).with_suffix(".json")
RATES = (1e6, 1e7, 1e8)
_HOURS_PER_MONTH = 730
_GB = 1e9


@dataclass(frozen=True, slots=True)
class Figures:
    """``measured`` costs, the ``workload`` they are applied to, and the ``policy`` of whoever plans."""

    measured: dict[str, float]
    workload: dict[str, float]
    policy: dict[str, float]

    @classmethod
    def load(cls, path: Path = FIGURES) -> Figures:
        """Read a JSON file in the form of ``capacity.json``."""
        tree: dict[str, Any] = json.loads(path.read_text())
        measured = {name: float(entry["value"]) for name, entry in tree["measured"].items()}
        return cls(measured, tree["workload"], tree["policy"])


@dataclass(frozen=True, slots=True)
class Cell:
    """One installation. Rates are per second, cores are busy cores unless the name says otherwise."""

    points: float
    gateways: int
    tracking: int
    partitions: int
    brokers: int
    writers: int
    shards: int
    flush_s: float
    parts_per_shard: float
    upserts: float
    postgres_cores: float
    lag_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rate needs in all; ``cell`` is one of ``cells`` equal parts. Sizes in GB, network in Gbit/s."""

    rate: float
    cells: int
    cell: Cell
    cores: dict[str, float]
    kafka_disk_gb: float
    clickhouse_gb_per_day: float
    network: dict[str, float]
    usd_per_month: float
    usd_per_month_and_stored_month: float


def plan(rate: float, figures: Figures) -> Plan:
    """The fewest cells that carry ``rate`` points a second, and what they need together.

    Raises ``ValueError`` if the policy's limits are too tight for a cell of any size.
    """
    cells = 1
    while True:
        cell = _cell(rate / cells, figures)
        over = max(
            cell.upserts / figures.policy["upserts_per_s"], cell.flush_s / figures.policy["longest_flush_s"]
        )
        if over <= 1:
            return _total(rate, cells, cell, figures)
        if cell.writers <= figures.policy["min_writers"] and cell.upserts < figures.policy["upserts_per_s"]:
            raise ValueError("the least number of writers makes more parts than parts_per_s_per_shard allows")
        cells = max(cells + 1, math.floor(cells * over))


def _cell(points: float, figures: Figures) -> Cell:
    measured, load, policy = figures.measured, figures.workload, figures.policy
    per_request = load["keys_per_request"] * load["steps_per_request"]
    gateway_cores = points * (
        measured["gateway_ms_per_1000_points"] / 1e6 + measured["gateway_ms_per_request"] / 1e3 / per_request
    )
    gateways = _up(
        gateway_cores / policy["cores_per_gateway"] / policy["utilisation"], policy["min_gateways"]
    )
    # Each run is asked about once in a verdict's life, if its requests stay with one gateway.
    runs = points / per_request * load["seconds_between_requests"]
    verdicts = runs / max(policy["verdict_ttl_s"], load["seconds_between_requests"])
    tracking_cores = verdicts * measured["verdict_ms"] / 1e3
    tracking = _up(
        tracking_cores / policy["cores_per_tracking"] / policy["utilisation"], policy["min_tracking"]
    )
    writer_cores = points * measured["writer_ms_per_1000_points"] / 1e6
    writers = _up(writer_cores / policy["cores_per_writer"] / policy["utilisation"], policy["min_writers"])
    log_mb = points * measured["queue_bytes_per_point"] / 1e6
    brokers = _up(log_mb * policy["kafka_replication"] / policy["broker_mb_per_s"], policy["min_brokers"])
    # Room to double the writers, and an even share for every broker.
    partitions = _up(max(4 * writers, log_mb / policy["partition_mb_per_s"]), 12)
    partitions = math.ceil(partitions / brokers) * brokers
    engine_cores = points * (
        measured["clickhouse_insert_ms_per_1000_points"] + measured["clickhouse_merge_ms_per_1000_points"]
    )
    shards = _up(engine_cores / 1e6 / policy["clickhouse_utilisation"] / policy["cores_per_shard"], 1)
    # Every block of every writer becomes a part on every shard: the more writers, the longer each has to collect.
    flush_s = max(_usual_flush_s(points / writers, policy), writers / policy["parts_per_s_per_shard"])
    series = points * load["seconds_between_requests"] / load["steps_per_request"]
    upserts = series / max(load["seconds_between_requests"], flush_s)
    rows_per_block = points / writers * flush_s
    insert_s = (
        measured["clickhouse_insert_fixed_ms"]
        + rows_per_block / 1000 * measured["clickhouse_insert_ms_per_1000_points"]
    ) / 1e3
    return Cell(
        points=points,
        gateways=gateways,
        tracking=tracking,
        partitions=partitions,
        brokers=brokers,
        writers=writers,
        shards=shards,
        flush_s=flush_s,
        parts_per_shard=writers / flush_s,
        upserts=upserts,
        postgres_cores=upserts * measured["postgres_us_per_upsert"] / 1e6,
        lag_s=measured["append_ms"] / 1e3 + flush_s + insert_s,
    )


def _usual_flush_s(points: float, policy: dict[str, float]) -> float:
    """How long a writer that takes ``points`` a second collects a block (``runstream.ingest.writer.pipeline``)."""
    idle_s, busy_s = policy["flush_ms"] / 1e3, policy["flush_busy_ms"] / 1e3
    if points * idle_s * 10 < policy["flush_rows"]:
        return idle_s
    return min(policy["flush_rows"] / points, busy_s)


def _total(rate: float, cells: int, cell: Cell, figures: Figures) -> Plan:
    measured, policy = figures.measured, figures.policy
    replicas = policy["clickhouse_replicas"]
    cores = {
        "gateway": cells * cell.gateways * policy["cores_per_gateway"],
        "tracking": cells * cell.tracking * policy["cores_per_tracking"],
        "kafka": cells * cell.brokers * policy["cores_per_broker"],
        "writer": cells * cell.writers * policy["cores_per_writer"],
        "clickhouse": cells * cell.shards * replicas * policy["cores_per_shard"],
        # A primary and a standby.
        "postgres": 2 * cells * max(2, math.ceil(cell.postgres_cores / policy["utilisation"])),
    }
    log_bytes = rate * measured["queue_bytes_per_point"]
    kafka_disk_gb = log_bytes * policy["kafka_replication"] * policy["kafka_retention_hours"] * 3600 / _GB
    stored_gb = rate * measured["clickhouse_bytes_per_point"] * 86_400 * replicas / _GB
    insert_bytes = rate * measured["insert_bytes_per_point"]
    network = {
        "clients to gateways": rate * measured["http_bytes_per_point"],
        "gateways to Kafka": log_bytes,
        "between brokers": log_bytes * (policy["kafka_replication"] - 1),
        "Kafka to writers": log_bytes,
        "writers to ClickHouse": insert_bytes,
        "between replicas": insert_bytes * (replicas - 1),
    }
    machines = sum(cores.values()) * policy["usd_per_core_hour"] * _HOURS_PER_MONTH
    monthly = machines + kafka_disk_gb * policy["usd_per_gb_month"]
    return Plan(
        rate=rate,
        cells=cells,
        cell=cell,
        cores=cores,
        kafka_disk_gb=kafka_disk_gb,
        clickhouse_gb_per_day=stored_gb,
        network={name: 8 * size / 1e9 for name, size in network.items()},
        usd_per_month=monthly,
        usd_per_month_and_stored_month=stored_gb * 30 * policy["usd_per_gb_month"],
    )


def _up(number: float, least: float) -> int:
    # A hair below a whole number is that number: 0.1 * 3 must not cost a machine.
    return max(int(least), math.ceil(number - 1e-9))


_ROWS: tuple[tuple[str, Callable[[Plan], str]], ...] = (
    ("cells (installations with an address of their own)", lambda p: f"{p.cells}"),
    ("gateways (one core each)", lambda p: f"{p.cells * p.cell.gateways:,}"),
    ("MLflow servers (one core each)", lambda p: f"{p.cells * p.cell.tracking:,}"),
    ("Kafka brokers", lambda p: f"{p.cells * p.cell.brokers:,}"),
    ("partitions", lambda p: f"{p.cells * p.cell.partitions:,}"),
    ("writers (one core each)", lambda p: f"{p.cells * p.cell.writers:,}"),
    ("ClickHouse shards", lambda p: f"{p.cells * p.cell.shards:,}"),
    ("cores in all", lambda p: f"{sum(p.cores.values()):,.0f}"),
    ("rows/s upserted, per PostgreSQL", lambda p: f"{p.cell.upserts:,.0f}"),
    ("milliseconds a writer collects a block", lambda p: f"{p.cell.flush_s * 1000:,.0f}"),
    ("parts/s per shard", lambda p: f"{p.cell.parts_per_shard:,.1f}"),
    ("seconds until a history shows a point, unasked", lambda p: f"{p.cell.lag_s:,.2f}"),
    ("Kafka disk, all replicas", lambda p: _size(p.kafka_disk_gb)),
    ("ClickHouse disk per day, all replicas", lambda p: _size(p.clickhouse_gb_per_day)),
    ("network in from clients", lambda p: f"{p.network['clients to gateways']:,.1f} Gbit/s"),
    ("network inside", lambda p: f"{sum(list(p.network.values())[1:]):,.1f} Gbit/s"),
    ("USD per month, machines and Kafka", lambda p: f"{p.usd_per_month:,.0f}"),
    ("USD per month for each month of points kept", lambda p: f"{p.usd_per_month_and_stored_month:,.0f}"),
)


def table(plans: Sequence[Plan]) -> str:
    """The plans side by side, as a Markdown table."""
    lines = ["| points a second | " + " | ".join(f"{p.rate:,.0f}" for p in plans) + " |"]
    lines += ["|---|" + "---:|" * len(plans)]
    lines += [f"| {title} | " + " | ".join(cell(p) for p in plans) + " |" for title, cell in _ROWS]
    return "\n".join(lines)


def _size(gigabytes: float) -> str:
    return f"{gigabytes / 1000:,.1f} TB" if gigabytes >= 1000 else f"{gigabytes:,.0f} GB"


def draw(path: Path, figures: Figures) -> None:
    """Cores by role, and disk, over the rate; the file's ending chooses the format."""
    import matplotlib as mpl

    mpl.use("Agg")
    # The same text in, the same file out: no date, no random ids.
    mpl.rcParams["svg.hashsalt"] = "runstream"
    from matplotlib import pyplot as plt

    plans = [plan(10 ** (exponent / 20), figures) for exponent in range(100, 161)]
    rates = [p.rate for p in plans]
    figure, (cores, disk) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for number, role in enumerate(plans[0].cores):
        # Roles lie on one line where they are at their least: dashes let all be seen.
        style = ("-", "--", "-", ":", "-", "-.")[number]
        cores.plot(rates, [p.cores[role] for p in plans], style, label=role)
    cores.set(title="Cores", ylabel="cores, all cells and replicas")
    disk.plot(rates, [p.clickhouse_gb_per_day for p in plans], label="ClickHouse, per day")
    disk.plot(rates, [p.kafka_disk_gb for p in plans], label="Kafka, in all")
    disk.set(title="Disk", ylabel="GB, all replicas")
    for axes in (cores, disk):
        axes.set(xscale="log", yscale="log", xlabel="points a second")
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.capacity", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rate", type=float, action="append", help="points a second; may be repeated")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="JSON in the form of capacity.json")
    parser.add_argument("--plot", type=Path, help="also draw the curves into this file")
    options = parser.parse_args(arguments)
    figures = Figures.load(options.figures)
    sys.stdout.write(table([plan(rate, figures) for rate in options.rate or RATES]) + "\n")
    if options.plot:
        draw(options.plot, figures)


if __name__ == "__main__":
    main()
