"""The supervisor keeps its jobs, also where one cannot be started for a while."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from runstream.serve.supervisor import Job, Supervisor


async def test_a_job_that_cannot_be_started_yet_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program, started = tmp_path / "program", tmp_path / "started"
    ended: list[int] = []
    supervisor = Supervisor([Job("job", [str(program)])], stop_timeout_s=10, on_exit=ended.append)
    stop = asyncio.Event()
    running = asyncio.create_task(supervisor.run(stop))
    async with asyncio.timeout(30):
        while "cannot be started" not in caplog.text:
            await asyncio.sleep(0.01)
        script = tmp_path / "script"
        script.write_text(f"#!/bin/sh\ntouch {started}\nexec sleep 60\n")
        script.chmod(0o755)
        script.rename(program)
        while not started.exists():
            await asyncio.sleep(0.01)
    assert not running.done()
    stop.set()
    await running


async def test_a_fault_of_its_own_is_not_swallowed() -> None:
    def broken(_: int) -> None:
        raise ValueError("a bug")

    supervisor = Supervisor([Job("job", ["true"])], stop_timeout_s=10, on_exit=broken)
    async with asyncio.timeout(30):
        with pytest.raises(ValueError, match="a bug"):
            await supervisor.run(asyncio.Event())
