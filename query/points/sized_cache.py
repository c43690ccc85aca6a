"""What is held in memory because making it again costs more, within a bound in bytes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from cachetools import LRUCache

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class SizedCache(Generic[KeyT, ValueT]):
    """Values by key, at most ``max_bytes`` of them by ``nbytes``, the least recently used dropped first.

    Thread-safe.
    """

    def __init__(self, max_bytes: int, nbytes: Callable[[ValueT], int]) -> None:
        self._lock = threading.Lock()
        self._values: LRUCache[KeyT, ValueT] = LRUCache(max_bytes, getsizeof=nbytes)

    def get(self, key: KeyT) -> ValueT | None:
        """The value put last, if it is still here."""
        with self._lock:
            return self._values.get(key)

    def put(self, key: KeyT, value: ValueT) -> None:
        """Hold a value, in place of an older one; one larger than the bound is not held."""
        with self._lock:
            self._values.pop(key, None)
            with contextlib.suppress(ValueError):  # cachetools: value too large
                self._values[key] = value
