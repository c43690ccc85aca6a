"""``RunStore`` on MLflow's tables, in SQLite or PostgreSQL."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runstream.ingest.control import checks, errors, run_reads
from runstream.ingest.control.answers import Body
from runstream.ingest.control.coalesce import Coalescer
from runstream.ingest.control.database.reads import ReadPool
from runstream.ingest.control.database.session import Session
from runstream.ingest.control.database.sql import packed, source
from runstream.ingest.control.errors import PassOnError
from runstream.ingest.control.group import GroupCommit
from runstream.ingest.control.requests import Change, CreateLoggedModel, CreateRun
from runstream.ingest.control.screening import Screening
from runstream.ingest.control.segment import ThatRun
from runstream.ingest.control.store import RunState
from runstream.ingest.control.transactions import Transactions

_RUNS_TOGETHER = 32
_STATES_TOGETHER = 512
_EXPERIMENTS_TOGETHER = 100


class SqlRunStore:
    """See ``RunStore``. Takes over ``session``, which is used in a thread of its own, and ``reads``."""

    def __init__(self, session: Session, reads: ReadPool, random_name: Callable[[], str]) -> None:
        self._session = session
        self._reads = reads
        self._random_name = random_name
        self._screening = Screening(checks.Checks())
        self._group = GroupCommit(Transactions(session, random_name).execute)
        self._runs: Coalescer[str, list[Any]] = Coalescer(
            lambda run_ids: run_reads.read_runs(reads, run_ids), at_once=2, max_keys=_RUNS_TOGETHER
        )
        self._states: Coalescer[str, RunState] = Coalescer(
            self._read_states, at_once=1, max_keys=_STATES_TOGETHER
        )

    async def change(self, change: Change) -> Body:
        self._screening.pass_or_raise(change)
        # Ids are chosen before anything is tried, so that trying again finds them.
        if isinstance(change, CreateRun) and change.run_id is None:
            change.run_id = uuid.uuid4().hex
        elif isinstance(change, CreateLoggedModel):
            change.model_id = (change.model_id or uuid.uuid4().hex).removeprefix("m-")
            change.name = change.name or self._random_name()
        outcome = await self._group.submit(change)
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, ThatRun):
            return await self.get_run(outcome.run_id)
        return outcome

    async def get_run(self, run_id: str) -> Body:
        row = await self._runs.ask(checks.run_id(run_id))
        if row is None:
            raise errors.no_run(run_id)
        return run_reads.run_body(row)

    async def get_experiment(self, experiment_id: str) -> Body:
        return await run_reads.experiment_by_id(self._reads, checks.experiment_id(experiment_id))

    async def get_experiment_by_name(self, name: str) -> Body:
        if "\0" in name or not name:
            raise PassOnError
        return await run_reads.experiment_by_name(self._reads, name)

    async def get_logged_model(self, model_id: str) -> Body:
        checks.run_id(model_id.removeprefix("m-"))
        return await run_reads.logged_model(self._reads, model_id)

    async def get_logged_models_named(self, experiment_ids: Sequence[str], name: str) -> Body:
        if not 0 < len(experiment_ids) <= _EXPERIMENTS_TOGETHER:
            raise PassOnError
        ids = [checks.experiment_id(experiment_id) for experiment_id in experiment_ids]
        return await run_reads.logged_models_named(self._reads, ids, name)

    async def state_of_run(self, run_id: str) -> RunState | None:
        return await self._states.ask(checks.run_id(run_id))

    async def _read_states(self, run_ids: Sequence[str]) -> Mapping[str, RunState]:
        given = source(self._reads.dialect, "text")
        rest = f"runs WHERE run_uuid IN (SELECT c0 FROM {given})"
        sql = run_reads.whole(self._reads.dialect, "run_uuid, experiment_id, lifecycle_stage", rest)
        rows = await run_reads.array(self._reads, sql, [packed([[run_id] for run_id in run_ids])])
        return {row[0]: RunState(*row) for row in rows}

    async def close(self) -> None:
        await self._group.drain()
        await self._runs.close()
        await self._states.close()
        await self._reads.close()
        self._session.close()
