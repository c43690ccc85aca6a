"""Quoting, for the few places where ClickHouse binds no parameter: names, settings, file paths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def literal(value: Any) -> str:
    """A ClickHouse string literal."""
    text = str(int(value) if isinstance(value, bool) else value)
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def identifiers(names: Iterable[str]) -> str:
    """Quoted identifiers, separated by commas."""
    return ", ".join("`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`" for name in names)


def settings_clause(settings: Mapping[str, Any] | None) -> str:
    """`` SETTINGS a = '1'``, or nothing; ClickHouse converts the literals."""
    if not settings:
        return ""
    for name in settings:
        if not _SETTING.fullmatch(name):
            raise ValueError(f"not a setting's name: {name!r}")
    return "\nSETTINGS " + ", ".join(f"{name} = {literal(value)}" for name, value in settings.items())
