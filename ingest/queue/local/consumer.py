"""The local log's consumer: reads every stream of a log folder."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from runstream.ingest.queue.local.dead_letters import DeadLetters
from runstream.ingest.queue.local.files import CONSUMER_LOCK, list_streams, lock_file, make_dir
from runstream.ingest.queue.local.retention import Retention
from runstream.ingest.queue.local.stream import StreamConsumer
from runstream.ingest.queue.protocol import Message, RevokeHandler
from runstream.schemas.errors import ConfigError, QueueUnavailableError

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_MIN_DELAY_S = 0.005
_MAX_DELAY_S = 0.05


class LocalLogConsumer:
    """Reads the log folder ``path``: all its streams, also those that appear later and those whose producer
    is gone. A stream is a partition. One consumer at a time may own a folder.

    It looks for new records every 5 ms, and every 50 ms after a quiet while; ``end_offsets`` of the same
    object wakes it at once. File access happens in threads of its own. ``dead_letter_bytes`` bounds
    ``LOG/dead-letters``; past it the oldest letters go, counted and logged. ``retention`` says what stays of
    what is consumed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        dead_letter_bytes: int = 1 << 30,
        retention: Retention | None = None,
    ) -> None:
        self._log = Path(path)
        # By default nothing stays that is consumed.
        self._retention = retention or Retention(max_bytes=0)
        self._dead_letter_bytes = dead_letter_bytes
        self._streams: dict[int, StreamConsumer] = {}
        self._lock: int | None = None
        self._dead_letters: DeadLetters | None = None
        # One thread each, so that a cancelled call never overlaps with the next of its kind.
        self._reader: ThreadPoolExecutor | None = None
        self._walker: ThreadPoolExecutor | None = None
        self._committer: ThreadPoolExecutor | None = None
        self._reading: asyncio.Future[list[Message]] | None = None
        self._first = 0
        self._delay_s = _MIN_DELAY_S
        self._nap: asyncio.Future[None] | None = None

    @property
    def dead_letters_stored(self) -> int:
        """Dead letters stored since the start."""
        return self._dead_letters.stored if self._dead_letters else 0

    async def start(self, on_revoke: RevokeHandler | None = None) -> None:
        """Own the folder. Nothing is ever revoked here. Raises ``ConfigError`` with one line if the folder
        cannot be used or belongs to another consumer."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._open)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="runstream-log-read")
        self._walker = ThreadPoolExecutor(1, thread_name_prefix="runstream-log-ends")
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="runstream-log-commit")

    async def poll(self, *, max_bytes: int, timeout_s: float) -> list[Message]:
        """See ``Consumer.poll``. Cancelling it loses nothing: the next poll returns what was being read.
        Raises ``QueueUnavailableError`` when the disk fails and nothing else can be read."""
        deadline = self._loop.time() + timeout_s
        while True:
            try:
                if self._reading is None and self._has_news():
                    self._reading = self._run(self._reader, self._read, max_bytes)
                messages = await asyncio.shield(self._reading) if self._reading is not None else None
            except OSError as error:
                self._reading = None
                raise QueueUnavailableError(f"the log cannot be read: {error.strerror}") from error
            if messages is not None:
                self._reading = None
                if messages:
                    self._delay_s = _MIN_DELAY_S
                    return messages
            left = deadline - self._loop.time()
            if left <= 0:
                return []
            await self._sleep(min(left, self._delay_s))
            self._delay_s = min(_MAX_DELAY_S, self._delay_s * 1.1)

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """See ``Consumer.commit``. Raises ``QueueUnavailableError`` if an offset cannot be stored."""
        try:
            await self._run(self._committer, self._commit, dict(offsets))
        except OSError as error:
            raise QueueUnavailableError(f"cannot store the committed offset: {error.strerror}") from error

    async def end_offsets(self) -> dict[int, int]:
        """The end of the last whole record of each stream. A record that is just being written, or that a
        dead producer left half-way, does not count. Raises ``QueueUnavailableError`` when the disk fails."""
        try:
            if self._walker is not None and self._reading is None and not self._has_news():
                # Everything that is whole has been delivered: no thread, and nobody to wake.
                return {number: stream.delivered for number, stream in self._streams.items()}
            ends = await self._run(self._walker, self._ends, list(self._streams.values()))
        except OSError as error:
            raise QueueUnavailableError(f"the log cannot be read: {error.strerror}") from error
        self._delay_s = _MIN_DELAY_S
        self._wake()
        return ends

    async def committed(self) -> dict[int, int]:
        """The committed offset of each stream."""
        return {number: stream.committed for number, stream in self._streams.items()}

    async def dead_letter(self, message: Message, reason: str) -> None:
        """See ``Consumer.dead_letter``. Raises ``QueueUnavailableError`` if the letter cannot be stored
        now."""
        assert self._dead_letters is not None
        origin = {"stream": message.partition, "offset": message.offset, "next_offset": message.next_offset}
        try:
            await self._run(self._committer, self._dead_letters.add, message.payload, reason, origin)
        except OSError as error:
            raise QueueUnavailableError(f"cannot store a dead letter: {error.strerror}") from error

    async def close(self) -> None:
        """Release the folder; commits nothing."""
        threads = (self._reader, self._walker, self._committer)
        self._reader = self._walker = self._committer = None
        for thread in threads:
            if thread is not None:
                await asyncio.to_thread(thread.shutdown)
        await asyncio.to_thread(self._release)

    # In the event loop

    def _run(
        self, thread: ThreadPoolExecutor | None, function: Callable[..., _T], *arguments: object
    ) -> asyncio.Future[_T]:
        if thread is None:
            raise QueueUnavailableError("the log's consumer is closed")
        return self._loop.run_in_executor(thread, functools.partial(function, *arguments))

    def _has_news(self) -> bool:
        self._discover()
        return any(stream.has_news() for stream in self._streams.values())

    def _discover(self) -> None:
        """Find new streams. A listing of one small folder: microseconds."""
        try:
            numbers = list_streams(self._log)
        except FileNotFoundError:
            logger.error("the log folder %s was deleted: it is made anew", self._log)
            self._log.mkdir(parents=True, exist_ok=True)
            numbers = []
        for number in numbers:
            if number not in self._streams:
                self._streams[number] = StreamConsumer(self._log, number)

    async def _sleep(self, seconds: float) -> None:
        nap = self._nap = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._wake)
        try:
            await nap
        finally:
            timer.cancel()
            self._nap = None

    def _wake(self) -> None:
        if self._nap is not None and not self._nap.done():
            self._nap.set_result(None)

    # In other threads

    def _open(self) -> None:
        make_dir(self._log)
        self._lock = lock_file(self._log / CONSUMER_LOCK)
        if self._lock is None:
            raise ConfigError(f"the log folder {self._log} is in use by another writer process")
        try:
            self._dead_letters = DeadLetters(self._log, max_bytes=self._dead_letter_bytes)
            self._discover()
        except OSError as error:
            self._release()
            raise ConfigError(f"cannot open the log folder {self._log}: {error.strerror}") from error

    def _read(self, max_bytes: int) -> list[Message]:
        streams = list(self._streams.values())
        self._first = (self._first + 1) % len(streams)
        messages: list[Message] = []
        failure: OSError | None = None
        for stream in streams[self._first :] + streams[: self._first]:
            try:
                found = stream.read(max_bytes)
            except OSError as error:
                logger.error("cannot read stream %d: %s", stream.stream, error)
                failure = error
                continue
            if found:
                max_bytes -= sum(len(message.payload) for message in found)
                messages += found
            if max_bytes <= 0:
                break
        if failure is not None and not messages:
            raise failure
        return messages

    def _commit(self, offsets: dict[int, int]) -> None:
        for number, offset in offsets.items():
            self._streams[number].commit(offset)
        # The streams share the room: what one does not use is not another's, which keeps it simple.
        share = replace(self._retention, max_bytes=self._retention.max_bytes // max(1, len(self._streams)))
        for number in offsets:
            self._streams[number].release(share)

    def _ends(self, streams: list[StreamConsumer]) -> dict[int, int]:
        return {stream.stream: stream.end() for stream in streams}

    def _release(self) -> None:
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()
        if self._dead_letters is not None:
            self._dead_letters.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
