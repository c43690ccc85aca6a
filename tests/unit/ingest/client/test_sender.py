"""The sender waits longer after each failure, and begins again with short pauses once something has been sent."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from runstream.ingest.client.link import AwayError, Link
from runstream.ingest.client.sender import Sender


def test_pauses_grow_while_the_server_is_away_and_begin_again_after_a_success(tmp_path: Path) -> None:
    now, away = 100.0, True

    def own() -> Iterable[tuple[Path, bool]]:
        if away:
            raise AwayError("nobody there")
        return ()

    sender = Sender(Link("http://127.0.0.1:9"), tmp_path, own, lambda *_: None, clock=lambda: now)

    def pause_s() -> float:
        sender.attempt(now + 60.0)
        return max(sender._not_before - now, 0.0)

    assert [pause_s() for _ in range(4)] == [0.5, 1.0, 2.0, 4.0]
    away = False
    assert pause_s() == 0.0
    away = True
    assert pause_s() == 0.5
