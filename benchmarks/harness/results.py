"""What a suite found, in one form and place: ``results/<machine>/<date>.json``, which is committed when it is worth it.

A file is ``{"machine": …, "results": {name: {"source": …, figures}}}``: a day of one machine. Each suite puts its
figures under its own name, beside those of the others; a second run of that day replaces the first.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.measure import machine_facts

RESULTS = Path(__file__).resolve().parents[1] / "results"


def add_option(parser: argparse.ArgumentParser) -> None:
    """``--out``: the folder of all results."""
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of <machine>/<date>.json")


def machine_name(facts: Mapping[str, Any]) -> str:
    """The folder of a machine: processor, cores, memory."""
    memory_gib = round(int(facts["memory_bytes"]) / 2**30)
    return _slug(f"{facts['cpu']} {facts['cores']} cores {memory_gib} gib")


def keep(name: str, figures: Mapping[str, Any], folder: Path, *, suite: str | None = None) -> Path:
    """Put figures into today's file of this machine, and return the file. ``figures`` are JSON; ``name`` is the suite's
    unless ``suite`` says which it was."""
    facts = machine_facts()
    today = datetime.datetime.now(datetime.UTC).date()
    file = folder / machine_name(facts) / f"{today}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(file.read_text()) if file.exists() else {"machine": facts, "results": {}}
    options = re.sub(r" --out[ =]\S+", "", " ".join(["", *sys.argv[1:]]))
    source = f"python -m benchmarks {suite or name}{options}"
    kept["results"][name] = {"source": source, "load_average": os.getloadavg()[0], **figures}
    file.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"kept in {file}", flush=True)
    return file


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
