"""The supervisor keeps its jobs, gives up what can never work, and leaves no child behind."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runstream.schemas.errors import ConfigError
from runstream.serve.supervisor import Job, Supervisor

WITHIN_S = 60


def job(code: str, name: str = "job", stop_rank: int = 0) -> Job:
    """A Python program as a job."""
    return Job(name, [sys.executable, "-c", code], stop_rank=stop_rank)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_job_that_cannot_be_started_yet_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program, started = tmp_path / "program", tmp_path / "started"
    ended: list[int] = []
    supervisor = Supervisor([Job("job", [str(program)])], stop_timeout_s=10, on_exit=ended.append)
    stop = asyncio.Event()
    running = asyncio.create_task(supervisor.run(stop))
    await until(lambda: "cannot be started" in caplog.text)
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {started}\nexec sleep 60\n")
    script.chmod(0o755)
    script.rename(program)
    await until(started.exists)
    assert not running.done()
    stop.set()
    await running


async def test_a_fault_of_its_own_is_not_swallowed() -> None:
    def broken(_: int) -> None:
        raise ValueError("a bug")

    supervisor = Supervisor([Job("job", ["true"])], stop_timeout_s=10, on_exit=broken)
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(ValueError, match="a bug"):
            await supervisor.run(asyncio.Event())


async def test_what_never_works_ends_with_its_last_line(capfd: pytest.CaptureFixture[str]) -> None:
    code = "import sys; print('first', file=sys.stderr); sys.exit('MlflowException: no password')"
    other = job("import time; time.sleep(600)", "other", stop_rank=1)
    supervisor = Supervisor([job(code, "tracking"), other], stop_timeout_s=10)
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(
            ConfigError, match=r"tracking cannot start \(status 1\): MlflowException: no password"
        ):
            await supervisor.run(asyncio.Event())
    assert capfd.readouterr().err.splitlines().count("first") == supervisor.restarts + 1


async def test_a_wrong_setting_is_said_once(capfd: pytest.CaptureFixture[str]) -> None:
    code = "import sys; print('runstream: the port is taken', file=sys.stderr); sys.exit(78)"
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(ConfigError, match=r"^the port is taken$"):
            await Supervisor([job(code)], stop_timeout_s=10).run(asyncio.Event())
    assert "port is taken" not in capfd.readouterr().err


async def test_what_has_worked_is_started_again_whatever_it_says(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    code = f"import sys; open({str(starts)!r}, 'a').write('x'); sys.exit(78)"
    supervisor = Supervisor([job(code)], stop_timeout_s=10)
    supervisor.ready()
    stop = asyncio.Event()
    running = asyncio.create_task(supervisor.run(stop))
    await until(lambda: starts.exists() and starts.stat().st_size > 4)
    assert not running.done()
    stop.set()
    await running


async def test_a_child_that_is_just_starting_is_stopped_too(tmp_path: Path) -> None:
    """Told to stop at any moment of a restart, the supervisor leaves nobody behind."""
    for moment in range(12):
        started, ended = tmp_path / f"started-{moment}", tmp_path / f"ended-{moment}"
        started.touch()
        ended.touch()
        # Every start is written down by the shell itself, every end by its trap.
        script = (
            f"echo >> {started}; trap 'echo >> {ended}; exit 0' TERM; sleep 0.05 & wait $!; echo >> {ended}"
        )
        supervisor = Supervisor([Job("job", ["/bin/sh", "-c", script])], stop_timeout_s=30)
        supervisor.ready()
        stop = asyncio.Event()
        running = asyncio.create_task(supervisor.run(stop))
        await until(lambda started=started: started.stat().st_size > 0)  # type: ignore[misc]
        for _ in range(moment):
            await asyncio.sleep(0.013)
        stop.set()
        await running
        assert started.stat().st_size - ended.stat().st_size <= 1  # killed before its trap was set, at most
