"""Apache Kafka as the queue: one topic for records, one for dead letters, one consumer group of writers."""

from ingest.queue.kafka.barrier import KafkaBarrier
from ingest.queue.kafka.consumer import KafkaConsumerQueue
from ingest.queue.kafka.producer import KafkaProducerQueue
from ingest.queue.kafka.settings import KafkaSettings
from ingest.queue.kafka.topics import ensure_topics

__all__ = ["KafkaBarrier", "KafkaConsumerQueue", "KafkaProducerQueue", "KafkaSettings", "ensure_topics"]
