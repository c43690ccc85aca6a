"""The settings' table of docs/guides/operations.md is their own; ``RUNSTREAM_WRITE_DOCS=1`` writes it anew."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from runstream.settings import GatewaySettings, StorageSettings, TrackingSettings
from support.deploy import ROOT

PAGE = ROOT / "docs" / "guides" / "operations.md"
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->"
ROLES: dict[str, type[BaseSettings]] = {
    "gateway": GatewaySettings,
    "storage": StorageSettings,
    "tracking": TrackingSettings,
}
# ``fd`` is the supervisor's; each role has a port of its own, which the page names.
INTERNAL = {"fd", "inner_fd", "port"}


def table() -> str:
    rows: dict[str, dict[str, Any]] = {}
    for role, settings in ROLES.items():
        for name, info in settings.model_fields.items():
            if name not in INTERNAL:
                row = rows.setdefault(name, {"roles": [], "defaults": {}, "text": ""})
                row["roles"].append(role)
                row["defaults"].setdefault(_shown(info.default), []).append(role)
                row["text"] = row["text"] or info.description or ""
    lines = ["| variable | default | read by | meaning |", "|---|---|---|---|"]
    for name, row in rows.items():
        defaults = row["defaults"]
        default = (
            next(iter(defaults))
            if len(defaults) == 1
            else ", ".join(f"{value} ({', '.join(roles)})" for value, roles in defaults.items())
        )
        roles = "all" if len(row["roles"]) == len(ROLES) else ", ".join(row["roles"])
        text = row["text"].replace("|", "\\|")
        lines.append(f"| `RUNSTREAM_{name.upper()}` | {default} | {roles} | {text} |")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value == "":
        return ""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1 << 20 and value % (1 << 20) == 0:
        return f"`{value}` ({value >> 20} MiB)"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_the_table_is_the_settings_own() -> None:
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    expected = before + BEGIN + table() + END + after
    if os.environ.get("RUNSTREAM_WRITE_DOCS"):
        PAGE.write_text(expected)
    assert page == expected, "run this test with RUNSTREAM_WRITE_DOCS=1"


def test_pages_name_only_settings_that_exist() -> None:
    known = {f"RUNSTREAM_{name.upper()}" for role in ROLES.values() for name in role.model_fields}
    known |= {"RUNSTREAM_WRITE_DOCS"}
    # The client's are read from the environment without pydantic, which a light installation lacks.
    for source in (ROOT / "ingest" / "client").rglob("*.py"):
        known |= _variables(source)
    for page in sorted((ROOT / "docs").rglob("*.md")):
        assert not _variables(page) - known, page.name


def _variables(path: Path) -> set[str]:
    """Settings that a page names; those of the tests are no settings of the product."""
    return set(re.findall(r"\bRUNSTREAM_(?!TEST_)[A-Z0-9_]*[A-Z0-9]\b(?!_)", path.read_text()))
