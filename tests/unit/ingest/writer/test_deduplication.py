"""Insert deduplication tokens."""

from __future__ import annotations

from runstream.ingest.queue.protocol import Message
from runstream.ingest.writer.sink import deduplication_token


def messages(*places: tuple[int, int]) -> list[Message]:
    return [Message(partition, offset, offset + 1, b"") for partition, offset in places]


def test_names_the_place_and_the_content() -> None:
    token = deduplication_token("metrics", messages((1, 5), (0, 3), (1, 6), (0, 9)), b"block")
    assert token == deduplication_token("metrics", messages((0, 3), (0, 9), (1, 5), (1, 6)), b"block")
    assert token.startswith("metrics/0:3-9;1:5-6/")
    others = {
        deduplication_token("other", messages((0, 3), (0, 9), (1, 5), (1, 6)), b"block"),
        deduplication_token("metrics", messages((0, 3), (0, 9), (1, 5), (1, 7)), b"block"),
        deduplication_token("metrics", messages((0, 3), (0, 9), (1, 5), (1, 6)), b"other"),
    }
    assert len(others | {token}) == 4


def test_stays_short_with_many_partitions() -> None:
    places = [(partition, partition * 10**9) for partition in range(500)]
    token = deduplication_token("metrics", messages(*places), b"")
    assert len(token) < 250
    assert token != deduplication_token("metrics", messages(*places[:-1]), b"")
