"""What a caller must be allowed to see for a route of Runstream's own: each route names it.

The table is the only way in where callers are told apart: a route that names nothing here shows everything that is
stored, as far as anybody knows, and is off there.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

import msgspec
from aiohttp import web

from runstream.schemas.errors import MlflowError
from runstream.schemas.mlflow.names import is_run_id
from runstream.schemas.wire import API

PAGE = "/runstream"


class Need(enum.Enum):
    """What a route shows something of."""

    NOTHING = "nothing of anybody's"
    RUN_IN_PATH = "the run that the path names"
    RUNS_IN_QUERY = "the runs that the query string names"
    RUNS_IN_BODY = "the runs that the body names"
    EVERYTHING = "any run"


@dataclass(frozen=True, slots=True)
class OwnRoute:
    """A route of Runstream's own, with its need; ``path`` is a pattern of whole paths."""

    method: str
    path: re.Pattern[str]
    need: Need


def _route(method: str, path: str, need: Need) -> OwnRoute:
    return OwnRoute(method, re.compile(path), need)


OWN_ROUTES = (
    *(_route("POST", f"{API}/metrics/{name}", Need.RUNS_IN_BODY) for name in ("query", "latest")),
    *(_route("POST", f"{API}/metrics/{name}", Need.RUNS_IN_BODY) for name in ("summary", "aggregate")),
    _route("POST", f"{API}/live", Need.RUNS_IN_BODY),
    _route("GET", f"{API}/live", Need.RUNS_IN_QUERY),
    _route("GET", f"{API}/runs/(?P<run_id>[^/]+)/metrics/live", Need.RUN_IN_PATH),
    _route("POST", f"{API}/sql", Need.EVERYTHING),
    *(_route(method, f"{API}/openapi.json", Need.NOTHING) for method in ("GET", "HEAD")),
    # The page's own files; what it shows it asks for at the other routes, and at MLflow's.
    *(_route(method, rf"{PAGE}(/|/[\w-]+(/[\w-][\w.-]*)+)?", Need.NOTHING) for method in ("GET", "HEAD")),
)


def find(method: str, path: str) -> tuple[Need, str | None]:
    """The need of a request, and the run that its path names if there is one. ``path`` is as it was sent, escapes and
    all: a second spelling of a route has no need in the table."""
    for route in OWN_ROUTES:
        found = route.path.fullmatch(path) if route.method == method else None
        if found is not None:
            return route.need, found.groupdict().get("run_id")
    return Need.EVERYTHING, None


class _Runs(msgspec.Struct):
    """The field that names runs, in every body that does. The query service decodes with the same library: what is
    read here (of a field given twice, say) is what it reads there."""

    runs: list[str]


_decoder = msgspec.json.Decoder(_Runs)


async def named_runs(request: web.Request, need: Need, run_id: str | None) -> list[str]:
    """The runs that a request names, as the query service will read them. Raises ``MlflowError`` for what it would
    not take."""
    if need is Need.RUNS_IN_BODY:
        try:
            runs = _decoder.decode(await request.read()).runs
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MlflowError(f"Bad request: {error}") from error
    else:
        runs = [run_id] if run_id is not None else request.query.getall("run_id", [])
    if not runs:
        raise MlflowError("Bad request: it names no runs")
    if not all(map(is_run_id, runs)):
        raise MlflowError("Bad request: it names what cannot be a run")
    return runs
