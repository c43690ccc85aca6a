"""Creates the two topics, or checks that they are what the settings say."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from runstream.ingest.queue.kafka.settings import KafkaSettings
from runstream.schemas.errors import ConfigError

logger = logging.getLogger(__name__)

_SETTLE_S = 30.0


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it should be. ``configs`` are Kafka's own topic settings."""

    name: str
    partitions: int
    replication_factor: int
    configs: dict[str, str]


def wanted_topics(settings: KafkaSettings) -> list[Topic]:
    """The metrics topic and that of the dead letters.

    ``compression.type=producer`` keeps batches as they come: records are compressed already. Timestamps are
    the broker's, so that retention never depends on a client's clock. A dead letter is a record and its
    headers, so its limit is a little larger.
    """
    common = {
        "min.insync.replicas": str(settings.min_insync_replicas),
        "cleanup.policy": "delete",
        "compression.type": "producer",
        "message.timestamp.type": "LogAppendTime",
        "unclean.leader.election.enable": "false",
    }
    metrics = {
        "retention.ms": str(settings.retention_ms),
        "max.message.bytes": str(settings.max_record_bytes),
    }
    letters = {
        "retention.ms": str(settings.dead_letter_retention_ms),
        "max.message.bytes": str(settings.max_record_bytes + (1 << 16)),
    }
    return [
        Topic(settings.topic, settings.partitions, settings.replication_factor, common | metrics),
        Topic(settings.dead_letter_topic, 1, settings.replication_factor, common | letters),
    ]


async def ensure_topics(settings: KafkaSettings, *, dry_run: bool = False) -> list[str]:
    """Create what is missing and check what is there; returns what was (or would be) done, a line each.

    Nothing that exists is changed. Raises ``ConfigError`` with one line when Kafka does not answer, refuses,
    or has a topic that differs from the settings.
    """
    client = AIOKafkaAdminClient(**settings.client_options())
    try:
        async with asyncio.timeout(settings.start_timeout_ms / 1000):
            await client.start()
            present = set(await client.list_topics())
            done = []
            for topic in wanted_topics(settings):
                if topic.name in present:
                    await _check(client, topic)
                    done.append(f"topic {topic.name} is there, as configured")
                elif dry_run:
                    done.append(f"topic {topic.name} is missing; would create it with {_partitions(topic)}")
                else:
                    await _create(client, topic)
                    done.append(f"created topic {topic.name} with {_partitions(topic)}")
            return done
    except (KafkaError, TimeoutError) as error:
        servers = ", ".join(settings.servers)
        raise ConfigError(
            f"cannot prepare Kafka's topics at {servers}: {error or type(error).__name__}"
        ) from error
    finally:
        await client.close()


def _partitions(topic: Topic) -> str:
    return "1 partition" if topic.partitions == 1 else f"{topic.partitions} partitions"


async def _create(client: AIOKafkaAdminClient, topic: Topic) -> None:
    new = NewTopic(topic.name, topic.partitions, topic.replication_factor, topic_configs=topic.configs)
    answer = await client.create_topics([new])
    for name, code, message, *_ in answer.topic_errors:
        if for_code(code) is TopicAlreadyExistsError:  # somebody else was quicker
            await _check(client, topic)
        elif code:
            raise ConfigError(f"Kafka does not create topic {name}: {message or for_code(code).__name__}")
    # Creating is asynchronous: wait until every partition has a leader.
    async with asyncio.timeout(_SETTLE_S):
        while True:
            (found,) = await client.describe_topics([topic.name])
            leaders = [partition["leader"] for partition in found["partitions"]]
            if len(leaders) == topic.partitions and all(leader >= 0 for leader in leaders):
                return
            await asyncio.sleep(0.05)


async def _check(client: AIOKafkaAdminClient, topic: Topic) -> None:
    (found,) = await client.describe_topics([topic.name])
    differences = []
    partitions = found["partitions"]
    if len(partitions) != topic.partitions:
        differences.append(f"partitions {len(partitions)} instead of {topic.partitions}")
    replicas = sorted({len(partition["replicas"]) for partition in partitions})
    if replicas and replicas != [topic.replication_factor]:
        differences.append(f"replication factor {replicas[0]} instead of {topic.replication_factor}")
    resource = ConfigResource(ConfigResourceType.TOPIC, topic.name, dict.fromkeys(topic.configs))
    for answer in await client.describe_configs([resource]):
        for code, message, _, _, entries in answer.resources:
            if code:
                raise ConfigError(
                    f"Kafka does not show topic {topic.name}: {message or for_code(code).__name__}"
                )
            for key, value, *_ in entries:
                if key in topic.configs and value != topic.configs[key]:
                    differences.append(f"{key} {value} instead of {topic.configs[key]}")
    if differences:
        raise ConfigError(
            f"Kafka's topic {topic.name} differs from the settings: {'; '.join(differences)}. "
            "Change the settings, or the topic with Kafka's own tools"
        )
