"""What is kept in memory because making it again costs more, within a bound in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class Kept(Generic[KeyT, ValueT]):
    """Values by key, at most ``max_bytes`` of them by ``nbytes``, the least recently used dropped first.

    Thread-safe.
    """

    def __init__(self, max_bytes: int, nbytes: Callable[[ValueT], int]) -> None:
        self._max_bytes = max_bytes
        self._nbytes = nbytes
        self._lock = threading.Lock()
        self._values: OrderedDict[KeyT, ValueT] = OrderedDict()
        self._bytes = 0

    def get(self, key: KeyT) -> ValueT | None:
        """The value put last, if it is still here."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: KeyT, value: ValueT) -> None:
        """Keep a value, in place of an older one."""
        with self._lock:
            old = self._values.pop(key, None)
            self._bytes += self._nbytes(value) - (self._nbytes(old) if old is not None else 0)
            self._values[key] = value
            while self._bytes > self._max_bytes:
                _, dropped = self._values.popitem(last=False)
                self._bytes -= self._nbytes(dropped)
