"""The durable local log: the queue of the embedded set, append-only segments in a folder.

Each gateway process appends to a stream (partition) of its own; the one writer process reads them all. They
share nothing but the folder, so either may stop, be killed and start again while the other goes on.
"""

from runstream.ingest.queue.local.consumer import LocalLogConsumer
from runstream.ingest.queue.local.dead_letters import DeadLetter, read_dead_letters
from runstream.ingest.queue.local.producer import LocalLogProducer

__all__ = ["DeadLetter", "LocalLogConsumer", "LocalLogProducer", "read_dead_letters"]
