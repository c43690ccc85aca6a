"""kill -9 of the local log's producer and consumer processes at random moments, under load.

The ledgers are files of their own: the producer's process writes a record's name there after its append was
acknowledged, the consumer's process writes what it received before it commits.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS = 20
_SEGMENT_BYTES = 60_000

_PRODUCER = """
import asyncio, os, random, sys
from runstream.ingest.queue.local import LocalLogProducer

async def main(log, ledger, name, segment_bytes):
    producer = LocalLogProducer(log, segment_bytes=segment_bytes)
    await producer.start()
    fd = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    dice, numbers = random.Random(name), iter(range(10**9))

    async def client():
        while True:
            record = f"{name}:{next(numbers)}\\n"
            padding = dice.randbytes(dice.choice((0, 10, 500, 5000)))
            await producer.append(producer.stream, record.encode() + padding)
            os.write(fd, record.encode())

    await asyncio.gather(*(client() for _ in range(8)))

asyncio.run(main(*sys.argv[1:4], int(sys.argv[4])))
"""

_CONSUMER = """
import asyncio, os, sys
from runstream.ingest.queue.local import LocalLogConsumer

async def main(log, ledger):
    consumer = LocalLogConsumer(log)
    await consumer.start()
    fd = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while True:
        messages = await consumer.poll(max_bytes=100_000, timeout_s=1)
        lines = []
        for m in messages:
            name = m.payload.split(b"\\n", 1)[0].decode() if not m.fault else "fault"
            lines.append(f"{m.partition} {m.offset} {name}\\n")
        os.write(fd, "".join(lines).encode())
        await consumer.commit({m.partition: m.next_offset for m in messages})

asyncio.run(main(*sys.argv[1:3]))
"""


def test_every_acknowledged_append_is_consumed(tmp_path: Path) -> None:
    dice = random.Random(os.environ.get("RUNSTREAM_TEST_SEED", "crash"))
    log, ledger, received = tmp_path / "log", tmp_path / "acknowledged", tmp_path / "received"
    ledger.touch()
    received.touch()

    def start_consumer() -> subprocess.Popen[bytes]:
        return _start(_CONSUMER, log, received)

    consumer = start_consumer()
    try:
        for number in range(ROUNDS):
            before = ledger.stat().st_size
            producer = _start(_PRODUCER, log, ledger, f"round{number}", _SEGMENT_BYTES)
            try:
                _wait_for(lambda size=before: ledger.stat().st_size > size)  # type: ignore[misc]
                time.sleep(dice.uniform(0, 0.15))
                if dice.random() < 0.4:
                    consumer.kill()
                    consumer.wait()
                    if dice.random() < 0.5:
                        time.sleep(dice.uniform(0, 0.05))
                        consumer = start_consumer()
            finally:
                producer.kill()
                producer.wait()
            if consumer.poll() is not None:
                consumer = start_consumer()
        acknowledged = ledger.read_text().split()
        missing = set(acknowledged)

        def everything_received() -> bool:
            missing.difference_update(line.split()[2] for line in received.read_text().splitlines())
            return not missing

        _wait_for(everything_received)
    finally:
        consumer.kill()
        consumer.wait()

    assert len(acknowledged) > 50 * ROUNDS
    places: dict[tuple[int, int], str] = {}
    for line in received.read_text().splitlines():
        stream, offset, name = line.split()
        assert places.setdefault((int(stream), int(offset)), name) == name, "an offset was used twice"
    assert "fault" not in places.values()
    names = [name for _, name in sorted(places.items())]
    assert len(names) == len(set(names)), "each record lies in the log once"
    for number in range(ROUNDS):
        order = [int(name.split(":")[1]) for name in names if name.startswith(f"round{number}:")]
        assert order == sorted(order), "records of one producer keep their order"


def _start(program: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)])


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within a minute"
        time.sleep(0.01)
