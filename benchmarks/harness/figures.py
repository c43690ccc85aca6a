"""Tables of figures in README and docs, from the committed results: ``python -m benchmarks figures`` writes them anew.

``benchmarks/results/<machine>/<date>.json`` holds what was measured. A later date wins, result by result. Pages have
tables of their own under ``tables``: which page, its head, and rows of numbers and words.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
MACHINE = "amd-epyc-2-cores-24-gib"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

_HEAD = """| what | Runstream, embedded | stock `mlflow server` (SQLite / PostgreSQL) | command |
|---|--:|--:|---|
"""
_READS = "`python -m benchmarks read_speed`"
# What is measured, what Runstream and stock MLflow gave, how to measure it again. `~100` rounds to hundreds, `s` makes
# seconds of milliseconds.
_ROWS = (
    (
        "1,000-point batches, points/s acknowledged",
        "{batch_1000.runstream.points_per_s:~1000} ({batch_1000.runstream.readable_per_s:~1000} readable)",
        "{batch_1000.sqlite.points_per_s:~100} / {batch_1000.postgres.points_per_s:~100}",
        "`make bench`",
    ),
    (
        "the same, p99",
        "{batch_1000.runstream.p99_ms:.0f} ms",
        "{batch_1000.sqlite.p99_ms:s.1f} / {batch_1000.postgres.p99_ms:s.1f} s",
        "`make bench`",
    ),
    (
        "the same, processor seconds per million points",
        "{batch_1000.runstream.cpu_s_per_million:.1f}",
        "{batch_1000.sqlite.cpu_s_per_million:.0f} / {batch_1000.postgres.cpu_s_per_million:.0f}",
        "`make bench`",
    ),
    (
        "the same on Kafka, ClickHouse's engine over HTTP, PostgreSQL",
        "{batch_1000.kafka.points_per_s:~1000}",
        "",
        "`make bench`",
    ),
    (
        "100-point batches, points/s",
        "{batch_100.runstream.points_per_s:~1000}",
        "{batch_100.sqlite.points_per_s:~100} / {batch_100.postgres.points_per_s:~100} *",
        "`make bench`",
    ),
    (
        "`log-metric`, requests/s",
        "{log_metric.runstream.requests_per_s:~100}; {log_metric_alone.runstream.requests_per_s:~100} alone, after a"
        " later change",
        "{log_metric.sqlite.requests_per_s:~1} / {log_metric.postgres.requests_per_s:~1} *",
        "`make bench`, `python -m benchmarks --servers runstream`",
    ),
    (
        "a batch of 1,000 points sent again",
        "{retry.runstream.small_ms} ms on 10,000 points, {retry.runstream.large_ms} ms on 10,000,000",
        "{retry.sqlite.small_ms:~10} ms on 10,000, {retry.sqlite.large_ms:s.1f} s on 50,000",
        "`make bench`",
    ),
    (
        "bytes per point at rest",
        "{reads.runstream.bytes_per_point}",
        "{stored.sqlite.bytes_per_point:.0f} / {stored.postgres.bytes_per_point:.0f}",
        f"`make bench`, {_READS}",
    ),
    (
        "a history of 1,000 points of 112,000,000",
        "{reads.runstream.history_p50_ms:.0f} ms",
        "{reads.sqlite.history_ms:.0f} ms",
        _READS,
    ),
    (
        "1,000,000 points as pandas",
        "{reads.runstream.pandas_million_p50_ms:s.2f} s",
        "{reads.sqlite.million_in_pages_ms:s.0f} s in pages of 25,000",
        _READS,
    ),
    (
        "10,000,000 points as a curve of 1,000",
        "{reads.runstream.curve_p50_ms:.0f} ms, again {reads.runstream.curve_again_p50_ms:.0f} ms",
        "",
        _READS,
    ),
    ("a logged point reaches a live listener, p99", "{reads.runstream.live_p99_ms:.0f} ms", "", _READS),
    (
        "5 GB artifact up and down, CPU s/GB",
        "{artifact_5_gb.runstream.up_cpu_s_per_gb} and {artifact_5_gb.runstream.down_cpu_s_per_gb}",
        "{artifact_5_gb.sqlite.up_cpu_s_per_gb} and {artifact_5_gb.sqlite.down_cpu_s_per_gb}",
        "`python -m benchmarks artifacts`",
    ),
)


class _Figure(float):
    def __format__(self, spec: str) -> str:
        if spec.startswith("~"):
            step = int(spec[1:])
            return f"{round(self / step) * step:,}"
        return format(self / 1000, spec[1:]) if spec.startswith("s") else format(float(self), spec)


def results(kind: str = "results") -> dict[str, Any]:
    """Every committed result (or table: ``"tables"``) of the README's machine, by name."""
    found: dict[str, Any] = {}
    for file in sorted((RESULTS / MACHINE).glob("*.json")):
        found |= json.loads(file.read_text()).get(kind, {})
    return found


def pages() -> dict[Path, str]:
    """Every page that has tables of figures, as it should be. ``ValueError`` names a page that lacks its markers."""
    readme = ROOT / "README.md"
    made = {readme: filled(readme.read_text())}
    for name, kept in results("tables").items():
        page = ROOT / kept["page"]
        begin, end = (f"<!-- table {name}: {edge} -->\n" for edge in ("begin", "end"))
        text = made.get(page) or page.read_text()
        if begin not in text or end not in text:
            raise ValueError(f"{kept['page']} has no markers for the table {name}")
        before, rest = text.split(begin)
        made[page] = f"{before}{begin}{_rows(kept)}{end}{rest.split(end)[1]}"
    return made


def _rows(kept: dict[str, Any]) -> str:
    lines = [
        " | ".join(kept["head"]),
        "|".join(kept["align"]),
        *(" | ".join(map(_shown, row)) for row in kept["rows"]),
    ]
    framed = [f"|{line}|" if line is lines[1] else f"| {line} |" for line in lines]
    return "".join(f"{line}\n" for line in framed).replace("|  |", "| |").replace("|  |", "| |")


def _shown(cell: str | float) -> str:
    return cell if isinstance(cell, str) else f"{cell:,}"


def table() -> str:
    """The table as Markdown. ``AttributeError`` names a result that is missing."""
    figures = {name: _tree(result) for name, result in results().items()}
    rows = (" | ".join(cell.format(**figures) for cell in row) for row in _ROWS)
    return _HEAD + "".join(f"| {row} |\n".replace("|  |", "| |") for row in rows)


def filled(text: str) -> str:
    """``text`` with the table between the markers made anew."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}{END}{after}"


def _tree(value: Any) -> Any:
    if isinstance(value, dict):
        return SimpleNamespace(**{name: _tree(part) for name, part in value.items()})
    return _Figure(value) if isinstance(value, int | float) else value


def main() -> None:
    """Write every table anew."""
    for page, text in pages().items():
        page.write_text(text)


if __name__ == "__main__":
    main()
