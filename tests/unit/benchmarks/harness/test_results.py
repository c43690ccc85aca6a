"""Results of every suite have one form and one place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.__main__ import suites
from benchmarks.harness import results

ROOT = Path(__file__).parents[4]
# What is no measurement: the README's table, and a model.
NO_RESULTS = {"figures", "capacity"}


def test_suites_of_a_day_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--runs", "3", "--out", "here"])
    results.keep("one", {"ms": 1.5}, tmp_path)
    results.keep("other", {"ms": 2}, tmp_path)
    file = results.keep("one", {"ms": 3}, tmp_path)
    kept = json.loads(file.read_text())
    assert file.parent.parent == tmp_path
    assert {name: result["ms"] for name, result in kept["results"].items()} == {"one": 3, "other": 2}
    assert kept["results"]["one"]["source"] == "python -m benchmarks one --runs 3"
    assert {"cpu", "cores"} <= set(kept["machine"])


def test_a_machine_has_a_readable_name() -> None:
    facts = {"cpu": "AMD EPYC (virtual)", "cores": 2, "memory_bytes": 24 << 30}
    assert results.machine_name(facts) == "amd-epyc-virtual-2-cores-24-gib"


@pytest.mark.parametrize("name", sorted(set(suites()) - NO_RESULTS))
def test_every_suite_keeps_its_results_so(name: str) -> None:
    source = (ROOT / f"{suites()[name].replace('.', '/')}.py").read_text()
    assert re.search(rf'results\.keep\(\s*"{name}"|results\.keep\([^)]*suite="{name}"', source)
    assert "results.add_option(" in source
