"""Sending a spool folder from another process or machine: ``runstream sync``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from runstream.ingest.client.artifacts import waiting
from runstream.ingest.client.delivery import Report
from runstream.ingest.client.link import Link
from runstream.ingest.client.reader import SpoolFile, spool_files
from runstream.ingest.client.sender import Sender
from runstream.schemas import frame
from runstream.schemas.errors import BadRecordError

_POLL_S = 1.0


@dataclass
class RunState:
    """What a spool holds of one run: ``left_bytes`` of ``bytes`` are not delivered, nor are ``artifacts`` files.
    ``status`` is the last one spooled, ``live`` whether a process may still be writing."""

    run_id: str
    uri: str
    bytes: int = 0
    left_bytes: int = 0
    points: int = 0
    artifacts: int = 0
    skipped_bytes: int = 0
    status: str = ""
    live: bool = False
    problems: list[str] = field(default_factory=list)


def examine(spool: Path) -> list[RunState]:
    """Every run in a spool, without sending or changing anything."""
    runs: dict[Path, RunState] = {}
    for path in spool_files(spool):
        try:
            file = SpoolFile.open(path)
        except (OSError, BadRecordError) as error:
            state = runs.setdefault(path.parent, RunState(path.parent.name, ""))
            state.problems.append(f"{path.name}: {error}")
            continue
        if file is None:
            continue
        state = runs.setdefault(path.parent, RunState(file.run_id, file.uri))
        size = file.size()
        state.bytes += size
        state.left_bytes += max(size - file.cursor, 0)
        state.live |= not file.finished()
        _look_through(file, state)
    for folder, state in runs.items():
        state.artifacts = len(waiting(folder))
    return list(runs.values())


def _look_through(file: SpoolFile, state: RunState) -> None:
    at, file.skipped = 0, 0
    while (piece := file.read(at)) is not None:
        for one in piece.frames:
            if one.kind == frame.STATUS:
                state.status = str(frame.decode_json(piece.buffer, one).get("status") or state.status)
            elif piece.start + one.end > file.cursor:
                state.points += one.points
        at = piece.end
    state.skipped_bytes += file.skipped


@dataclass
class Syncing:
    """How a sync is doing: ``left_bytes`` of ``total_bytes`` seen so far, per server its report, and its troubles."""

    total_bytes: int = 0
    left_bytes: int = 0
    reports: dict[str, Report] = field(default_factory=dict)
    troubles: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether everything has been delivered, or refused for good."""
        return self.left_bytes == 0


def sync(
    spool: Path,
    *,
    uri: str | None = None,
    follow: bool = False,
    keep: bool = False,
    give_up_after_s: float = 60.0,
    stop: Callable[[], bool] = lambda: False,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Syncing]:
    """Send a spool; yields how it is doing, the last time when it is done.

    ``uri`` overrules the server that the files name. With ``follow`` it goes on with what is being written until
    ``stop`` says so; otherwise it ends when nothing is left, or when no server has taken anything for
    ``give_up_after_s``.
    """
    state = Syncing()
    senders: dict[str, Sender] = {}
    quiet_since = time.monotonic()
    least = -1
    while True:
        for place in {uri.rstrip("/")} if uri else _places(spool):
            if place not in senders:
                senders[place] = _sender(place, spool, state, keep=keep, everything=uri is not None)
        whole = True
        for sender in senders.values():
            sender.rescan()
            whole &= sender.attempt(time.monotonic() + 5.0)
        state.reports = {place: sender.delivery.report for place, sender in senders.items()}
        state.left_bytes = sum(sender.left() for sender in senders.values())
        state.total_bytes = max(state.total_bytes, state.left_bytes)
        yield state
        if progress := state.left_bytes != least:
            least, quiet_since = state.left_bytes, time.monotonic()
        waits = any(sender.link.state.state in ("away", "denied") for sender in senders.values())
        if stop() or (not follow and whole and state.complete):
            break
        if not follow and time.monotonic() - quiet_since >= give_up_after_s:
            break
        if follow or waits or not progress:
            sleep(_POLL_S)
    if not keep:
        _tidy(spool)
    yield state


def _sender(place: str, spool: Path, state: Syncing, *, keep: bool, everything: bool) -> Sender:
    def take(file: SpoolFile) -> bool:
        return everything or file.uri.rstrip("/") == place

    return Sender(
        Link(place),
        spool,
        lambda: (),
        lambda kind, text: state.troubles.__setitem__(kind, text),
        keep=keep,
        take=take,
    )


def _places(spool: Path) -> set[str]:
    found = set()
    for path in spool_files(spool):
        try:
            file = SpoolFile(path)
            file.read(0, 1 << 16)
        except (OSError, BadRecordError):
            continue
        if file.uri:
            found.add(file.uri.rstrip("/"))
    return found


def _tidy(spool: Path) -> None:
    """Remove folders of runs that have nothing left to send and that nobody writes to."""
    for folder in (spool / "runs").glob("*"):
        if any(spool_files(spool, folder)) or waiting(folder):
            continue
        for marks in folder.glob("*.ack-*"):
            if not marks.name.startswith("artifacts."):
                marks.unlink(missing_ok=True)
        if not any(folder.glob("*.rsf")):
            shutil.rmtree(folder, ignore_errors=True)
