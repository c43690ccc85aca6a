"""What one process knows of one server and its spool: an open file for each run, and the sender behind them."""

from __future__ import annotations

import os
import threading
import time
import uuid
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runstream.ingest.client import lifecycle
from runstream.ingest.client.link import AwayError, DeniedError, Link, current_workspace
from runstream.ingest.client.sender import Sender
from runstream.ingest.client.settings import SpoolSettings
from runstream.ingest.client.spool import RunSpool, now_ms, run_folder
from runstream.schemas import frame

_CLOSED_KEPT, _CLOSED_MOST = 32, 256
_PROBE_S = 3.0
# A server that did not answer is not asked again for this long.
_AWAY_S = 10.0
# What a server has answered says for this long that it is there: MLflow's own calls would try again for minutes.
_FRESH_S = 5.0
_KEY_SPACE = uuid.UUID("6b9f6b0e-5c4c-4f0b-9d5e-2b7a9f1f7a11")


class SpoolWarning(UserWarning):
    """Something that the spool could not take or deliver; each kind is said once."""


@dataclass(frozen=True)
class SpoolStatus:
    """How the client of one server is doing. ``state`` is ``up``, ``away``, ``denied``, ``offline`` or ``unknown``, for
    ``state_s`` seconds, because of ``reason``; ``waiting_bytes`` are spooled and not delivered; ``dropped`` points were
    lost; ``refused`` is what the server does not take, with its reasons; ``errors`` what else went wrong."""

    uri: str
    folder: str
    state: str
    state_s: float
    reason: str
    waiting_bytes: int
    points: int
    sent_points: int
    dropped: int
    refused: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def numbers(self) -> dict[str, float]:
        """What a chart of it shows: bytes that wait, points dropped, names refused, other errors, and for how many
        seconds the server has not taken anything."""
        return {
            "spool_waiting_bytes": float(self.waiting_bytes),
            "spool_dropped_points": float(self.dropped),
            "spool_refused": float(len(self.refused)),
            "spool_errors": float(len(self.errors)),
            "spool_away_seconds": self.state_s if self.state in ("away", "denied") else 0.0,
        }


class Client:
    """Thread-safe. In a forked child everything of the parent's is let go (``lifecycle``)."""

    def __init__(self, uri: str, settings: SpoolSettings) -> None:
        self.uri = uri.rstrip("/")
        self.settings = settings
        self.spools: dict[str, RunSpool] = {}
        # Runs that this process has started and not ended: they end with it.
        # True: by ``runstream.start_run``; MLflow has an exit handler for its own.
        self.running: dict[str, bool] = {}
        self.errors: dict[str, str] = {}
        self._created = 0
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._closed: deque[RunSpool] = deque()
        self._past: list[tuple[Path, bool]] = []
        self._points = self._dropped = 0
        self._grow_until = 0.0
        self._asked_at = 0.0
        self._may_grow = True
        self.link = Link(self.uri, self.settings.token)
        self.sender = Sender(
            self.link, self.settings.folder, self._own_files, self.complain, keep=self.settings.keep
        )

    def after_fork(self) -> None:
        """In the child: the files, the connection and the thread are the parent's."""
        for spool in self.spools.values():
            spool.forget()
        self.spools.clear()
        self.running.clear()
        self._begin()

    # --- logging -----------------------------------------------------------------------------------------------

    def spool(self, run_id: str) -> RunSpool:
        """This process's file for a run, opened when something is written."""
        spool = self.spools.get(run_id)
        if spool is not None:
            return spool
        with self._lock:
            spool = self.spools.get(run_id)
            if spool is None:
                spool = self.spools[run_id] = RunSpool(
                    run_folder(self.settings.folder, run_id),
                    self._about(run_id),
                    self.complain,
                    sync=self.settings.sync,
                    may_grow=self._has_room,
                )
                lifecycle.watch(self)
                if not self.settings.offline:
                    self.sender.start()
            return spool

    def _about(self, run_id: str) -> dict[str, Any]:
        about = {"run_id": run_id, "uri": self.uri}
        if workspace := current_workspace():
            about["workspace"] = workspace
        return about

    def status_record(
        self, run_id: str, status: str | None, end_time_ms: int | None, run_name: str | None = None
    ) -> None:
        """Spool what a run's status (or name) is; the record is written when this returns."""
        value: dict[str, Any] = {"time_ms": now_ms()}
        if status is not None:
            value["status"] = status
        if end_time_ms is not None:
            value["end_time"] = end_time_ms
        if run_name:
            value["run_name"] = run_name
        self.spool(run_id).record(frame.STATUS, value)
        if status in ("RUNNING", "SCHEDULED"):
            self.running.setdefault(run_id, False)
        elif status is not None:
            self.running.pop(run_id, None)
            self._close(run_id)

    def _close(self, run_id: str) -> None:
        """A run has ended here: its file is closed, and its descriptor some time later."""
        with self._lock:
            spool = self.spools.pop(run_id, None)
            if spool is None:
                return
            spool.close()
            self._closed.append(spool)
            spool.closed_s = time.monotonic()
            # Not at once: another thread may still be logging to a run that has just ended.
            while len(self._closed) > _CLOSED_KEPT and (
                len(self._closed) > _CLOSED_MOST or spool.closed_s - self._closed[0].closed_s > 5.0
            ):
                self._settle(self._closed.popleft())

    def _settle(self, spool: RunSpool) -> None:
        spool.forget()
        self._points += spool.points
        self._dropped += spool.dropped
        self._past += [(part.path, not part.torn) for part in spool.parts]
        self._past = [(path, whole) for path, whole in self._past if path.exists()]

    def new_run_id(self) -> str:
        """An id for a run that is created here. With RUNSTREAM_RUN_KEY the first, second, … run that a process creates
        gets the same ids again in every process with that key."""
        if not self.settings.run_key:
            return uuid.uuid4().hex
        with self._lock:
            number, self._created = self._created, self._created + 1
        named = f"{self.uri}\n{self.settings.run_key}" + (f"\n{number}" if number else "")
        return uuid.uuid5(_KEY_SPACE, named).hex

    # --- delivery ----------------------------------------------------------------------------------------------

    def flush(self, timeout_s: float | None = None) -> int:
        """Send what is spooled; bytes left after at most ``timeout_s`` (default: the settings')."""
        if self.settings.offline:
            return self.sender.left()
        return self.sender.flush(self.settings.flush_timeout_s if timeout_s is None else timeout_s)

    def online(self) -> bool:
        """Whether the server answers, as far as is known; asks if nothing is known, for a few seconds at most."""
        if self.settings.offline:
            return False
        state = self.link.state
        if state.state == "up" and time.monotonic() - state.heard < _FRESH_S:
            return True
        if state.state in ("away", "denied") and time.monotonic() - self._asked_at < _AWAY_S:
            return state.state == "denied"
        self._asked_at = time.monotonic()
        try:
            self.sender.probe(_PROBE_S)
        except AwayError:
            return False
        except DeniedError:
            # MLflow's own call will say so.
            return True
        return True

    def unanswered(self, what: str) -> str:
        """The sentence to raise with where ``what`` cannot be answered without the server."""
        state = self.status()
        why = "which is not asked (RUNSTREAM_OFFLINE)"
        if state.state != "offline":
            why = f"which is not there ({state.state}: {state.reason})"
        waiting = f"; {self.left_sentence(state.waiting_bytes)}" if state.waiting_bytes else ""
        return f"{what} needs the server {self.uri}, {why}{waiting}"

    def end(self, status: str | None) -> None:
        """This process ends: the status of what it has running is spooled first, then everything is sent, for at most
        the time that the settings give. ``None``: it ends well, and MLflow's exit handler sees to MLflow's runs."""
        for run_id, ours in list(self.running.items()):
            if status is not None or ours:
                self.status_record(run_id, status or "FINISHED", now_ms())
        for run_id in list(self.spools):
            self._close(run_id)
        self.flush()

    def left_sentence(self, left: int) -> str:
        """What to tell a user whose points are not all sent."""
        return (
            f"{left:,} bytes wait in {self.settings.folder} ({self.link.state.reason or 'the server was not asked'});"
            f" send them with: runstream sync {self.settings.folder}"
        )

    def status(self) -> SpoolStatus:
        """How things are, without asking anybody."""
        open_ones = [*self.spools.values(), *self._closed]
        state = self.link.state
        return SpoolStatus(
            uri=self.uri,
            folder=str(self.settings.folder),
            state="offline" if self.settings.offline else state.state,
            state_s=time.time() - state.since if state.since else 0.0,
            reason=state.reason,
            waiting_bytes=self.sender.left(),
            points=self._points + sum(spool.points for spool in open_ones),
            sent_points=self.sender.delivery.report.points,
            dropped=self._dropped + sum(spool.dropped for spool in open_ones),
            refused=dict(self.sender.delivery.report.refused),
            errors=dict(self.errors),
        )

    def complain(self, kind: str, sentence: str) -> None:
        """Warn once of a kind; keep the newest sentence for ``status``."""
        new = kind not in self.errors
        if len(self.errors) < 1_000 or not new:
            self.errors[kind] = sentence
        if new:
            try:
                warnings.warn(f"runstream: {sentence}", SpoolWarning, stacklevel=3)
            except Warning:
                pass  # a training that makes errors of warnings goes on all the same

    def _own_files(self) -> Iterator[tuple[Path, bool]]:
        with self._lock:
            spools = [*self.spools.values(), *self._closed]
            past = list(self._past)
        yield from past
        for spool in spools:
            for part in list(spool.parts):
                yield part.path, not part.torn

    def _has_room(self) -> bool:
        """Whether the spool may grow, looked up at most once a second."""
        now = time.monotonic()
        if now >= self._grow_until:
            self._grow_until = now + 1.0
            self._may_grow = _size(self.settings.folder) < self.settings.max_bytes
        return self._may_grow


def _size(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size  # noqa: PTH118
            except OSError:
                pass
    return total


_clients: dict[tuple[str, Path], Client] = {}
_clients_lock = threading.Lock()


def client_for(uri: str, settings: SpoolSettings) -> Client:
    """The process's one client for a server and a spool."""
    key = (uri.rstrip("/"), settings.folder)
    with _clients_lock:
        found = _clients.get(key)
        if found is None:
            found = _clients[key] = Client(uri, settings)
        return found


def all_clients() -> list[Client]:
    """Every client of this process."""
    return list(_clients.values())


def _after_fork_in_child() -> None:
    global _clients_lock
    _clients_lock = threading.Lock()
    lifecycle.forget()
    for client in list(_clients.values()):
        client.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
