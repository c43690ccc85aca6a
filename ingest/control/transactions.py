"""Changes in transactions: many share one, and each is decided on its own."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from runstream.ingest.control.answers import Body
from runstream.ingest.control.database.reads import MetadataUnavailableError
from runstream.ingest.control.database.session import (
    CommitUnknownError,
    ConflictError,
    RefusedByDatabaseError,
    Session,
)
from runstream.ingest.control.errors import PassOnError
from runstream.ingest.control.models import MODELS
from runstream.ingest.control.requests import Change, CreateExperiment
from runstream.ingest.control.segment import FREQUENT, Outcome, Segment
from runstream.ingest.control.single import SINGLE
from runstream.schemas.errors import MlflowError

_log = logging.getLogger(__name__)
_ALONE: dict[type[Change], Callable[[Session, Any], Body]] = {**SINGLE, **MODELS}
_PAUSE_S = 0.05


class Transactions:
    """Executes groups of changes on one ``Session``; blocking, for one thread.

    A transaction that another writer disturbed, or whose database went away, is repeated until ``patience_s`` have
    passed: ids are in the changes already, so that a repetition finds what it did before.
    """

    def __init__(
        self,
        session: Session,
        random_name: Callable[[], str],
        *,
        patience_s: float = 8.0,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._session = session
        self._random_name = random_name
        self._patience_s = patience_s
        self._clock = clock
        self._pause = pause

    def execute(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """An outcome for each change, in their order; those that are no exception are durable."""
        deadline = self._clock() + self._patience_s
        unknown = False
        while True:
            try:
                return self._together(changes)
            except (MetadataUnavailableError, ConflictError, CommitUnknownError) as error:
                unknown = unknown or isinstance(error, CommitUnknownError)
                if self._clock() >= deadline:
                    _log.warning("changes of runs were not taken", extra={"reason": str(error)[:200]})
                    away = MetadataUnavailableError("the metadata database does not take changes now")
                    away.nothing_done = not unknown
                    return [away] * len(changes)
                if isinstance(error, CommitUnknownError) and any(
                    isinstance(change, CreateExperiment) and change.key is None for change in changes
                ):
                    # Repeating these could refuse, as taken, the name that they themselves took.
                    away = MetadataUnavailableError(str(error))
                    away.nothing_done = False
                    return [away] * len(changes)
                self._pause(_PAUSE_S)
            except RefusedByDatabaseError as error:
                if len(changes) == 1:
                    _log.info("a change is left to MLflow's server", extra={"reason": str(error)[:200]})
                    return [PassOnError()]
                # One of them holds something that the database does not take: nobody else shall notice.
                return [outcome for change in changes for outcome in self.execute([change])]

    def _together(self, changes: Sequence[Change]) -> list[Outcome]:
        session = self._session
        outcomes: list[Outcome] = []
        try:
            session.begin()
            for frequent, group in itertools.groupby(changes, lambda change: isinstance(change, FREQUENT)):
                if frequent:
                    outcomes += self._segment(list(group))
                else:
                    outcomes += [self._alone(change) for change in group]
            session.commit()
        except BaseException:
            session.rollback()
            raise
        return outcomes

    def _segment(self, changes: list[Change]) -> list[Outcome]:
        segment = Segment(self._random_name)
        segment.read(self._session, changes)
        outcomes = [segment.decide(change) for change in changes]
        segment.write(self._session)
        return outcomes

    def _alone(self, change: Change) -> Outcome:
        self._session.mark()
        try:
            return _ALONE[type(change)](self._session, change)
        except (MlflowError, PassOnError) as error:
            self._session.undo()
            return error
