"""The filter that keeps aiokafka's log readable."""

from __future__ import annotations

import logging

import pytest

from runstream.ingest.queue.kafka.quiet import RepeatFilter


def test_repeats_are_counted_instead_of_logged(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    log = logging.getLogger("a.client")
    repeats = RepeatFilter(every_s=10, clock=lambda: now[0])
    log.addFilter(repeats)
    try:
        for second in range(25):
            now[0] = second
            log.error("cannot connect to %s", "node 2")
            log.info("try %d", second)
        log.error("something else")
    finally:
        log.removeFilter(repeats)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "cannot connect to node 2",
        "cannot connect to node 2 (and 9 like it)",
        "cannot connect to node 2 (and 9 like it)",
        "something else",
    ]
