"""MLflow's rules for names and ids (``mlflow.utils.validation``, 3.17 and 3.18), without its imports."""

from __future__ import annotations

import json
import posixpath
import re
import string
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, version

from runstream.schemas.errors import MlflowError
from runstream.schemas.mlflow.limits import MAX_KEY_LENGTH


def _end() -> str:
    """The end of a name. Before 3.18 MLflow let names and ids end with a newline: `$` matches before one too."""
    try:
        major, minor = version("mlflow").split(".")[:2]
        return "$" if (int(major), int(minor)) < (3, 18) else r"\Z"
    except (PackageNotFoundError, ValueError):
        return r"\Z"


# As MLflow writes them: `\w` takes letters of every script.
_END = _end()
_NAME = re.compile(r"^[/\w.\- :]*" + _END)
_RUN_ID = re.compile(r"^[a-zA-Z0-9][\w\-]{0,255}" + _END)

_PLAIN_BYTES = (string.ascii_letters + string.digits + "_/.- :").encode()
# Empty names, and paths that might be normalized to others: leading, doubled and trailing slashes, dots first.
_NOT_PLAIN = (b"\n\n", b"\n/", b"\n.", b"//", b"/.", b"/\n")

_FEW = 200

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
    starts over when there would be more: names in use are back after one request each. Plain names (ASCII, no path
    component that begins with a dot) are checked together in compiled code, at about 0.2 µs each, so that a
    million different ones do not cost much either.
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
        plain = _all_plain(new)
        if not plain and not all(map(_is_valid, new)):
            return False
        # Very many plain names in one request will hardly come again, and are cheap to check if they do.
        if not plain or len(new) <= _FEW:
            if len(known) + len(new) > self._limit:
                known.clear()
            if len(new) <= self._limit:
                known |= new
        return True


def _is_valid(name: str) -> bool:
    if not name or len(name) > MAX_KEY_LENGTH:
        return False
    try:
        check_name(name, "")
    except MlflowError:
        return False
    return True


def _all_plain(names: Collection[str]) -> bool:
    """Whether all of these pass every check above, decided without looking at each; False says nothing."""
    if not names or max(map(len, names)) > MAX_KEY_LENGTH:
        return not names
    # A newline on either side too, so that every name begins after one and ends before one.
    text = "\n".join(("", *names, "")).encode()
    return (
        text.isascii()
        and text.translate(None, _PLAIN_BYTES) == b"\n" * (len(names) + 1)
        and not any(odd in text for odd in _NOT_PLAIN)
    )
