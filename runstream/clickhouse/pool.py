"""A bounded pool of things that serve one caller at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from runstream.schemas.ports.database import DatabaseError

T = TypeVar("T")


class Pool(Generic[T]):
    """Opens up to ``size`` items on demand and lends the most recently used one. Thread-safe."""

    def __init__(
        self, opener: Callable[[], T], closer: Callable[[T], None], size: int, wait_s: float = 60
    ) -> None:
        self._opener = opener
        self._closer = closer
        self._size = size
        self._wait_s = wait_s
        self._free: list[T] = []
        self._lent = 0
        self._closed = False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def borrow(self) -> Iterator[T]:
        """Lend an item; blocks while all are lent. ``DatabaseError`` after ``wait_s`` or once closed.

        An item whose use fails is closed, not lent again: a chDB connection on which a query failed half-way hands
        that query's rest to the next one as its result.
        """
        item = self._take()
        try:
            yield item
        except BaseException:
            try:
                self._closer(item)
            finally:
                self._give_back()
            raise
        self._give_back(item)

    def _give_back(self, *items: T) -> None:
        with self._changed:
            self._lent -= 1
            self._free.extend(items)
            self._changed.notify()

    def close(self) -> None:
        """Refuse further loans, wait for the lent items, and close all. May be called twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            while self._lent:
                self._changed.wait()
            items, self._free = self._free, []
        for item in items:
            self._closer(item)

    def _take(self) -> T:
        with self._changed:
            ready = self._changed.wait_for(
                lambda: self._closed or self._free or self._lent < self._size, timeout=self._wait_s
            )
            if self._closed:
                raise DatabaseError("the ClickHouse connection is closed")
            if not ready:
                raise DatabaseError("every ClickHouse connection is busy", retryable=True)
            self._lent += 1
            if self._free:
                return self._free.pop()
        try:
            return self._opener()
        except BaseException:
            with self._changed:
                self._lent -= 1
                self._changed.notify()
            raise
