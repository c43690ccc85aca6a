"""Sends what is in the spool, in a thread of its own or in the caller's, and knows how much is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from runstream.ingest.client.artifacts import has_artifacts, waiting
from runstream.ingest.client.delivery import Delivery
from runstream.ingest.client.link import AwayError, BusyError, DeniedError, Link, NotYetError, RefusedError
from runstream.ingest.client.reader import SpoolFile, spool_files
from runstream.schemas.errors import BadRecordError

T = TypeVar("T")
_INTERVAL_S = 0.5
_RESCAN_S = 5.0
_LONGEST_PAUSE_S = 30.0


class Sender:
    """Delivers the files of one spool to one server.

    ``own`` lists this process's files (and whether each is free of torn writes); files of other processes that log to
    the same runs, and of dead processes of this machine, are taken along. Sending twice, by whomever, is harmless.
    """

    def __init__(
        self,
        link: Link,
        spool: Path,
        own: Callable[[], Iterable[tuple[Path, bool]]],
        complain: Callable[[str, str], None],
        *,
        keep: bool = False,
        take: Callable[[SpoolFile], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.link = link
        self.delivery = Delivery(link, complain, spool)
        self.files: dict[Path, SpoolFile] = {}
        # Folders of runs that have artifacts of their own, and the runs.
        self._folders: dict[Path, str] = {}
        self._spool = spool
        self._own = own
        self._complain = complain
        self._keep = keep
        self._take = take or self._may_take
        self._clock = clock
        self._busy = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._rescan_at = 0.0
        self._pause_s = 0.0
        self._not_before = 0.0
        self._gone: set[Path] = set()

    # --- the thread --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread, if it does not run and can be started."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="runstream-sender", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            # The interpreter is going down: who flushes sends by itself.
            self._thread = None

    def stop(self) -> None:
        """Let the thread end; it is not waited for."""
        self._stopping = True
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(max(_INTERVAL_S, min(self._not_before - self._clock(), _LONGEST_PAUSE_S)))
            self._wake.clear()
            if self._stopping:
                return
            try:
                self.attempt(self._clock() + 60.0)
            except Exception as error:  # the thread is all that sends: it goes on, and says what it met
                self._complain("sender", f"sending failed, and is tried again: {error!r}")
                self._back_off(0.0)

    # --- sending -----------------------------------------------------------------------------------------------

    def attempt(self, deadline: float, *, strict: bool = False) -> bool:
        """Send what is there now, until the server is away, or ``deadline``; whether all of it was sent. ``strict``: a
        request under way is not waited for beyond that either."""
        if not self._busy.acquire(timeout=max(deadline - self._clock(), 0.0)):
            return False
        self.link.deadline = deadline if strict else float("inf")
        try:
            self._discover()
            done = self._send_all(deadline)
        except AwayError as error:
            self._back_off(error.after_s)
            minutes = (time.time() - self.link.state.since) / 60
            if minutes >= 1:
                self._complain(
                    "away",
                    f"{self.link.uri} has been unreachable for {minutes:.0f} minutes: {error};"
                    f" points wait in {self._spool}",
                )
        except DeniedError as error:
            self._back_off(0.0, longest=5.0)
            minutes = (time.time() - self.link.state.since) / 60
            self._complain(
                "denied",
                f"credentials for {self.link.uri} are not accepted ({error}), for {minutes:.0f} minutes now;"
                f" points wait in {self._spool}",
            )
        else:
            self._pause_s = self._not_before = 0.0
            return done
        finally:
            self.link.deadline = float("inf")
            self._busy.release()
        return False

    def probe(self, timeout_s: float) -> None:
        """Ask the server what it is; raises ``AwayError`` or ``DeniedError``."""
        self.do(lambda link: link.ask(timeout_s), timeout_s)

    def do(self, ask: Callable[[Link], T], timeout_s: float = 10.0) -> T:
        """Use the link between two of its requests; ``AwayError`` if it is busy for longer than ``timeout_s``."""
        if not self._busy.acquire(timeout=timeout_s):
            raise AwayError("the connection is busy")
        try:
            return ask(self.link)
        finally:
            self._busy.release()

    def _send_all(self, deadline: float) -> bool:
        again = True
        # As far as the files go now: beside a training there is always something new after a request, and to send that
        # at once would make a request of every few points.
        ends = {path: file.size() or float("inf") for path, file in self.files.items()}
        # Files whose next piece the server does not take now, while it takes others.
        stuck: dict[Path, AwayError | DeniedError] = {}
        while again:
            again = False
            for path, file in sorted(self.files.items(), key=_in_order):
                if self._clock() >= deadline:
                    return False
                if path not in stuck and file.cursor < ends[path]:
                    again |= self._step(path, file, stuck)
        for waits in stuck.values():
            raise waits
        whole = self._send_artifacts(deadline)
        for path, file in list(self.files.items()):
            # Its artifacts first: the file says which server they are for.
            if not self._keep and file.done() and not waiting(path.parent):
                file.remove()
                self._drop(path)
        return whole

    def _step(self, path: Path, file: SpoolFile, stuck: dict[Path, AwayError | DeniedError]) -> bool:
        """Deliver the next piece of a file; whether there may be more."""
        try:
            return self.delivery.step(file)
        except (AwayError, DeniedError) as error:
            if not error.only_this:
                raise
            stuck[path] = error
        except BusyError:
            pass
        except NotYetError as error:
            self._complain(f"no run {file.run_id}", f"{error}; what is logged to it waits in {self._spool}")
        except FileNotFoundError:
            # Somebody else has delivered and removed it.
            self._drop(path)
        except (BadRecordError, RefusedError, OSError) as error:
            self._drop(path)
            self._complain(f"file {path.name}", f"{path} cannot be sent: {error}")
        return False

    def _send_artifacts(self, deadline: float) -> bool:
        """What MLflow has copied into the folders of runs that were begun without a server."""
        for folder, run_id in list(self._folders.items()):
            if self._clock() >= deadline:
                return False
            try:
                self.delivery.artifacts(folder, run_id)
            except RefusedError as error:
                if error.no_such_run:
                    continue
                self._complain(f"artifacts {run_id}", f"artifacts of run {run_id} are refused: {error}")
                del self._folders[folder]
            except OSError as error:
                self._complain(f"artifacts {run_id}", f"artifacts of run {run_id} cannot be read: {error}")
        return True

    def _add(self, file: SpoolFile) -> None:
        self.files[file.path] = file
        if has_artifacts(file.path.parent):
            self._folders[file.path.parent] = file.run_id

    def _drop(self, path: Path) -> None:
        self.files.pop(path, None)
        self._gone.add(path)

    def _back_off(self, after_s: float, longest: float = _LONGEST_PAUSE_S) -> None:
        self._pause_s = min(max(2 * self._pause_s, 0.5, after_s), max(longest, after_s))
        self._not_before = self._clock() + self._pause_s

    def _discover(self) -> None:
        """Take in files that are new since the last time."""
        for path, whole in self._own():
            if path in self._gone:
                continue
            if (file := self.files.get(path)) is not None:
                file.trusted = whole
                if path.parent not in self._folders and has_artifacts(path.parent):
                    self._folders[path.parent] = file.run_id
            elif (found := _opened(path)) is not None:
                found.trusted = whole
                self._add(found)
        if self._clock() < self._rescan_at:
            return
        self._rescan_at = self._clock() + _RESCAN_S
        for path in spool_files(self._spool):
            if path not in self.files and path not in self._gone:
                found = _opened(path)
                if found is not None and self._take(found):
                    self._add(found)

    def _may_take(self, file: SpoolFile) -> bool:
        if file.uri.rstrip("/") != self.link.uri:
            return False
        return file.path.parent in {path.parent for path, _ in self._own()} or file.finished()

    # --- waiting -----------------------------------------------------------------------------------------------

    def flush(self, timeout_s: float) -> int:
        """Send what has been spooled so far, in this thread; how many bytes are left. Never raises.

        A server that is known to be away gets one attempt, so that nobody waits for it again and again.
        """
        deadline = self._clock() + timeout_s
        self.rescan()
        while not self.attempt(deadline, strict=True):
            if self._not_before > self._clock() or self._clock() >= deadline:
                break
        return self.left()

    def rescan(self) -> None:
        """Look for other processes' files at the next attempt, whenever the last look was."""
        self._rescan_at = 0.0

    def left(self) -> int:
        """Bytes that are not delivered, of the files known."""
        known = {path: file.cursor for path, file in list(self.files.items())}
        for path, _ in self._own():
            if path not in self._gone:
                known.setdefault(path, 0)
        total = 0
        for path, cursor in known.items():
            try:
                total += max(path.stat().st_size - cursor, 0)
            except OSError:
                pass
        return total


def _in_order(pair: tuple[Path, SpoolFile]) -> tuple[int, str]:
    """A run that went on in another process has said there what holds now: older files go first."""
    path, file = pair
    return int(file.about.get("created_ms", 0)), str(path)


def _opened(path: Path) -> SpoolFile | None:
    try:
        return SpoolFile.open(path)
    except (OSError, BadRecordError, RefusedError):
        return None
