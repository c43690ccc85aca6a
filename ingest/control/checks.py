"""Which requests the control plane decides itself.

Whatever MLflow would refuse for what it says (and not for what is in the database), and whatever a database could
refuse (too long for a column, a NUL), is passed on: MLflow finds the words for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from runstream.ingest.control.errors import PassOnError
from runstream.ingest.control.requests import Pair
from runstream.schemas.mlflow.names import KnownNames, is_run_id

# mlflow.utils.validation, and the widths of columns in mlflow.store.tracking.dbmodels.models.
MAX_PARAM_VALUE = 6000
MAX_TAG_VALUE = 8000
MAX_TAG_KEY = 250
MAX_RUN_NAME = 250
MAX_USER_ID = 256
MAX_ARTIFACT_URI = 200
MAX_EXPERIMENT_NAME = 256
MAX_EXPERIMENT_TAG_VALUE = 20_000
_ID = re.compile(r"(?:0|[1-9][0-9]{0,8})\Z")


class Checks:
    """Remembers the names that passed; one per store."""

    def __init__(self) -> None:
        self._names = KnownNames()

    def name(self, name: str) -> None:
        """A param's or a tag's name that MLflow takes."""
        if not self._names.all_valid([name]):
            raise PassOnError

    def params(self, params: Sequence[Pair]) -> None:
        """Params of one request: names, lengths, each once."""
        names = [param.key for param in params]
        if (
            not self._names.all_valid(names)
            or len(set(names)) != len(names)
            or any(len(param.value) > MAX_PARAM_VALUE for param in params)
        ):
            raise PassOnError

    def tags(self, tags: Sequence[Pair]) -> None:
        """Tags of one request: names and lengths."""
        if not self._names.all_valid([tag.key for tag in tags]) or any(
            len(tag.value) > MAX_TAG_VALUE for tag in tags
        ):
            raise PassOnError


def run_id(given: str) -> str:
    """An id that a run may have."""
    if not is_run_id(given) or len(given) > 32 or not given.isascii() or given.endswith("\n"):
        raise PassOnError
    return given


def experiment_id(given: str) -> int:
    """An experiment's id in the one spelling that MLflow itself uses."""
    if _ID.match(given) is None:
        raise PassOnError
    return int(given)


def each_once(tags: Sequence[Pair]) -> None:
    """No key twice: MLflow fails on such in a table's unique key."""
    if len({tag.key for tag in tags}) != len(tags):
        raise PassOnError
