"""Which runs were removed from MLflow's database for good, whoever removed them.

``mlflow gc`` is run by people and jobs that may know nothing of Runstream, and writes to the database itself. So the
database keeps the list: a trigger on ``runs`` notes each row that goes in a table of ours, ``runstream_removed_runs``.
Both can be dropped (the trigger first) and are made again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from runstream.ingest.writer.latest import LatestUnavailableError
from runstream.schemas.errors import ConfigError

_TABLE = "CREATE TABLE IF NOT EXISTS runstream_removed_runs (run_uuid VARCHAR(32) PRIMARY KEY)"
_PENDING = sa.text(
    "SELECT gone.run_uuid FROM runstream_removed_runs AS gone WHERE NOT EXISTS"
    " (SELECT 1 FROM runs WHERE runs.run_uuid = gone.run_uuid) LIMIT 1000"
)
_FORGET = sa.text("DELETE FROM runstream_removed_runs WHERE run_uuid IN :runs").bindparams(
    sa.bindparam("runs", expanding=True)
)
_REVISION = sa.text("SELECT version_num FROM alembic_version")
_HAS_TRIGGER = {
    "sqlite": "SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND name = 'runstream_run_removed'",
    "postgresql": "SELECT 1 FROM pg_trigger WHERE tgname = 'runstream_run_removed' AND tgrelid = 'runs'::regclass",
}
_MAKE_TRIGGER = {
    "sqlite": (
        "CREATE TRIGGER IF NOT EXISTS runstream_run_removed AFTER DELETE ON runs BEGIN"
        " INSERT OR IGNORE INTO runstream_removed_runs VALUES (OLD.run_uuid); END",
    ),
    "postgresql": (
        # With the rights of whoever made it: those of MLflow's server suffice, whoever collects.
        "CREATE OR REPLACE FUNCTION runstream_run_removed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
        " SET search_path FROM CURRENT AS $$ BEGIN"
        " INSERT INTO runstream_removed_runs VALUES (OLD.run_uuid) ON CONFLICT DO NOTHING; RETURN NULL; END $$",
        "CREATE OR REPLACE TRIGGER runstream_run_removed AFTER DELETE ON runs"
        " FOR EACH ROW EXECUTE FUNCTION runstream_run_removed()",
    ),
}
_BUSY_TIMEOUT_S = 5.0


class RemovedRuns:
    """The list of one database. Blocking; raises ``LatestUnavailableError``; used by one thread at a time."""

    def __init__(self, uri: str) -> None:
        self._revision: str | None = None
        try:
            url = sa.make_url(uri)
            self._dialect = url.get_backend_name()
            options = {"timeout": _BUSY_TIMEOUT_S} if self._dialect == "sqlite" else {}
            self._engine = sa.create_engine(
                url, pool_size=1, max_overflow=0, pool_pre_ping=True, connect_args=options
            )
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            raise ConfigError(f"the metadata URI cannot be used: {error}") from error

    def watch(self) -> bool:
        """Make table and trigger if they are missing; whether they are there.

        MLflow makes its own tables first, and a migration of its that makes ``runs`` anew takes the trigger away: so it
        is made when the database has had the same revision twice in a row.
        """
        if self._dialect not in _HAS_TRIGGER:
            return False
        with self._begin() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return False
            if connection.execute(sa.text(_HAS_TRIGGER[self._dialect])).first() is not None:
                return True
            revision = connection.execute(_REVISION).scalar()
            settled, self._revision = revision is not None and revision == self._revision, revision
            if settled:
                for statement in (_TABLE, *_MAKE_TRIGGER[self._dialect]):
                    connection.exec_driver_sql(statement)
        return settled

    def pending(self) -> list[str]:
        """Runs that were removed and not forgotten, some of them if there are very many."""
        with self._begin() as connection:
            return list(connection.execute(_PENDING).scalars())

    def forget(self, run_ids: Collection[str]) -> None:
        """These need nothing more."""
        with self._begin() as connection:
            connection.execute(_FORGET, {"runs": list(run_ids)})

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise LatestUnavailableError(" ".join(str(cause).split())[:300]) from error
