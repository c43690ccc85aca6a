"""MLflow's rules for names and ids (``mlflow.utils.validation``, 3.17), without its imports."""

from __future__ import annotations

import json
import posixpath
import re

from schemas.errors import MlflowError
from schemas.limits import MAX_KEY_LENGTH

# As MLflow writes them: `\w` takes letters of every script, and `$` matches before a closing newline too.
_NAME = re.compile(r"^[/\w.\- :]*$")
_RUN_ID = re.compile(r"^[a-zA-Z0-9][\w\-]{0,255}$")

_BAD_CHARACTERS = (
    "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and"
    " slashes (/)."
)


def invalid_value(path: str, value: object, reason: str | None = None) -> MlflowError:
    """MLflow's complaint about a value."""
    shown = json.dumps(value, sort_keys=True, separators=(",", ":"))
    message = f"Invalid value {shown} for parameter '{path}' supplied"
    return MlflowError(f"{message}: {reason}" if reason is not None else f"{message}.")


def is_run_id(run_id: str) -> bool:
    """Whether this can be a run's id at all."""
    return _RUN_ID.match(run_id) is not None


def check_name(name: str, path: str) -> None:
    """Raise MLflow's error unless this can be the name of a metric, param or tag (its length aside)."""
    if _NAME.match(name) is None:
        raise invalid_value(path, name, _BAD_CHARACTERS)
    normal = posixpath.normpath(name)
    if normal != name or normal == "." or normal.startswith(("..", "/")):
        raise invalid_value(
            path,
            name,
            "Names may be treated as files in certain cases, and must not resolve to other names when treated"
            f" as such. This name would resolve to {normal!r}",
        )


def check_length(what: str, name: str) -> None:
    """Raise MLflow's error if a name is too long."""
    if len(name) > MAX_KEY_LENGTH:
        raise MlflowError(f"'{what}' exceeds the maximum length of {MAX_KEY_LENGTH} characters")


class KnownNames:
    """Remembers names that passed, so that a name costs its checks once.

    Holds at most ``limit`` names of at most 250 characters (20 MB at the very worst, 3 MB as a rule), and
    starts over when there would be more: names in use are back after one request each.
    """

    def __init__(self, limit: int = 20_000) -> None:
        self._limit = limit
        self._names: set[str] = set()

    def __len__(self) -> int:
        return len(self._names)

    def all_valid(self, names: list[str]) -> bool:
        """Whether every one of these is a valid, nonempty name of at most 250 characters."""
        known = self._names
        if known.issuperset(names):
            return True
        new = set(names) - known
        for name in new:
            if not name or len(name) > MAX_KEY_LENGTH:
                return False
            try:
                check_name(name, "")
            except MlflowError:
                return False
        if len(known) + len(new) > self._limit:
            known.clear()
        if len(new) <= self._limit:
            known |= new
        return True
