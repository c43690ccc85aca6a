"""The frequent changes, many in one go: what they need is read at once, each is decided, the result is written at once.

Decisions are MLflow's (``SqlAlchemyStore.create_run``, ``update_run_info``, ``log_param``, ``_log_params``,
``set_tag``, ``_set_tags``), in the order of the changes, each seeing what those before it did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from runstream.ingest.control import answers, errors
from runstream.ingest.control.answers import Body
from runstream.ingest.control.checks import MAX_ARTIFACT_URI
from runstream.ingest.control.database.session import Session
from runstream.ingest.control.database.sql import packed, source
from runstream.ingest.control.entities import (
    ACTIVE,
    EXPERIMENT_COLUMNS,
    RUN_COLUMNS,
    RUN_NAME_TAG,
    Experiment,
    Run,
)
from runstream.ingest.control.errors import PassOnError
from runstream.ingest.control.naming import below
from runstream.ingest.control.requests import Change, CreateRun, LogBatch, LogParam, Pair, SetTag, UpdateRun
from runstream.schemas.errors import MlflowError

FREQUENT = (CreateRun, UpdateRun, LogParam, SetTag, LogBatch)


@dataclass(frozen=True, slots=True)
class ThatRun:
    """The answer is the run with this id, which was there before."""

    run_id: str


Outcome = Body | ThatRun | Exception


def _only_params(change: Change) -> bool:
    return isinstance(change, LogParam) or (isinstance(change, LogBatch) and not change.tags)


@dataclass(slots=True)
class Segment:
    """What is known of the database, and what is to be written."""

    random_name: Callable[[], str]
    runs: dict[str, Run] = field(default_factory=dict)
    experiments: dict[int, Experiment] = field(default_factory=dict)
    params: dict[tuple[str, str], str] = field(default_factory=dict)
    new_runs: dict[str, Run] = field(default_factory=dict)
    changed_runs: dict[str, Run] = field(default_factory=dict)
    new_params: list[tuple[str, str, str]] = field(default_factory=list)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)

    # --- reading ----------------------------------------------------------------------------------------------

    def read(self, session: Session, changes: Sequence[Change]) -> None:
        """Everything that the decisions depend on."""
        run_ids: dict[str, None] = {}
        experiment_ids: dict[int, None] = {}
        params: dict[tuple[str, str], None] = {}
        for change in changes:
            match change:
                case CreateRun():
                    experiment_ids[int(change.experiment_id)] = None
                    run_ids[str(change.run_id)] = None
                case LogParam():
                    run_ids[change.run_id] = None
                    params[change.key, change.run_id] = None
                case LogBatch():
                    run_ids[change.run_id] = None
                    params |= dict.fromkeys((param.key, change.run_id) for param in change.params)
                case UpdateRun() | SetTag():
                    run_ids[change.run_id] = None
        shared = all(_only_params(change) for change in changes)
        self._read_runs(session, sorted(run_ids), "KEY SHARE" if shared else "NO KEY UPDATE")
        if experiment_ids:
            given = source(session.dialect, "bigint")
            rest = f"experiments WHERE experiment_id IN (SELECT c0 FROM {given})"
            rows = session.gather(EXPERIMENT_COLUMNS, rest, [packed([[key] for key in experiment_ids])])
            self.experiments = {row[0]: Experiment(*row) for row in rows}
        if params:
            given = source(session.dialect, "text", "text")
            # SQLite follows this order of a join: one look into the primary key for each.
            join = "CROSS JOIN" if session.dialect == "sqlite" else "JOIN"
            rest = f"{given} {join} params ON params.key = c0 AND params.run_uuid = c1"
            rows = session.gather("params.key, params.run_uuid, params.value", rest, [packed(list(params))])
            self.params = {(key, run_id): value for key, run_id, value in rows}

    def _read_runs(self, session: Session, run_ids: Sequence[str], lock: str) -> None:
        rest = f"runs WHERE run_uuid IN (SELECT c0 FROM {source(session.dialect, 'text')})"
        if session.dialect == "postgresql":
            # Params alone change no row that is there, and who adds one twice meets its primary key (or, in two
            # orders at once, a deadlock, and is repeated): gateways add side by side, each on a core of the database's.
            rest += f" ORDER BY run_uuid FOR {lock}"
        rows = session.gather(RUN_COLUMNS, rest, [packed([[run_id] for run_id in run_ids])])
        self.runs = {row[0]: Run(*row) for row in rows}

    # --- deciding ---------------------------------------------------------------------------------------------

    def decide(self, change: Change) -> Outcome:
        """The answer to one change; nothing of it is kept if that is an error."""
        try:
            match change:
                case CreateRun():
                    return self._create_run(change)
                case UpdateRun():
                    return self._update_run(change)
                case LogParam():
                    return self._log_param(change)
                case SetTag():
                    self._set_tags(self._active(change.run_id), [Pair(change.key, change.value)])
                    return {}
                case LogBatch():
                    return self._log_batch(change)
        except (MlflowError, PassOnError) as error:
            return error
        return PassOnError()

    def _active(self, run_id: str) -> Run:
        run = self.runs.get(run_id)
        if run is None:
            raise errors.no_run(run_id)
        if run.lifecycle_stage != ACTIVE:
            raise errors.run_not_active(run_id, run.lifecycle_stage)
        return run

    def _create_run(self, change: CreateRun) -> Outcome:
        experiment = self.experiments.get(int(change.experiment_id))
        if experiment is None:
            raise errors.no_experiment(int(change.experiment_id))
        if experiment.lifecycle_stage != ACTIVE:
            raise errors.experiment_not_active(experiment.experiment_id, experiment.lifecycle_stage)
        run_id = str(change.run_id)
        if run_id in self.runs:
            return ThatRun(run_id)
        tags = {tag.key: tag.value for tag in change.tags}
        named = tags.get(RUN_NAME_TAG)
        if change.run_name and named and change.run_name != named:
            raise MlflowError(
                "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values"
                f" (run_name='{change.run_name}', mlflow.runName='{named}')."
            )
        artifact_uri = below(experiment.artifact_location, run_id, "artifacts")
        if artifact_uri is None or len(artifact_uri) > MAX_ARTIFACT_URI:
            raise PassOnError
        name = change.run_name or named or self.random_name()
        tags.setdefault(RUN_NAME_TAG, name)
        run = Run(
            run_id,
            name,
            change.user_id,
            "RUNNING",
            change.start_time,
            None,
            ACTIVE,
            artifact_uri,
            experiment.experiment_id,
        )
        self.runs[run_id] = self.new_runs[run_id] = run
        self.tags |= {(key, run_id): value for key, value in tags.items()}
        data = answers.with_lists(tags=answers.pairs(tags.items()))
        return {"run": {"info": answers.run_info(run), "data": data, "inputs": {}}}

    def _update_run(self, change: UpdateRun) -> Outcome:
        run = self._active(change.run_id)
        if not run.name and not change.run_name:
            raise PassOnError
        if change.status is not None:
            run.status = change.status
        if change.end_time is not None:
            run.end_time = change.end_time
        self.changed_runs[run.run_id] = run
        if change.run_name:
            self._rename(run, change.run_name)
        return {"run_info": answers.run_info(run)}

    def _rename(self, run: Run, name: str) -> None:
        run.name = name
        self.changed_runs[run.run_id] = run
        self.tags[RUN_NAME_TAG, run.run_id] = name

    def _log_param(self, change: LogParam) -> Outcome:
        run = self._active(change.run_id)
        old = self.params.get((change.key, run.run_id))
        if old is None:
            self._add_params(run, [Pair(change.key, change.value)])
        elif old != change.value:
            raise errors.param_changed(run.run_id, change.key, old, change.value)
        return {}

    def _log_batch(self, change: LogBatch) -> Outcome:
        run = self._active(change.run_id)
        new: list[Pair] = []
        changed: list[dict[str, str]] = []
        for param in change.params:
            old = self.params.get((param.key, run.run_id))
            if old is None:
                new.append(param)
            elif old != param.value:
                changed.append({"key": param.key, "old_value": old, "new_value": param.value})
        if changed:
            raise errors.params_changed(run.run_id, changed)
        self._add_params(run, new)
        self._set_tags(run, change.tags)
        return {}

    def _add_params(self, run: Run, params: Sequence[Pair]) -> None:
        for param in params:
            self.params[param.key, run.run_id] = param.value
            self.new_params.append((param.key, param.value, run.run_id))

    def _set_tags(self, run: Run, tags: Sequence[Pair]) -> None:
        for tag in tags:
            if tag.key != RUN_NAME_TAG:
                self.tags[tag.key, run.run_id] = tag.value
            elif tag.value:
                self._rename(run, tag.value)

    # --- writing ----------------------------------------------------------------------------------------------

    def write(self, session: Session) -> None:
        """What the decisions came to."""
        dialect = session.dialect
        if self.new_runs:
            kinds = source(
                dialect, "text", "text", "text", "text", "bigint", "bigint", "text", "text", "bigint"
            )
            session.execute(
                "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status,"
                " start_time, end_time, deleted_time, source_version, lifecycle_stage, artifact_uri, experiment_id)"
                f" SELECT c0, c1, 'UNKNOWN', '', '', c2, c3, c4, c5, NULL, '', c6, c7, c8 FROM {kinds}",
                [packed([run.row() for run in self.new_runs.values()])],
            )
        changed = [run for run_id, run in self.changed_runs.items() if run_id not in self.new_runs]
        if changed:
            session.execute(
                "UPDATE runs SET name = c1, status = c2, end_time = c3"
                f" FROM {source(dialect, 'text', 'text', 'text', 'bigint')} WHERE runs.run_uuid = c0",
                [packed([(run.run_id, run.name, run.status, run.end_time) for run in changed])],
            )
        if self.new_params:
            session.execute(
                "INSERT INTO params (key, value, run_uuid)"
                f" SELECT c0, c1, c2 FROM {source(dialect, 'text', 'text', 'text')}",
                [packed(self.new_params)],
            )
        if self.tags:
            session.execute(
                "INSERT INTO tags (key, value, run_uuid)"
                f" SELECT c0, c1, c2 FROM {source(dialect, 'text', 'text', 'text')} WHERE true"
                " ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value",
                [packed([(key, value, run_id) for (key, run_id), value in self.tags.items()])],
            )
