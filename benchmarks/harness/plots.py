"""Plots of one benchmark, as SVG and PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ROWS = {"batch-1000": "log-batch of 1,000", "batch-100": "log-batch of 100", "log-metric": "log-metric"}
_COLOURS = ("#0b7285", "#e8590c", "#f08c00", "#5f3dc4", "#9775fa", "#2f9e44", "#868e96")


def draw(outcome: dict[str, Any], folder: Path) -> None:
    """Writes ``throughput``, ``latency``, ``cpu`` and ``memory``; nothing if no row of theirs was run."""
    folder.mkdir(parents=True, exist_ok=True)
    _memory(outcome, folder / "memory")
    entries = [e for e in outcome["table"] if e["row"] in _ROWS and "error" not in e]
    if not entries:
        return
    titles = {name: server["title"] for name, server in outcome["servers"].items()}
    _bars(
        entries,
        titles,
        "readable_points_per_s",
        "durable and readable points per second",
        folder / "throughput",
    )
    _bars(entries, titles, "p99_ms", "p99 of a request, milliseconds", folder / "latency")
    _bars(entries, titles, "cpu_s_per_million", "CPU seconds per million points", folder / "cpu")


def _memory(outcome: dict[str, Any], path: Path) -> None:
    """What each of Runstream's roles took over time, in its longest row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [e for e in outcome["table"] if e["server"] == "runstream" and len(e.get("memory", [])) > 1]
    if not rows:
        return
    longest = max(rows, key=lambda entry: entry["memory"][-1][0])
    samples = longest["memory"]
    plot = Figure(figsize=(9, 3.2), layout="constrained")
    FigureCanvasAgg(plot)
    axes = plot.add_subplot()
    for number, role in enumerate(sorted({role for _, roles in samples for role in roles})):
        axes.plot(
            [at for at, _ in samples],
            [roles.get(role, 0) / 1e6 for _, roles in samples],
            label=role,
            color=_COLOURS[number % len(_COLOURS)],
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"seconds of load: {longest['title']}")
    axes.set_ylabel("resident memory, MB")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    plot.savefig(path.with_suffix(".svg"))
    plot.savefig(path.with_suffix(".png"), dpi=144)


def _bars(
    entries: Sequence[dict[str, Any]], titles: dict[str, str], figure: str, label: str, path: Path
) -> None:
    # A plot's backend is chosen before pyplot would be: no display is needed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in _ROWS if any(e["row"] == row for e in entries)]
    servers = list(dict.fromkeys(e["server"] for e in entries))
    plot = Figure(figsize=(9, 4.2), layout="constrained")
    FigureCanvasAgg(plot)
    axes = plot.add_subplot()
    width = 0.8 / len(servers)
    for number, server in enumerate(servers):
        values = {e["row"]: e.get(figure) for e in entries if e["server"] == server}
        at = [i + (number - (len(servers) - 1) / 2) * width for i in range(len(rows))]
        heights = [values.get(row) or 0 for row in rows]
        bars = axes.bar(
            at, heights, width * 0.92, label=titles[server], color=_COLOURS[number % len(_COLOURS)]
        )
        axes.bar_label(bars, [_short(height) for height in heights], fontsize=7, padding=2)
    axes.set_yscale("log")
    axes.set_xticks(range(len(rows)), [_ROWS[row] for row in rows])
    axes.set_ylabel(label + " (log scale)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.12)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.18))
    plot.savefig(path.with_suffix(".svg"))
    plot.savefig(path.with_suffix(".png"), dpi=144)


def _short(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.2g}M"
    if value >= 1e4:
        return f"{value / 1e3:.0f}k"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}" if value else ""
