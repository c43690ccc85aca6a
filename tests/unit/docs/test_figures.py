"""The README's figures are those of the committed results."""

from __future__ import annotations

import json

from benchmarks.harness import figures


def test_the_table_says_what_the_results_say() -> None:
    readme = (figures.ROOT / "README.md").read_text()
    assert figures.filled(readme) == readme, "run: python -m benchmarks figures"


def test_every_result_names_its_machine_and_source() -> None:
    files = sorted(figures.RESULTS.glob("*/*.json"))
    assert files
    for file in files:
        kept = json.loads(file.read_text())
        assert {"cpu", "cores"} <= set(kept["machine"]), file
        assert all(result["source"] for result in kept["results"].values()), file
