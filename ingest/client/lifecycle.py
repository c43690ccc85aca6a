"""Ends of a process: whatever ends it, the status of its runs is in the spool before anything is sent.

Handlers are put up in the main thread only, in front of those that are there, and call them. Nothing is done in
finalizers, and nothing in a forked child until it logs by itself.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Protocol


class Ending(Protocol):
    """A client, as far as its end goes."""

    def end(self, status: str | None) -> None:
        """Spool this status for every run under way, then send what there is, within a bound."""


class _State:
    def __init__(self) -> None:
        self.watched: list[Ending] = []
        self.previous: dict[int, Any] = {}
        self.hooked: Any = None
        self.at_exit = False
        # The status that an uncaught exception or a signal has given; nothing may overwrite it on the way out.
        self.final: str | None = None
        self.exiting = False
        self.lock = threading.RLock()


_state = _State()
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


def watch(client: Ending) -> None:
    """Look after a client's runs when this process ends."""
    with _state.lock:
        if client not in _state.watched:
            _state.watched.append(client)
        if not _state.at_exit:
            _state.at_exit = True
            atexit.register(_at_exit)
        if _state.hooked is None:
            _state.hooked = sys.excepthook
            sys.excepthook = _uncaught
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                _listen(number)


def forget() -> None:
    """In a forked child: the parent's runs are not ours to end."""
    _state.watched.clear()
    _state.final = None
    _state.exiting = False
    _state.lock = threading.RLock()


def final_status(status: str) -> str:
    """The status to spool for a run that is being ended with ``status``: on the way out of a process that failed or
    was told to stop, MLflow's own exit handler says FINISHED."""
    return _state.final if _state.final is not None and _state.exiting else status


def _listen(number: int) -> None:
    here = signal.getsignal(number)
    if here is _on_signal or here is None or here is signal.SIG_IGN:
        return
    if number == getattr(signal, "SIGUSR1", None) and here is signal.SIG_DFL and not _preemptible():
        # Left alone: what it means is the user's choice, except under schedulers that warn with it.
        return
    _state.previous[number] = here
    signal.signal(number, _on_signal)


def _preemptible() -> bool:
    return any(name in os.environ for name in ("SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID"))


def _end(status: str | None) -> None:
    for client in list(_state.watched):
        try:
            client.end(status)
        except Exception as error:
            print(f"runstream: ending failed: {error!r}", file=sys.stderr)


def _on_signal(number: int, stack: FrameType | None) -> None:
    previous = _state.previous.get(number, signal.SIG_DFL)
    if callable(previous):
        # A handler of the training's own decides what happens; the record says what is known now.
        _spool_killed()
        previous(number, stack)
        return
    _state.final, _state.exiting = "KILLED", True
    _end("KILLED")
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _spool_killed() -> None:
    # The chained handler may go on for long, or end the process at once: then this was the last word.
    for client in list(_state.watched):
        running = getattr(client, "running", {})
        statuses = dict(running)
        try:
            client.end("KILLED")
        except Exception as error:
            print(f"runstream: ending failed: {error!r}", file=sys.stderr)
        # It may as well go on: then it will end once more, with another status.
        running.update(statuses)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    hook = _state.hooked or sys.__excepthook__
    try:
        hook(kind, error, trace)
    finally:
        _state.final = "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
        _state.exiting = True


def _at_exit() -> None:
    _state.exiting = True
    _end(_state.final)
