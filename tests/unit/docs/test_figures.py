"""The figures of README and docs are those of the committed results."""

from __future__ import annotations

import json

from benchmarks.harness import figures


def test_the_table_says_what_the_results_say() -> None:
    made = figures.pages()
    assert len(made) >= 5
    for page, text in made.items():
        assert text == page.read_text(), f"{page.name}: run: python -m benchmarks figures"


def test_every_result_names_its_machine_and_source() -> None:
    files = sorted(figures.RESULTS.glob("*/*.json"))
    assert files
    for file in files:
        kept = json.loads(file.read_text())
        assert {"cpu", "cores"} <= set(kept["machine"]), file
        assert all(result["source"] for result in kept["results"].values()), file
