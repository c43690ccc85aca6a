"""Every relative link of the documentation leads to a file, and to a heading of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    page
    for folder in (".", "docs", "docs/guides", "docs/internals", "docs/reference", "deploy", "examples")
    for page in (ROOT / folder).glob("*.md")
)
# Made of the sources when the site is built.
GENERATED = {ROOT / f"docs/reference/{name}.md" for name in ("rest", "settings", "metrics")}
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists() or file in GENERATED, f"{target} is not there"
        if heading and file.suffix == ".md":
            assert heading in anchors(file), f"{target}: no such heading"
