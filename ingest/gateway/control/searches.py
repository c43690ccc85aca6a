"""Searches of runs and experiments, answered here where the caller may see all that is asked for.

What is unusual, and all that is wrong, is passed on to MLflow's server, whose answer is the same or the only one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson

from runstream.ingest.control.processes.pool import SearchProcesses, SearchUnavailableError
from runstream.ingest.gateway.control.access import Control
from runstream.ingest.gateway.control.needs import (
    experiments_asked,
    experiments_of_runs_shown,
    names_models,
)
from runstream.ingest.gateway.control.onward import Onward
from runstream.ingest.gateway.http.handling import OK, Call, Outcome, Routes
from runstream.ingest.gateway.http.rights import Action
from runstream.schemas.mlflow.paths import APIS
from runstream.schemas.wire import STALE_HEADER

# A search is a few lines; what is larger is not plain.
_MAX_BODY_BYTES: Final = 256 << 10
_RUNS: Final = "runs/search"
_EXPERIMENTS: Final = "experiments/search"


class SearchRoutes:
    """Handlers, as ``http.handling`` has them. ``barrier`` waits until all that was appended is applied, within a
    bound, and says whether it is; ``workers`` is ``None`` where the database is not known here."""

    def __init__(
        self,
        control: Control,
        workers: SearchProcesses | None,
        onward: Onward,
        barrier: Callable[[list[str] | None], Awaitable[bool]],
    ) -> None:
        self._control = control
        self._workers = workers
        self._onward = onward
        self._barrier = barrier

    def add_to(self, routes: Routes, prefix: str) -> None:
        """Serve MLflow's paths below both of its APIs."""
        if self._workers is None:
            return
        for api in APIS:
            for method, path, handler in (
                ("POST", _RUNS, self._runs),
                ("POST", _EXPERIMENTS, self._experiments),
                ("GET", _EXPERIMENTS, self._experiments_of_query),
            ):
                routes.add(method, f"{prefix}{api}/{path}", _at(handler, f"{api}/{path}"), name="search")

    async def _runs(self, path: str, call: Call) -> Outcome:
        """``runs/search``: with what was appended before."""
        is_fresh = await self._barrier(None)
        epoch = self._control.rights.epoch()
        found = await self._found(_RUNS, call, call.body if _is_plain(call) else None)
        outcome = found or await self._onward.post(path, call)
        if found is None and outcome.status == 200 and self._control.judged(call.identity) is not None:
            # A run that is shown to the caller may be read by it, and so may its neighbours.
            for experiment_id in experiments_of_runs_shown(outcome.body):
                self._control.rights.learn(call.identity, Action.READ_RUN, experiment_id, epoch)
        if is_fresh:
            return outcome
        return Outcome(outcome.status, {**outcome.headers, STALE_HEADER: "true"}, outcome.body)

    async def _experiments(self, path: str, call: Call) -> Outcome:
        """``experiments/search``."""
        found = await self._found(_EXPERIMENTS, call, call.body if _is_plain(call) else None)
        return found or await self._onward.post(path, call)

    async def _experiments_of_query(self, path: str, call: Call) -> Outcome:
        """``experiments/search`` by GET, as MLflow's page asks."""
        found = await self._found(_EXPERIMENTS, call, None if call.body else _fields(call.query))
        return found or await self._onward.get(path, call)

    async def _found(self, route: str, call: Call, body: bytes | None) -> Outcome | None:
        if body is None or self._workers is None:
            return None
        is_judged = self._control.store(call.identity) is None
        if is_judged and not self._may_read_all(route, call, body):
            return None
        try:
            found = await self._workers.answer(route, body)
        except SearchUnavailableError:
            return None
        # MLflow leaves out the models that the caller may not see (``redact_search_runs_model_links``).
        if found is None or (is_judged and names_models(found)):
            return None
        return Outcome(200, OK.headers, found)

    def _may_read_all(self, route: str, call: Call, body: bytes) -> bool:
        """Whether MLflow would leave nothing out of the answer for this caller."""
        if route != _RUNS or self._control.judged(call.identity) is None:
            return False
        experiment_ids = experiments_asked(body)
        knows = self._control.rights.knows
        return bool(experiment_ids) and all(
            knows(call.identity, Action.READ_RUN, experiment_id) for experiment_id in experiment_ids
        )


def _at(handler: Callable[[str, Call], Awaitable[Outcome]], path: str) -> Callable[[Call], Any]:
    async def handle(call: Call) -> Outcome:
        return await handler(path, call)

    return handle


def _is_plain(call: Call) -> bool:
    content_type = call.headers.get("content-type", "")
    return content_type.split(";", 1)[0] == "application/json" and len(call.body) <= _MAX_BODY_BYTES


def _fields(query: str) -> bytes | None:
    """The fields of a query as the body of a POST; ``None`` if they are not written plainly."""
    fields: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
        for name, value in pairs:
            if name == "order_by":
                fields.setdefault(name, []).append(value)
            elif name in fields:
                return None
            elif name == "max_results":
                if not (value.isascii() and value.isdigit() and len(value) <= 5):
                    return None
                fields[name] = int(value)
            else:
                fields[name] = value
        return orjson.dumps(fields)
    except ValueError:
        return None
