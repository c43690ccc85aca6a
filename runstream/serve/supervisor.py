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
from runstream.serve.lifeline import PARENT_VARIABLE

_log = logging.getLogger(__name__)

# What a role exits with when its settings or its surroundings are wrong: restarting cannot help (sysexits.h).
EXIT_CONFIG = 78

_FIRST_BACKOFF_S = 0.1
_LONGEST_BACKOFF_S = 5.0
_HEALTHY_AFTER_S = 20.0


@dataclass(frozen=True, slots=True)
class Job:
    """A process to keep running. Jobs with a smaller ``stop_rank`` are stopped first."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    descriptors: Sequence[int] = ()
    stop_rank: int = 0


class Supervisor:
    """Runs jobs until ``stop`` is called or one of them can never work.

    Standard output and error of the children are this process's own. ``on_exit`` is told the process id of
    every child that has ended.
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
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._stopping = False
        self.failed = asyncio.Event()
        self.restarts = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Keep every job running until ``stop`` is set; then stop all, within the one deadline.

        Raises ``ConfigError`` when a job says that it cannot work as configured.
        """
        keepers = [asyncio.create_task(self._keep(job)) for job in self._jobs]
        stopped = asyncio.create_task(stop.wait())
        failed = asyncio.create_task(self.failed.wait())
        try:
            await asyncio.wait((stopped, failed, *keepers), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stopping = True
            stopped.cancel()
            failed.cancel()
            await self._stop_all()
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
        for keeper in keepers:
            if not keeper.cancelled() and (error := keeper.exception()) is not None:
                raise error
        if self.failed.is_set():
            raise ConfigError("a part could not start; its own message is above")

    async def _keep(self, job: Job) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while not self._stopping:
            started = time.monotonic()
            try:
                child = await self._start(job)
            except OSError as error:
                # No process, memory or descriptor to be had: that can pass.
                _log.error("a process cannot be started", extra={"job": job.name, "error": str(error)})
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, _LONGEST_BACKOFF_S)
                continue
            status = await child.wait()
            if self._stopping:
                return
            try:
                self._on_exit(child.pid)
            except OSError as error:
                _log.warning(
                    "counters of an ended process stay", extra={"job": job.name, "error": str(error)}
                )
            if status == EXIT_CONFIG:
                self.failed.set()
                return
            if time.monotonic() - started > _HEALTHY_AFTER_S:
                backoff_s = _FIRST_BACKOFF_S
            self.restarts += 1
            _log.warning(
                "a process ended and is started again",
                extra={"job": job.name, "status": status, "backoff_s": backoff_s},
            )
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, _LONGEST_BACKOFF_S)

    async def _start(self, job: Job) -> asyncio.subprocess.Process:
        child = await asyncio.create_subprocess_exec(
            *job.arguments,
            stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, **job.environment, PARENT_VARIABLE: str(os.getpid())},
            pass_fds=tuple(job.descriptors),
            # Ctrl-C in a terminal reaches the whole foreground group; the order of stopping is ours to keep.
            start_new_session=True,
        )
        self._children[job.name] = child
        _log.info("started", extra={"job": job.name, "pid": child.pid})
        return child

    async def _stop_all(self) -> None:
        deadline = time.monotonic() + self._stop_timeout_s
        for rank in sorted({job.stop_rank for job in self._jobs}):
            children = [
                self._children[job.name]
                for job in self._jobs
                if job.stop_rank == rank and job.name in self._children
            ]
            for child in children:
                _signal(child, signal.SIGTERM)
            waits = [asyncio.create_task(child.wait()) for child in children]
            if waits:
                await asyncio.wait(waits, timeout=max(0.0, deadline - time.monotonic()))
            for child, wait in zip(children, waits, strict=True):
                if child.returncode is None:
                    _log.warning("killed after the deadline", extra={"pid": child.pid})
                    _signal(child, signal.SIGKILL)
                await wait


def _signal(child: asyncio.subprocess.Process, number: int) -> None:
    if child.returncode is None:
        try:
            child.send_signal(number)
        except ProcessLookupError:
            pass
