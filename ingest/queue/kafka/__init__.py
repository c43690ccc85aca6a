"""Apache Kafka as the queue: one topic for records, one for dead letters, one consumer group of writers."""

from runstream.ingest.queue.kafka.barrier import KafkaBarrier
from runstream.ingest.queue.kafka.consumer import KafkaConsumerQueue
from runstream.ingest.queue.kafka.producer import KafkaProducerQueue
from runstream.ingest.queue.kafka.settings import KafkaSettings
from runstream.ingest.queue.kafka.topics import ensure_topics

__all__ = ["KafkaBarrier", "KafkaConsumerQueue", "KafkaProducerQueue", "KafkaSettings", "ensure_topics"]
