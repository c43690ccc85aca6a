"""What the Kafka queue needs to know, checked before anything connects."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any

from aiokafka.codec import has_lz4, has_snappy, has_zstd
from aiokafka.helpers import create_ssl_context

from runstream.schemas.errors import ConfigError
from runstream.schemas.topics import DEAD_LETTER_TOPIC, METRICS_TOPIC, WRITER_GROUP

SASL_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")

_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """Where Kafka is and how to use it. Times in milliseconds, sizes in bytes.

    Raises ``ConfigError`` with one line when something cannot be right.
    """

    servers: tuple[str, ...]
    client_id: str = "runstream"
    topic: str = METRICS_TOPIC
    dead_letter_topic: str = DEAD_LETTER_TOPIC
    group: str = WRITER_GROUP

    # Security: TLS with the system's authorities unless ca_file is given; a client certificate if the broker
    # asks.
    tls: bool = False
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    key_password: str | None = field(default=None, repr=False)
    sasl_mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    # The topics, as `ensure_topics` creates and checks them.
    partitions: int = 12
    replication_factor: int = 3
    min_insync_replicas: int = 2
    retention_ms: int = 7 * _DAY_MS
    dead_letter_retention_ms: int = 30 * _DAY_MS
    max_record_bytes: int = 8 << 20

    # Producer. aiokafka keeps one request in flight per broker and one batch per partition, so what arrives
    # during a round trip forms the next batch: lingering would add latency and no throughput.
    compression: str = "none"
    linger_ms: int = 0
    batch_bytes: int = 1 << 20
    max_pending_bytes: int = 64 << 20
    append_timeout_ms: int = 10_000
    request_timeout_ms: int = 10_000

    # Consumer
    partition_fetch_bytes: int = 4 << 20
    fetch_bytes: int = 32 << 20
    session_timeout_ms: int = 10_000
    heartbeat_interval_ms: int = 1_000
    rebalance_timeout_ms: int = 30_000
    start_timeout_ms: int = 60_000

    def __post_init__(self) -> None:
        if not self.servers or not all(_is_address(server) for server in self.servers):
            raise ConfigError(
                f"Kafka needs its servers as host:port, not {', '.join(self.servers) or 'none'}"
            )
        if self.sasl_mechanism is not None and self.sasl_mechanism not in SASL_MECHANISMS:
            raise ConfigError(f"Kafka's SASL mechanism must be one of {', '.join(SASL_MECHANISMS)}")
        if self.sasl_mechanism is not None and not (self.username and self.password):
            raise ConfigError(
                f"Kafka's SASL mechanism {self.sasl_mechanism} needs a user name and a password"
            )
        if self.compression not in COMPRESSIONS:
            raise ConfigError(f"Kafka's compression must be one of {', '.join(COMPRESSIONS)}")
        available = {"snappy": has_snappy, "lz4": has_lz4, "zstd": has_zstd}.get(self.compression)
        if available is not None and not available():
            raise ConfigError(f"Kafka's compression {self.compression} needs the package cramjam")
        if not 1 <= self.min_insync_replicas <= self.replication_factor:
            raise ConfigError("Kafka's min.insync.replicas must be between 1 and the replication factor")

    def client_options(self) -> dict[str, Any]:
        """The options that every aiokafka client takes."""
        protocol = ("SASL_" if self.sasl_mechanism else "") + ("SSL" if self.tls else "PLAINTEXT")
        options: dict[str, Any] = {
            "bootstrap_servers": list(self.servers),
            "client_id": self.client_id,
            "request_timeout_ms": self.request_timeout_ms,
            "security_protocol": protocol,
            # A partition that has got a new leader is found by its error; this is for the rest.
            "metadata_max_age_ms": 60_000,
        }
        if self.tls:
            options["ssl_context"] = self._ssl_context()
        if self.sasl_mechanism:
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.username
            options["sasl_plain_password"] = self.password
        return options

    def _ssl_context(self) -> ssl.SSLContext:
        try:
            context: ssl.SSLContext = create_ssl_context(
                cafile=self.ca_file,
                certfile=self.cert_file,
                keyfile=self.key_file,
                password=self.key_password,
            )
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"Kafka's TLS files cannot be used: {error}") from error
        return context


def _is_address(server: str) -> bool:
    host, colon, port = server.rpartition(":")
    return bool(host and colon and port.isdigit() and 0 < int(port) < 65536)
