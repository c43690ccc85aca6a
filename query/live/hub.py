"""New points on their way to listeners: who listens to which run, and what a slow listener costs (itself)."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import orjson

from runstream.query.points.selection import glob_to_re2, is_glob
from runstream.schemas.mlflow.values import json_number
from runstream.schemas.record import PointColumns

# A run that nobody listens to any more is remembered this long, for listeners that come back.
_LINGER_S = 120.0


@dataclass(frozen=True, slots=True)
class Event:
    """New points of one run, as columns of plain Python values; ``sequence`` grows with every event of the
    hub."""

    sequence: int
    run_id: str
    keys: list[str]
    steps: list[int]
    timestamps: list[int]
    values: list[float]

    def __len__(self) -> int:
        return len(self.keys)


class Listener:
    """One listener's events, in order. ``dropped`` says that it was too slow: what follows is lost to it."""

    def __init__(self, runs: Iterable[str], max_points: int) -> None:
        self.runs = frozenset(runs)
        self.dropped = False
        self._max_points = max_points
        self._events: deque[Event] = deque()
        self._points = 0
        self._there = asyncio.Event()

    def put(self, event: Event) -> None:
        """Never blocks: a listener with too much unread is dropped."""
        if self.dropped:
            return
        if self._points + len(event) > self._max_points:
            self.dropped = True
        else:
            self._events.append(event)
            self._points += len(event)
        self._there.set()

    def wake(self) -> None:
        """Let whoever waits in ``take`` go, with nothing."""
        self._there.set()

    async def take(self, timeout_s: float) -> list[Event]:
        """Everything unread; waits for the first, and returns nothing after ``timeout_s`` or once dropped."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._there.wait()
        except TimeoutError:
            return []
        events = list(self._events)
        self._events.clear()
        self._points = 0
        if not self.dropped:
            self._there.clear()
        return events


class Hub:
    """Hands new points to the listeners of their runs. All methods belong to one event loop and only ``watched``
    waits.

    ``publish`` costs next to nothing for points that nobody listens to. ``history_points`` bounds what is
    kept for listeners that come back, ``max_unread_points`` what one listener may leave unread. ``looked_for``
    says that new points are not handed over but looked for: then a run's points come from the first look on that was
    for this run as well (``watching``).
    """

    def __init__(
        self,
        *,
        looked_for: bool = False,
        max_listeners: int = 1_000,
        max_unread_points: int = 100_000,
        history_points: int = 500_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Sequences of another hub (another process, or this one before its restart) mean nothing here.
        self.epoch = secrets.token_hex(4)
        self._max_listeners = max_listeners
        self._max_unread_points = max_unread_points
        self._history_limit = history_points
        self._clock = clock
        self._looked_for = looked_for
        self._watched: set[str] = set()
        self._progress = asyncio.Event()
        self._wanted = asyncio.Event()
        self._listeners: dict[str, set[Listener]] = {}
        self._count = 0
        self._left_at: dict[str, float] = {}
        self._since: dict[str, int] = {}
        self._history: deque[Event] = deque()
        self._history_points = 0
        self._trimmed_to = 0
        self._sequence = 0

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return self._count

    @property
    def sequence(self) -> int:
        """The newest event's number."""
        return self._sequence

    def runs(self) -> list[str]:
        """Runs whose points are wanted: those listened to now, or a short while ago."""
        self._forget_old()
        return list(self._since)

    def listen(self, runs: Sequence[str]) -> Listener | None:
        """A listener to all new points of these runs; ``None`` if there are too many listeners."""
        if self._count >= self._max_listeners:
            return None
        self._forget_old()
        listener = Listener(runs, self._max_unread_points)
        self._count += 1
        for run_id in listener.runs:
            self._listeners.setdefault(run_id, set()).add(listener)
            self._since.setdefault(run_id, self._sequence)
            self._left_at.pop(run_id, None)
        self._wanted.set()
        return listener

    async def wanted(self) -> list[str]:
        """``runs``, once there are any."""
        while not (runs := self.runs()):
            self._wanted.clear()
            await self._wanted.wait()
        return runs

    def watching(self, runs: Iterable[str]) -> None:
        """Whatever appears of these runs from now on will be published."""
        self._watched.update(run_id for run_id in runs if run_id in self._since)
        self._progress.set()
        self._progress = asyncio.Event()

    def all_watched(self, runs: Iterable[str]) -> bool:
        """Whether whatever appears of these runs from now on will be published."""
        return not self._looked_for or self._watched.issuperset(runs)

    async def watched(self, runs: Iterable[str], timeout_s: float) -> bool:
        """Wait until ``all_watched``; ``False`` after ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.all_watched(runs):
                    await self._progress.wait()
        except TimeoutError:
            return False
        return True

    def leave(self, listener: Listener) -> None:
        """End a listener."""
        self._count -= 1
        for run_id in listener.runs:
            listening = self._listeners.get(run_id, set())
            listening.discard(listener)
            if not listening:
                self._listeners.pop(run_id, None)
                self._left_at[run_id] = self._clock()

    def missed(self, runs: Iterable[str], after: int) -> list[Event] | None:
        """Events of these runs after number ``after``; ``None`` if they are not all remembered."""
        wanted = frozenset(runs)
        if not self._trimmed_to <= after <= self._sequence:
            return None
        if any(self._since.get(run_id, self._sequence + 1) > after for run_id in wanted):
            return None
        return [event for event in self._history if event.sequence > after and event.run_id in wanted]

    def publish(self, points: PointColumns) -> None:
        """Hand on new points; they are durable already, and may be repeated after a crash."""
        if not self._since:
            return
        names: list[str] = []
        for code, run_id in enumerate(points.runs):
            if run_id not in self._since:
                continue
            rows = np.flatnonzero(points.run_codes == code)
            if not len(rows):
                continue
            names = names or list(points.keys)
            self._sequence += 1
            event = Event(
                self._sequence,
                run_id,
                [names[key] for key in points.key_codes[rows].tolist()],
                points.steps[rows].tolist(),
                points.timestamps[rows].tolist(),
                points.values[rows].tolist(),
            )
            self._remember(event)
            for listener in self._listeners.get(run_id, ()):
                listener.put(event)

    def _remember(self, event: Event) -> None:
        self._history.append(event)
        self._history_points += len(event)
        while self._history_points > self._history_limit:
            old = self._history.popleft()
            self._history_points -= len(old)
            self._trimmed_to = old.sequence

    def _forget_old(self) -> None:
        now = self._clock()
        for run_id in [run for run, at in self._left_at.items() if now - at > _LINGER_S]:
            del self._left_at[run_id]
            self._since.pop(run_id, None)
            self._watched.discard(run_id)


class KeyFilter:
    """Which keys a listener wants: names, globs, or every one."""

    def __init__(self, keys: Sequence[str] | None) -> None:
        self._names = None if keys is None else {key for key in keys if not is_glob(key)}
        globs = [key for key in keys or () if is_glob(key)]
        self._pattern = re.compile("|".join(map(_python_pattern, globs))) if globs else None

    def wants(self, key: str) -> bool:
        """Whether the key is one of them."""
        if self._names is None or key in self._names:
            return True
        return self._pattern is not None and self._pattern.match(key) is not None


def _python_pattern(glob: str) -> str:
    pattern = glob_to_re2(glob).removesuffix("$)") + r"\Z)"
    return re.sub(r"\\x\{([0-9A-F]+)\}", lambda code: f"\\U{int(code[1], 16):08x}", pattern)


def encode(event: Event, keys: KeyFilter) -> bytes | None:
    """The event as JSON, with MLflow's strings for numbers that JSON lacks; ``None`` if no key is wanted."""
    wanted = [position for position, key in enumerate(event.keys) if keys.wants(key)]
    if not wanted:
        return None
    return orjson.dumps(
        {
            "run_id": event.run_id,
            "key": [event.keys[position] for position in wanted],
            "step": [event.steps[position] for position in wanted],
            "timestamp": [event.timestamps[position] for position in wanted],
            "value": [json_number(event.values[position]) for position in wanted],
        }
    )
