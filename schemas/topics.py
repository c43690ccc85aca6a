"""Names of topics and consumer groups, and the rule that maps a run to its partition."""

from __future__ import annotations

import zlib

METRICS_TOPIC = "runstream.metrics.v1"
DEAD_LETTER_TOPIC = "runstream.metrics.v1.dlq"
WRITER_GROUP = "runstream.writer.v1"


def partition_of(run_id: str, partitions: int) -> int:
    """The partition of a run: a stable hash, the same in every process and release.

    All points of a run share a partition, so that one writer owns the run. CRC-32 is enough: run ids are random.
    """
    return zlib.crc32(run_id.encode()) % partitions
