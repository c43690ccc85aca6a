"""Keeps the processes of one machine's set running: starts them, restarts the ones that die, stops all in order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from runstream.schemas.errors import ConfigError
from runstream.serve.child_output import Output
from runstream.serve.lifeline import PARENT_VARIABLE

_log = logging.getLogger(__name__)

# What a role exits with when its settings or its surroundings are wrong: restarting cannot help (sysexits.h).
EXIT_CONFIG = 78

_FIRST_BACKOFF_S = 0.1
_LONGEST_BACKOFF_S = 5.0
_HEALTHY_AFTER_S = 20.0
# A job that ends so often before everything has worked once never will.
_DEATHS_BEFORE_READY = 4


@dataclass(frozen=True, slots=True)
class Job:
    """A process to keep running. Jobs with a smaller ``stop_rank`` are stopped first."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    descriptors: Sequence[int] = ()
    stop_rank: int = 0


class Supervisor:
    """Runs jobs until ``stop`` is set or one of them can never work.

    Until ``ready`` is called, once everything has answered, a job that says so (status 78) or ends four times
    can never work. After that whatever ends is started again for ever: what worked can work again.

    Standard output of the children is this process's own; what they write to standard error is passed on to it.
    ``on_exit`` is told the process id of every child that has ended; it may block, and runs in a thread.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        stop_timeout_s: float,
        on_exit: Callable[[int], None] = lambda pid: None,
    ) -> None:
        self._jobs = jobs
        self._stop_timeout_s = stop_timeout_s
        self._on_exit = on_exit
        self._ready = False
        # Set once all is being stopped, and, per rank, once it is that rank's turn.
        self._stopping = asyncio.Event()
        self._turns = {job.stop_rank: asyncio.Event() for job in jobs}
        self._deadline = float("inf")
        self._failure: str | None = None
        self._failed = asyncio.Event()
        self.restarts = 0

    def ready(self) -> None:
        """Everything has answered: from now on nothing that ends is a reason to give up."""
        self._ready = True

    async def run(self, stop: asyncio.Event) -> None:
        """Keep every job running until ``stop`` is set; then stop all, within the one deadline.

        Raises ``ConfigError`` with the last line of a job that can never work.
        """
        keepers = [(job.stop_rank, asyncio.create_task(self._keep(job))) for job in self._jobs]
        ends = [asyncio.create_task(event.wait()) for event in (stop, self._failed)]
        try:
            await asyncio.wait(
                (*ends, *(keeper for _, keeper in keepers)), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for end in ends:
                end.cancel()
            await self._stop_all(keepers)
        for _, keeper in keepers:
            if (error := keeper.exception()) is not None:
                raise error
        if self._failure is not None:
            raise ConfigError(self._failure)

    async def _stop_all(self, keepers: Sequence[tuple[int, asyncio.Task[None]]]) -> None:
        self._deadline = time.monotonic() + self._stop_timeout_s
        self._stopping.set()
        for rank, turn in sorted(self._turns.items()):
            turn.set()
            # Each keeper sees its own child off, one that it was just starting included.
            await asyncio.wait([keeper for of_rank, keeper in keepers if of_rank == rank])

    async def _keep(self, job: Job) -> None:
        """One job's owner: whatever it has started has ended when this returns."""
        backoff_s = _FIRST_BACKOFF_S
        deaths = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                child, output = await self._start(job)
            except OSError as error:
                # No process, memory or descriptor to be had: that can pass.
                _log.error("a process cannot be started", extra={"job": job.name, "error": str(error)})
            else:
                if not await self._ended(job, child):
                    return
                deaths += 1
                last_line = await output.close()
                await self._forget(job, child.pid)
                status = child.returncode
                if not self._ready and (status == EXIT_CONFIG or deaths >= _DEATHS_BEFORE_READY):
                    self._give_up(job, status, last_line)
                    return
                if time.monotonic() - started > _HEALTHY_AFTER_S:
                    backoff_s = _FIRST_BACKOFF_S
                self.restarts += 1
                _log.warning(
                    "a process ended and is started again",
                    extra={"job": job.name, "status": status, "backoff_s": backoff_s, "last_line": last_line},
                )
            try:
                async with asyncio.timeout(backoff_s):
                    await self._stopping.wait()
            except TimeoutError:
                pass
            backoff_s = min(backoff_s * 2, _LONGEST_BACKOFF_S)

    def _give_up(self, job: Job, status: int | None, last_line: str) -> None:
        if self._failure is None:
            said = last_line.removeprefix("runstream: ")
            if status == EXIT_CONFIG:
                self._failure = said or f"{job.name} cannot work as it is configured, and does not say why"
            else:
                self._failure = f"{job.name} cannot start (status {status}): {said or 'it does not say why'}"
        self._failed.set()

    async def _start(self, job: Job) -> tuple[asyncio.subprocess.Process, Output]:
        child = await asyncio.create_subprocess_exec(
            *job.arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **job.environment, PARENT_VARIABLE: str(os.getpid())},
            pass_fds=tuple(job.descriptors),
            # Ctrl-C in a terminal reaches the whole foreground group; the order of stopping is ours to keep.
            start_new_session=True,
        )
        assert child.stderr is not None
        _log.info("started", extra={"job": job.name, "pid": child.pid})
        # What says why it cannot work is said once, by whoever started everything.
        return child, Output(child.stderr, hold_back="runstream: ")

    async def _ended(self, job: Job, child: asyncio.subprocess.Process) -> bool:
        """Wait for the child's end; ``False`` if it was stopped, or ended while everything is being stopped."""
        ending = asyncio.create_task(child.wait())
        turn = asyncio.create_task(self._turns[job.stop_rank].wait())
        await asyncio.wait((ending, turn), return_when=asyncio.FIRST_COMPLETED)
        turn.cancel()
        if self._stopping.is_set():
            _signal(child, signal.SIGTERM)
            await asyncio.wait((ending,), timeout=max(0.0, self._deadline - time.monotonic()))
            if child.returncode is None:
                _log.warning("killed after the deadline", extra={"pid": child.pid})
                _signal(child, signal.SIGKILL)
        await ending
        return not self._stopping.is_set()

    async def _forget(self, job: Job, pid: int) -> None:
        try:
            await asyncio.to_thread(self._on_exit, pid)
        except OSError as error:
            _log.warning("counters of an ended process stay", extra={"job": job.name, "error": str(error)})


def _signal(child: asyncio.subprocess.Process, number: int) -> None:
    if child.returncode is None:
        try:
            child.send_signal(number)
        except ProcessLookupError:
            pass
