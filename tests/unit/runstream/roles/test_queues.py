"""The queue's settings reach the queue."""

from __future__ import annotations

from pathlib import Path

import pytest

from runstream.roles.queues import kafka_settings, open_producer
from runstream.schemas.errors import ConfigError
from runstream.settings import GatewaySettings, QueueSettings, load

KAFKA = "kafka://127.0.0.1:9"


async def test_a_local_append_has_the_time_and_the_room_that_were_set(tmp_path: Path) -> None:
    settings = load(QueueSettings, queue=f"local://{tmp_path}")
    producer = await open_producer(settings, append_timeout_s=77, max_pending_bytes=3 << 20)
    try:
        assert producer._deadline_s == 77  # type: ignore[attr-defined]
        assert producer._max_pending_bytes == 3 << 20  # type: ignore[attr-defined]
    finally:
        await producer.close()


def test_so_has_one_to_kafka() -> None:
    found = kafka_settings(
        load(QueueSettings, queue=KAFKA), append_timeout_s=77.5, max_pending_bytes=200 << 20
    )
    assert (found.append_timeout_ms, found.max_pending_bytes) == (77_500, 200 << 20)


def test_a_record_that_kafka_would_refuse_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match="RUNSTREAM_MAX_RECORD_BYTES must be at most"):
        load(GatewaySettings, queue=KAFKA, max_record_bytes=8 << 20)
    assert load(GatewaySettings, queue="local://log", max_record_bytes=8 << 20).max_record_bytes == 8 << 20
