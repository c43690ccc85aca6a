"""The control plane of one gateway process: its store, once the database is known to be one that it understands."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from runstream.ingest.control.database import postgres_session, sqlite_session
from runstream.ingest.control.database.addresses import postgres_conninfo, sqlite_path
from runstream.ingest.control.database.opening import open_reads
from runstream.ingest.control.database.reads import MetadataUnavailableError, ReadPool
from runstream.ingest.control.database.session import Session
from runstream.ingest.control.naming import load_random_name
from runstream.ingest.control.sql_store import SqlRunStore
from runstream.ingest.control.store import RunStore
from runstream.schemas.tasks import kept_running

_log = logging.getLogger(__name__)

# Alembic revisions of MLflow's tables: 3.17's, with which everything is tested, and 3.18's, where these tables and the
# methods of MLflow's store that make their rows are the same to the letter.
KNOWN_REVISIONS = frozenset({"dc11669786a5", "f4a9b2c7d1e6"})
_NOT_YET_S = 0.2
# MLflow's migrations pass through many revisions on their way: one that stays is no step of them.
_MIGRATES_S = 15.0
_KNOWN_S = 30.0
_READS = 2


class ControlPlane:
    """Looks at the schema's revision, again and again, for MLflow may migrate its database beside us.

    ``store`` is ``None`` while there are no tables yet, and with a revision that is not among ``revisions``: then the
    log says so, and everything is passed on to MLflow's server. ``random_name`` is loaded from MLflow's own.
    """

    def __init__(
        self,
        uri: str,
        *,
        revisions: frozenset[str] = KNOWN_REVISIONS,
        random_name: Callable[[], str] | None = None,
    ) -> None:
        self._uri = uri
        self._revisions = revisions
        self._random_name = random_name
        self._opened: SqlRunStore | None = None
        self._reads: ReadPool | None = None
        self._known = False
        self._strange: str | None = None
        self._strange_since = 0.0
        self._complained = False
        self._task: asyncio.Task[None] | None = None

    @property
    def store(self) -> RunStore | None:
        """The store, if it may be used now."""
        return self._opened if self._known else None

    @property
    def unknown(self) -> bool:
        """Whether the schema is one that this does not know."""
        return self._strange is not None

    async def start(self) -> None:
        """Look once, then go on looking beside the loop's other work. Raises ``ConfigError`` for a bad address."""
        self._reads = await open_reads(self._uri, max_connections=_READS)
        await self._look()
        self._task = kept_running("schema of the metadata database", self._watch)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_KNOWN_S if self._known else _NOT_YET_S)
            await self._look()

    async def _look(self) -> None:
        assert self._reads is not None
        try:
            rows = await self._reads.rows("SELECT version_num FROM alembic_version")
        except MetadataUnavailableError:
            return  # Away, or not there yet. A store that was in use says so itself.
        except Exception as error:  # no such table: MLflow's server is about to make it
            _log.debug("no schema yet", extra={"reason": str(error)[:200]})
            return
        revision = str(rows[0][0]) if len(rows) == 1 else None
        self._known = revision in self._revisions
        if self._known and self._opened is None:
            self._opened = SqlRunStore(self._session(), self._reads, self._random_name or load_random_name())
        now = asyncio.get_running_loop().time()
        if self._known:
            self._strange, self._complained = None, False
        elif revision != self._strange:
            self._strange, self._strange_since, self._complained = revision, now, False
        elif not self._complained and now - self._strange_since >= _MIGRATES_S:
            self._complained = True
            _log.warning(
                "MLflow's tables have a schema that this version of Runstream does not know: experiments, runs and"
                " models are left to MLflow's server, which is much slower",
                extra={"revision": revision, "known": sorted(self._revisions)},
            )

    def _session(self) -> Session:
        if self._uri.startswith("sqlite"):
            return sqlite_session.SqliteSession(sqlite_path(self._uri))
        return postgres_session.PostgresSession(postgres_conninfo(self._uri))

    async def close(self) -> None:
        """Finish what was accepted, and close every connection."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._opened is not None:
            await self._opened.close()
        elif self._reads is not None:
            await self._reads.close()
