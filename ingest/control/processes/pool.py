"""Searches from the event loop: a few processes that look through the database, and the answers that are still true."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson
from cachetools import LRUCache

from runstream.ingest.control.processes import program
from runstream.ingest.control.processes.index_builder import Outcome
from runstream.ingest.control.search.connections import address_of
from runstream.schemas.errors import MlflowError

_log = logging.getLogger(__name__)
_PROGRAM: Final = "runstream.ingest.control.processes.program"
_BUILDER: Final = "runstream.ingest.control.processes.index_builder"
_LATER_S: Final = 0.5
_MOST_S: Final = 15.0
_THERE_S: Final = 3600.0
# The process ends a search by itself; this is for one that hangs.
_GRACE_S: Final = 5.0


class SearchUnavailableError(Exception):
    """No search is possible now, or this one was given up: let MLflow answer."""


@dataclass(frozen=True, slots=True)
class SearchLimits:
    """``processes`` that search at once, ``waiting`` searches for each; seconds of one; bytes of one answer, and of all
    that are remembered."""

    processes: int = 2
    waiting: int = 32
    timeout_s: float = 15.0
    answer_bytes: int = 64 << 20
    kept_bytes: int = 32 << 20


class SearchProcesses:
    """Answers searches on MLflow's own tables. Belongs to one event loop; processes start as they are needed.

    ``uri`` is MLflow's backend store. An answer is remembered with the state of the database that it shows, and given
    again while the database says that nothing has changed since: the same bytes that would be read anew.
    ``query`` is the address and the token of the query service, which tables of runs need.
    """

    def __init__(
        self, uri: str, limits: SearchLimits | None = None, query: tuple[str, str] = ("", "")
    ) -> None:
        self._limits = limits or SearchLimits()
        address = address_of(uri)
        # In the environment, where other users of the machine do not see a password.
        database = orjson.dumps([address.dialect, address.name]).decode()
        self._environment = {
            **os.environ,
            program.DATABASE_VARIABLE: database,
            program.QUERY_VARIABLE: orjson.dumps(query).decode(),
        }
        self._free: asyncio.LifoQueue[_Process | None] = asyncio.LifoQueue()
        for _ in range(self._limits.processes):
            self._free.put_nowait(None)
        self._waiting = 0
        # By route and body: the snapshot that it is of, the answer, and the bytes of body and answer.
        self._answers: LRUCache[tuple[str, bytes], tuple[str, bytes, int]] = LRUCache(
            self._limits.kept_bytes, getsizeof=lambda entry: entry[2]
        )

    async def answer(self, route: str, body: bytes) -> bytes | None:
        """The body of MLflow's answer to a search (``runs/search``, ``experiments/search``); ``None`` for what MLflow's
        server has to answer itself: what is unusual, and all that is wrong. Raises ``SearchUnavailableError``, and for
        tables of runs (``program.TABLE_JSON``, ``TABLE_ARROW``), which MLflow does not know, ``MlflowError``."""
        if self._waiting >= self._limits.waiting * self._limits.processes:
            raise SearchUnavailableError("too many searches are waiting")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._limits.timeout_s + _GRACE_S):
                return await self._answer(route, body)
        except TimeoutError as error:
            raise SearchUnavailableError("the search took too long") from error
        finally:
            self._waiting -= 1

    async def _answer(self, route: str, body: bytes) -> bytes | None:
        process = await self._free.get()
        good = False
        kept = self._answers.get((route, body))
        try:
            if process is None or process.ended:
                process = await _Process.start(self._environment, self._limits)
            outcome, snapshot, found = await process.ask(route, body, kept[0] if kept else None)
            good = True
        except (OSError, EOFError, ValueError, asyncio.IncompleteReadError) as error:
            _log.warning("a search process ended", exc_info=error)
            raise SearchUnavailableError("the search process ended") from error
        finally:
            # One whose answer was not read to its end cannot be asked again.
            if process is not None and not good:
                process.kill()
                process = None
            self._free.put_nowait(process)
        if outcome == program.UNCHANGED and kept is not None:
            return kept[1]
        if outcome == program.REFUSED:
            raise MlflowError(**orjson.loads(found))
        if outcome == program.FOUND:
            if snapshot:
                self._keep(route, body, snapshot, found)
            return found
        if outcome == program.AWAY:
            raise SearchUnavailableError("the metadata database does not answer in time")
        return None

    def _keep(self, route: str, body: bytes, snapshot: str, found: bytes) -> None:
        self._answers.pop((route, body), None)
        size = len(found) + len(body)
        if size <= self._limits.kept_bytes // 4:
            self._answers[route, body] = (snapshot, found, size)

    async def keep_indexes(self, known: Callable[[], bool]) -> None:
        """Have the indexes made, and made again should they be gone, until cancelled; not before the database's
        schema is ``known``."""
        later_s = _LATER_S
        while True:
            outcome = await self._build() if known() else Outcome.LATER
            if outcome == Outcome.NOT_ALLOWED:
                _log.warning("searches scan: the database's user may not make indexes")
                return
            if outcome == Outcome.THERE:
                later_s = _LATER_S
                await asyncio.sleep(_THERE_S)
            else:
                await asyncio.sleep(later_s)
                later_s = min(_MOST_S, later_s * 2)

    async def _build(self) -> int:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", _BUILDER), stdin=asyncio.subprocess.PIPE, env=self._environment
        )
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()

    async def close(self) -> None:
        """End every process; searches under way end first, within their bound."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.timeout_s + 2 * _GRACE_S):
                for _ in range(self._limits.processes):
                    process = await self._free.get()
                    if process is not None:
                        await process.stop()


class _Process:
    """One process, which is asked one search at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._input = process.stdin
        self._output = process.stdout

    @classmethod
    async def start(cls, environment: dict[str, str], limits: SearchLimits) -> _Process:
        """Start one."""
        return cls(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", _PROGRAM, str(limits.timeout_s), str(limits.answer_bytes)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=environment,
                limit=1 << 20,
            )
        )

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._process.returncode is not None

    async def ask(self, route: str, body: bytes, known: str | None) -> tuple[str, str, bytes]:
        """Outcome, snapshot and body."""
        head: dict[str, Any] = {"route": route, "known": known, "size": len(body)}
        self._input.write(orjson.dumps(head) + b"\n" + body)
        await self._input.drain()
        line = await self._output.readline()
        if not line:
            raise EOFError
        answer = orjson.loads(line)
        found = await self._output.readexactly(answer["size"])
        return answer["outcome"], answer["snapshot"], found

    def kill(self) -> None:
        """End it at once; the loop's child watcher reaps it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def stop(self) -> None:
        """End its input, and wait until it has ended."""
        self._input.close()
        try:
            async with asyncio.timeout(_GRACE_S):
                await self._process.wait()
        except TimeoutError:
            self.kill()
