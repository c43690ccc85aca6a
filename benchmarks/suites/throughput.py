"""``python -m benchmarks``: build the bodies, run every session on every contender, keep the results."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.harness import report, results, rows, workloads
from benchmarks.harness.measure import calibrate, machine_facts
from benchmarks.harness.runner import SessionRun, body_name
from benchmarks.systems.contenders import CONTENDERS

_ROOT = Path(__file__).resolve().parents[2]


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_const", const="quick", dest="profile", help="at most 3 minutes"
    )
    parser.add_argument(
        "--smoke", action="store_const", const="smoke", dest="profile", help="seconds; no figures"
    )
    parser.add_argument("--servers", help=f"comma-separated, of {', '.join(CONTENDERS)}")
    parser.add_argument("--sessions", help="comma-separated, of core, pressure, special")
    parser.add_argument(
        "--rows", help="comma-separated names of rows; the others are left out. Only by name: memory"
    )
    parser.add_argument("--seconds", type=float, help="how long each load lasts, instead of the profile's")
    results.add_option(parser)
    parser.add_argument("--work-dir", type=Path, help="folder for the servers' data; temporary if not given")
    parser.add_argument(
        "--docs", action="store_true", help="also write the plots and the table to docs/internals/benchmarks/"
    )
    parser.set_defaults(profile="full")
    return parser.parse_args(argv)


def _chosen(arguments: argparse.Namespace) -> tuple[rows.Profile, list[str]]:
    usual = rows.QUICK if arguments.profile == "quick" else tuple(CONTENDERS)
    names = arguments.servers.split(",") if arguments.servers else list(usual)
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown:
        sys.exit(f"benchmarks: unknown server {', '.join(unknown)}; known are {', '.join(CONTENDERS)}")
    left_out = [f"{name}: needs {why}" for name in names if (why := CONTENDERS[name].missing())]
    present = tuple(name for name in names if not any(line.startswith(f"{name}:") for line in left_out))
    profile = rows.profile(arguments.profile, present)
    sessions = [
        s for s in profile.sessions if not arguments.sessions or s.name in arguments.sessions.split(",")
    ]
    if arguments.rows:
        wanted = arguments.rows.split(",")
        if "memory" in wanted:
            # Ten minutes of full load do not fit into a whole benchmark.
            sessions.append(rows.memory(arguments.seconds or 600, ("runstream",)))
        sessions = [replace(s, rows=tuple(r for r in s.rows if r.name in wanted)) for s in sessions]
    if arguments.seconds:
        sessions = [
            replace(s, rows=tuple(replace(r, seconds=arguments.seconds) for r in s.rows)) for s in sessions
        ]
    return replace(profile, sessions=tuple(s for s in sessions if s.rows)), left_out


def _build(session: rows.Session, folder: Path) -> dict[str, workloads.Requests]:
    shapes = {body_name(session, row): row.shape for row in session.rows if row.kind != "reads"}
    # The interpreters are started anew, as everywhere here: a fork would share open files and threads.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        building = {
            # A row's values are its own: what comes again would compress too well.
            name: pool.submit(workloads.build, shape, folder / name, rows.SEED + zlib.crc32(name.encode()))
            for name, shape in shapes.items()
        }
        return {name: done.result() for name, done in building.items()}


def _limit(bodies: workloads.Requests, folder: Path, seconds: float) -> dict[str, Any]:
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.harness.limit", str(bodies.bodies), str(bodies.index_file)]
    done = subprocess.run(
        [*command, str(folder), str(seconds)], cwd=_ROOT, stdout=subprocess.PIPE, check=True, timeout=600
    )
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    shutil.rmtree(folder)
    return facts


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The whole benchmark below ``folder``; returns what the report needs."""
    began = time.monotonic()
    profile, left_out = _chosen(arguments)
    for line in left_out:
        print(f"left out: {line}", flush=True)
    outcome: dict[str, Any] = {
        "profile": profile.name,
        "began_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine_facts(),
        "servers": {name: {"title": s.title, "durable": s.durable} for name, s in CONTENDERS.items()},
        "left_out": left_out,
        "calibrations": [],
        "limits": [],
        "results": [],
        "sessions": [],
        "errors": [],
    }
    for turn, session in enumerate(profile.sessions):
        building = time.monotonic()
        bodies = _build(session, folder / "bodies")
        print(f"{session.name}: bodies built in {time.monotonic() - building:.0f} s", flush=True)
        first = bodies.get(body_name(session, session.rows[0]))
        outcome["calibrations"].append(asdict(calibrate()))
        if first is not None and session.rows[0].shape.points == 1000:
            try:
                outcome["limits"].append(_limit(first, folder / f"limit-{turn}", profile.limit_seconds))
            except (subprocess.SubprocessError, ValueError, LookupError) as error:
                outcome["errors"].append(f"the limit: {error}")
        for name in session.contenders:
            if time.monotonic() - began > profile.budget_s and not arguments.servers:
                left_out.append(f"{name}, session {session.name}, turn {turn + 1}: no time left")
                continue
            home = folder / f"{turn}-{name}"
            deadline = math.inf if arguments.servers else began + profile.budget_s
            session_run = SessionRun(
                CONTENDERS[name](home), session, profile, bodies, folder / "loads", deadline
            )
            try:
                session_run.run(lambda line: print(line, flush=True))
            except Exception as error:  # one contender's failure must not hide the others' results
                outcome["errors"].append(f"{name}, {session.name}: {type(error).__name__}: {error}")
                print(f"  {outcome['errors'][-1]}", flush=True)
            outcome["results"] += [result | {"turn": turn} for result in session_run.results]
            outcome["calibrations"] += [result["calibration"] for result in session_run.results]
            if session_run.summary:
                outcome["sessions"].append(session_run.summary | {"turn": turn})
            shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(folder / "bodies")
    outcome["wall_s"] = round(time.monotonic() - began, 1)
    return outcome


def main(argv: list[str] | None = None) -> int:
    """0 if every contender kept what it acknowledged; 1 if something was lost or did not run."""
    arguments = _arguments(argv)
    work = arguments.work_dir or Path(tempfile.mkdtemp(prefix="runstream-bench-"))
    work.mkdir(parents=True, exist_ok=True)
    work.chmod(0o755)  # PostgreSQL runs as a user of its own below it
    try:
        outcome = run(arguments, work)
    finally:
        if arguments.work_dir is None:
            shutil.rmtree(work, ignore_errors=True)
    results.keep(
        "throughput", {name: outcome[name] for name in ("profile", "results", "calibrations")}, arguments.out
    )
    report.write(outcome, arguments.out, docs=_ROOT / "docs" / "internals" if arguments.docs else None)
    failed = outcome["errors"] or any(not s["verdict"]["nothing_lost"] for s in outcome["sessions"])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
