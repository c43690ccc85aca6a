"""``POST /api/1.0/runstream/runs``: a table of runs, column by column.

As in ``runs/search``, ``filter`` and ``order_by`` are MLflow's grammar; beside it there are numbers about series
(``metrics.loss.min < 0.1``): see ``ingest.control.table.grammar``. ``columns`` are names or globs. It shows what was
appended before. Where callers are told apart, MLflow is asked whether this one may see each experiment that is named.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from runstream.ingest.control.plane import ControlPlane
from runstream.ingest.control.processes import program
from runstream.ingest.control.processes.pool import SearchProcesses, SearchUnavailableError
from runstream.ingest.control.table.requests import decode
from runstream.ingest.gateway.http.caller import WORKSPACE_HEADER, Caller
from runstream.ingest.gateway.http.handling import OK, Call, Outcome, Routes
from runstream.ingest.gateway.http.server_mode import ModeWatch, ServerMode
from runstream.ingest.gateway.http.upstream import UpstreamUnavailableError
from runstream.schemas.errors import MlflowError
from runstream.schemas.wire import API, ARROW, STALE_HEADER

_PATH: Final = f"{API}/runs"
_NOT_HERE: Final = "Tables of runs need MLflow's database, with a schema that this version of Runstream knows"


class TableRoutes:
    """The handler, as ``http.handling`` has them. ``workers`` is ``None`` where the database is not known here;
    ``may_see`` raises if a caller may not see one of some experiments."""

    def __init__(
        self,
        plane: ControlPlane | None,
        workers: SearchProcesses | None,
        server: ModeWatch,
        may_see: Callable[[Caller, Iterable[str]], Awaitable[None]],
        barrier: Callable[[list[str] | None], Awaitable[bool]],
    ) -> None:
        self._plane = plane
        self._workers = workers
        self._server = server
        self._may_see = may_see
        self._barrier = barrier

    def add_to(self, routes: Routes, prefix: str) -> None:
        """Serve the route."""
        for base in {"", prefix}:
            routes.add("POST", f"{base}{_PATH}", self.table, name="table", own_page=True)

    async def table(self, call: Call) -> Outcome:
        """One page of a table."""
        if self._workers is None or self._plane is None or self._plane.store is None:
            raise MlflowError(_NOT_HERE, "ENDPOINT_NOT_FOUND")
        if call.headers.get("content-type", "").split(";", 1)[0] != "application/json":
            raise MlflowError("Bad request: it is not application/json")
        await self._judge(call)
        is_fresh = await self._barrier(None)
        accepts_arrow = ARROW in call.headers.get("accept", "")
        try:
            found = await self._workers.answer(
                program.TABLE_ARROW if accepts_arrow else program.TABLE_JSON, call.body
            )
        except SearchUnavailableError as error:
            raise UpstreamUnavailableError(str(error)) from error
        assert found is not None
        headers = {**OK.headers, **({"Content-Type": ARROW} if accepts_arrow else {})}
        return Outcome(200, headers if is_fresh else {**headers, STALE_HEADER: "true"}, found)

    async def _judge(self, call: Call) -> None:
        workspace = call.headers.get(WORKSPACE_HEADER.lower(), "").strip()
        caller = Caller(call.identity, workspace, "")
        mode = await self._server.settled()
        if mode is ServerMode.OPEN and not caller.workspace:
            return
        if mode is ServerMode.UNKNOWN:
            raise UpstreamUnavailableError("the MLflow server has not answered yet")
        await self._may_see(caller, decode(call.body).experiment_ids)
