"""The table, the JSON and the plots of one benchmark."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness import plots, targets

Result = dict[str, Any]
_SLOW_MODE = 1.15


def write(outcome: dict[str, Any], folder: Path, docs: Path | None) -> None:
    """Print the table and keep everything below ``folder`` (and ``docs``, if given)."""
    folder.mkdir(parents=True, exist_ok=True)
    outcome["speed"] = _speed(outcome["calibrations"], folder / "fastest.json")
    outcome["table"] = combine(outcome["results"])
    outcome["targets"] = [asdict(target) for target in targets.judge(outcome["table"], outcome["sessions"])]
    text = render(outcome)
    stamp = outcome["began_at"].replace(":", "")
    (folder / f"{outcome['profile']}-{stamp}.json").write_text(json.dumps(outcome, indent=1))
    (folder / "latest.json").write_text(json.dumps(outcome, indent=1))
    (folder / "latest.md").write_text(text)
    plots.draw(outcome, folder)
    if docs is not None:
        plots.draw(outcome, docs / "benchmarks")
        (docs / "benchmarks" / "table.md").write_text(text)
    print("\n" + text)
    print(f"kept in {folder}")


def _speed(calibrations: Sequence[dict[str, float]], record: Path) -> dict[str, Any]:
    """How fast the machine was, beside the fastest it was seen here: virtual machines change their pace."""
    python_ms = [c["python_ms"] for c in calibrations]
    memory_ms = [c["memory_ms"] for c in calibrations]
    fastest = min(python_ms)
    if record.exists():
        fastest = min(fastest, json.loads(record.read_text())["python_ms"])
    record.write_text(json.dumps({"python_ms": fastest}))
    middle = statistics.median(python_ms)
    return {
        "mode": "slow" if middle > _SLOW_MODE * fastest else "fast",
        "python_ms": {"fastest_seen": fastest, "median": middle, "slowest": max(python_ms)},
        "memory_ms": {"median": statistics.median(memory_ms), "slowest": max(memory_ms)},
    }


def combine(results: Sequence[Result]) -> list[Result]:
    """One entry per row and server: the median of its turns, of the undisturbed ones if there are any."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result["row"], result["server"]), []).append(result)
    table = []
    for (row, server), turns in groups.items():
        good = [turn for turn in turns if "error" not in turn]
        calm = [turn for turn in good if not turn.get("disturbed")]
        used = calm or good
        entry: Result = {"row": row, "server": server, "title": turns[0]["title"], "turns": len(turns)}
        if not used:
            entry["error"] = turns[0]["error"]
        else:
            entry["valid"] = bool(calm)
            entry |= _median(used)
        table.append(entry)
    return table


def _median(turns: Sequence[Any]) -> Any:
    """Numbers become their median, dictionaries are taken apart, everything else is the first turn's."""
    first = turns[0]
    if isinstance(first, dict):
        return {key: _median([turn[key] for turn in turns if key in turn]) for key in first}
    numbers = [turn for turn in turns if isinstance(turn, int | float) and not isinstance(turn, bool)]
    return statistics.median(numbers) if len(numbers) == len(turns) else first


def render(outcome: dict[str, Any]) -> str:
    """Everything as Markdown."""
    machine, speed = outcome["machine"], outcome["speed"]
    parts = [
        f"Profile {outcome['profile']}, {outcome['began_at']}, {outcome['wall_s']:.0f} s. {machine['cpu']},"
        f" {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB, Linux {machine['kernel']},"
        f" Python {machine['python']}.",
        f"Speed mode {speed['mode']}: a fixed Python loop took {speed['python_ms']['median']:.1f} ms of CPU"
        f" (fastest seen here {speed['python_ms']['fastest_seen']:.1f}, slowest in this run"
        f" {speed['python_ms']['slowest']:.1f}), copying memory {speed['memory_ms']['median']:.1f} ms.",
        "points/s: acknowledged (the first 95% of the answers); readable/s: the same over the time until all"
        " points could be read. `*`: other work took the processors during the run, so the figures are not valid.",
    ]
    titles = {name: server["title"] for name, server in outcome["servers"].items()}
    for row in dict.fromkeys(entry["row"] for entry in outcome["table"]):
        entries = [entry for entry in outcome["table"] if entry["row"] == row]
        parts.append(f"### {entries[0]['title']}\n\n{_row_table(row, entries, titles, outcome['limits'])}")
    parts.append("### Targets\n\n" + _targets(outcome))
    parts.append("### What was kept\n\n" + _kept(outcome, titles))
    parts += [f"Left out: {line}" for line in outcome["left_out"]]
    parts += [f"Failed: {line}" for line in outcome["errors"]]
    return "\n\n".join(parts) + "\n"


def _row_table(
    row: str, entries: Sequence[Result], titles: dict[str, str], limits: Sequence[dict[str, Any]]
) -> str:
    shown: list[list[str]] = []
    if "reads" in row:
        kinds = ("history", "bulk", "get_run", "search_runs")
        head = ["server", *(f"{kind} p50 / p99 ms" for kind in kinds)]
        if row == "reads-at-load":
            head.append("points/s meanwhile")
        for entry in entries:
            reads = entry.get("reads", {})
            cells = [
                f"{reads[k]['p50_ms']:.1f} / {reads[k]['p99_ms']:.1f}" if k in reads else "-" for k in kinds
            ]
            if row == "reads-at-load":
                cells.append(_number(entry.get("points_per_s")))
            shown.append([_name(entry, titles), *cells])
    elif row == "retry":
        head = ["server", "run of", "ms", "run of", "ms"]
        for entry in entries:
            cells = []
            for when in ("at_10k", "at_many"):
                facts = entry.get(when, {})
                cells += [_number(facts.get("points")), _number(facts.get("repeat_ms"), 1)]
            shown.append([_name(entry, titles), *cells])
    else:
        head = [
            "server",
            "points/s",
            "readable/s",
            "requests/s",
            "p50 ms",
            "p99 ms",
            "drain s",
            "CPU s / 1M",
            "peak MB",
        ]
        head += ["refused", "failed"]
        offered = row in ("half", "overload")
        if offered:
            head.insert(1, "offered/s")
        for entry in entries:
            shown.append(
                [
                    _name(entry, titles),
                    *([_number(entry.get("offered_requests_per_s"), 1)] if offered else []),
                    _number(entry.get("points_per_s")),
                    _number(entry.get("readable_points_per_s")),
                    _number(entry.get("requests_per_s"), 1),
                    _number(entry.get("p50_ms"), 1),
                    _number(entry.get("p99_ms"), 1),
                    _number(entry.get("drain_s"), 1),
                    _number(entry.get("cpu_s_per_million"), 2),
                    _number(entry.get("peak_total_bytes", 0) / 1e6),
                    _number(entry.get("refused")),
                    _number(entry.get("failed", 0) + entry.get("lost", 0)) if "failed" in entry else "-",
                ]
            )
        if row == "batch-1000" and limits:
            rate = statistics.median(facts["points"] / facts["seconds"] for facts in limits)
            cpu = statistics.median(facts["cpu_s"] / facts["points"] * 1e6 for facts in limits)
            peak = statistics.median(facts["peak_bytes"] for facts in limits) / 1e6
            name = "the limit: decode, sync, insert, nothing else"
            shown.append(
                [
                    name,
                    _number(rate),
                    _number(rate),
                    "-",
                    "-",
                    "-",
                    "-",
                    _number(cpu, 2),
                    _number(peak),
                    "-",
                    "-",
                ]
            )
    notes = [
        f"\n\n{titles[entry['server']]}: {entry.get('error') or _first_line(entry['first_error'])}"
        for entry in entries
        if entry.get("error") or entry.get("first_error")
    ]
    return _markdown(head, shown) + "".join(notes)


def _first_line(error: str) -> str:
    """What a failed answer said, without its headers."""
    return "first failed answer: " + error.rpartition("\r\n\r\n")[2].strip().replace("\n", " ")[:300]


def _targets(outcome: dict[str, Any]) -> str:
    said = {True: "yes", False: "NO", None: "-"}
    shown = [[t["load"], t["target"], t["measured"], said[t["met"]]] for t in outcome["targets"]]
    return _markdown(["load", "target", "measured", "met"], shown)


def _kept(outcome: dict[str, Any], titles: dict[str, str]) -> str:
    head = [
        "server",
        "session",
        "acknowledged points",
        "stored",
        "read back",
        "nothing lost",
        "bytes/point",
        "a 200 means",
    ]
    shown = []
    for session in outcome["sessions"]:
        verdict = session["verdict"]
        shown.append(
            [
                titles[session["server"]],
                session["session"],
                _number(verdict["acknowledged_points"]),
                _number(verdict["stored_points"]),
                _number(verdict["checked_points"]),
                "yes" if verdict["nothing_lost"] else "NO",
                _number(session.get("bytes_per_point"), 2),
                outcome["servers"][session["server"]]["durable"],
            ]
        )
    return _markdown(head, shown)


def _name(entry: Result, titles: dict[str, str]) -> str:
    return titles[entry["server"]] + ("" if entry.get("valid", True) else " *")


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([line(head), line(rule), *map(line, rows)])
