"""Settings of every role: environment variables ``RUNSTREAM_*``, overridden by command-line flags.

Parsed and checked once, when a role starts; parts receive plain values. Addresses are URLs:

- queue: ``local://PATH`` or ``kafka://host:9092,host2:9092``
- ClickHouse: ``chdb://PATH`` or ``http(s)://user:password@host:8123/database``
- metadata: ``sqlite:///PATH`` or ``postgresql://…`` (SQLAlchemy's)
- artifacts: ``file:///PATH``, ``s3://bucket/prefix``, ``gs://…`` or ``az://…``
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from runstream.schemas.errors import ConfigError

_MIB = 1 << 20
_GIB = 1 << 30
_KAFKA_RECORD_BYTES = 6 * _MIB
MIN_QUEUE_BYTES = _MIB

QUEUE_SCHEMES = ("local", "kafka")
CLICKHOUSE_SCHEMES = ("chdb", "http", "https")
ARTIFACT_SCHEMES = ("file", "s3", "gs", "az", "memory")


class _Environment(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="RUNSTREAM_", frozen=True, extra="ignore")


class _Role(_Environment):
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")
    run_dir: Path | None = Field(
        None, description="folder shared by this machine's processes for counters; private if unset"
    )
    internal_token: SecretStr = Field(
        SecretStr(""), description="secret shared by the roles; the same on every machine"
    )

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
        return value.upper()


def _with_scheme(value: str, schemes: tuple[str, ...]) -> str:
    scheme = urlsplit(value).scheme
    if scheme not in schemes:
        raise ValueError(f"must begin with one of {', '.join(s + '://' for s in schemes)}")
    return value


def _prefix(value: str) -> str:
    if value and (not value.startswith("/") or value.endswith("/")):
        raise ValueError("must begin with / and not end with it")
    if value == "/runstream":
        raise ValueError("must not be /runstream, where Runstream's own page is")
    return value


StaticPrefix = Annotated[str, AfterValidator(_prefix)]


class QueueSettings(_Environment):
    """Where records are queued, for every role that appends or consumes."""

    queue: str = Field("local://runstream-data/log", description="local://PATH or kafka://host:9092,…")
    queue_max_bytes: int = Field(
        8 * _GIB,
        ge=MIN_QUEUE_BYTES,
        description=(
            "unconsumed bytes of the local log after which writes wait, then get 429, over all gateways of `serve`"
        ),
    )
    disk_reserve_bytes: int | None = Field(
        None,
        ge=0,
        description="free bytes that the local log leaves on its disk; chDB leaves half of them, artifacts twice as"
        " many; by default a twentieth of the disk, 32 MiB to 1 GiB",
    )
    kafka_partitions: int = Field(12, ge=1, description="partitions of the metrics topic")
    kafka_replication: int = Field(3, ge=1, description="replicas of each partition")
    kafka_min_insync: int = Field(
        2, ge=1, description="replicas that must have a record before it is acknowledged"
    )
    kafka_retention_hours: int = Field(72, ge=1, description="how long the topic keeps records")
    kafka_security: str = Field("PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL")
    kafka_sasl_mechanism: str = Field("PLAIN", description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
    kafka_user: str | None = Field(None, description="SASL user name")
    kafka_password: SecretStr | None = Field(None, description="SASL password")
    kafka_ca_file: Path | None = Field(None, description="certificates to check the brokers with")
    kafka_cert_file: Path | None = Field(
        None, description="this client's certificate, if brokers ask for one"
    )
    kafka_key_file: Path | None = Field(None, description="the certificate's key")
    kafka_session_timeout_ms: int = Field(
        10_000, ge=1_000, description="a silent writer loses its partitions after this"
    )
    kafka_compression: str = Field("none", description="none, lz4, zstd, gzip or snappy")

    @field_validator("kafka_security")
    @classmethod
    def _known_security(cls, value: str) -> str:
        if value not in ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"):
            raise ValueError("must be PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL")
        return value

    @field_validator("queue")
    @classmethod
    def _known_queue(cls, value: str) -> str:
        return _with_scheme(value, QUEUE_SCHEMES)


class _ClickHouse(_Environment):
    clickhouse: SecretStr = Field(
        SecretStr("chdb://runstream-data/clickhouse"), description="chdb://PATH or http(s)://…"
    )

    clickhouse_cluster: str | None = Field(
        None, description="cluster to migrate ON CLUSTER, with replicas and a Distributed table"
    )

    @field_validator("clickhouse")
    @classmethod
    def _known_clickhouse(cls, value: SecretStr) -> SecretStr:
        _with_scheme(value.get_secret_value(), CLICKHOUSE_SCHEMES)
        return value


class _Metadata(_Environment):
    metadata: SecretStr = Field(
        SecretStr("sqlite:///runstream-data/mlflow.db"), description="SQLAlchemy URL of MLflow's database"
    )


class _Artifacts(_Environment):
    artifacts: str = Field(
        "file:runstream-data/artifacts", description="file:///PATH, s3://…, gs://…, az://…"
    )

    artifacts_max_bytes: int | None = Field(None, ge=1, description="largest artifact; larger ones get 413")
    artifacts_max_files: int | None = Field(None, ge=1, description="most artifacts of one run or model")
    artifacts_memory: int = Field(384 * _MIB, ge=16 * _MIB, description="bytes that all transfers may hold")
    artifacts_stall_s: float = Field(60, gt=0, description="a transfer without progress ends after this")
    artifacts_direct: bool = Field(True, description="hand out signed addresses where the store can sign")
    artifacts_public_endpoint: str | None = Field(None, description="the S3 endpoint as clients see it")

    @field_validator("artifacts")
    @classmethod
    def _known_artifacts(cls, value: str) -> str:
        return _with_scheme(value, ARTIFACT_SCHEMES)


class _Listen(_Environment):
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(5000, ge=0, le=65535)
    fd: int | None = Field(None, description="an inherited listening socket, instead of host and port")


class GatewaySettings(_Role, _Listen, QueueSettings, _Artifacts):
    """``runstream gateway``."""

    inner_fd: int | None = Field(
        None, description="an inherited listening socket for this machine's own roles, without TLS"
    )
    tls_cert_file: Path | None = Field(
        None,
        description="certificate (PEM, its issuers after it) to serve HTTPS with; read again when it changes",
    )
    tls_key_file: Path | None = Field(
        None, description="the certificate's key, without a password; unset: it is in the same file"
    )
    tls_hsts_s: int = Field(
        0, ge=0, description="seconds for which browsers shall come by HTTPS only, to every port of the host"
    )

    tracking: str = Field("http://127.0.0.1:5001", description="URL of the MLflow server")
    query: str = Field("http://127.0.0.1:5002", description="URL of the query service")
    metadata: SecretStr | None = Field(
        None, description="SQLAlchemy URL of MLflow's database; unset: runs are left to the MLflow server"
    )
    allowed_hosts: str | None = Field(None, description="MLflow's --allowed-hosts")
    cors_allowed_origins: str | None = Field(None, description="MLflow's --cors-allowed-origins")
    static_prefix: StaticPrefix = Field("", description="MLflow's --static-prefix")
    basic_auth: bool = Field(False, description="the MLflow server runs with --app-name basic-auth")
    metrics_token: SecretStr = Field(
        SecretStr(""),
        description="bearer token for Prometheus, without which a gateway's `/metrics` is closed",
    )
    max_body_bytes: int = Field(16 * _MIB, ge=_MIB, description="largest log-batch body")
    max_arriving_bytes: int = Field(
        64 * _MIB, ge=_MIB, description="bytes of unfinished requests in memory; the slowest are ended"
    )
    linger_ms: float = Field(1.0, ge=0, description="how long a busy gateway collects points for one record")
    max_record_bytes: int = Field(_MIB, ge=4096, description="a record is closed at this size")
    max_pending_bytes: int = Field(
        128 * _MIB, ge=_MIB, description="accepted bytes not durable yet; then 429"
    )
    append_timeout_s: float = Field(
        15, gt=0, description="after this an append has failed and is tried again"
    )
    hold_s: float = Field(
        45,
        ge=0,
        description="how long a request waits for a part that is away; less than proxies wait for an answer",
    )
    verdict_ttl_s: float = Field(
        30, ge=0, description="how long 'this caller may write to this run' is remembered"
    )
    barrier_timeout_s: float = Field(10, ge=0, description="how long a read waits for earlier writes")
    drain_timeout_s: float = Field(10, ge=0, description="how long a stopping gateway finishes requests")

    @field_validator("tls_key_file")
    @classmethod
    def _has_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tls_cert_file") is None:
            raise ValueError("needs RUNSTREAM_TLS_CERT_FILE as well")
        return value

    @field_validator("max_record_bytes")
    @classmethod
    def _fits_kafka(cls, value: int, info: ValidationInfo) -> int:
        # A record is closed by the request that reaches the size, so it can be a request's points larger.
        if str(info.data.get("queue", "")).startswith("kafka:") and value > _KAFKA_RECORD_BYTES:
            raise ValueError(f"must be at most {_KAFKA_RECORD_BYTES}: the topic takes records of up to 8 MiB")
        return value


class StorageSettings(_Role, _Listen, QueueSettings, _ClickHouse, _Metadata):
    """``runstream writer``, ``runstream query``, and both in one process."""

    static_prefix: StaticPrefix = Field("", description="MLflow's --static-prefix")
    flush_rows: int = Field(300_000, ge=1, description="points after which a block is inserted")
    flush_ms: float = Field(200, ge=0, description="how long points wait for a block to fill")
    drain_timeout_s: float = Field(20, ge=0, description="how long a stopping writer applies what it holds")
    sql: bool = Field(True, description="whether users may send SQL over the metrics view")
    sql_clickhouse: SecretStr | None = Field(
        None,
        description="where their SQL runs, for a user with quotas of its own; `RUNSTREAM_CLICKHOUSE` if unset",
    )


class TrackingSettings(_Role, _Metadata, _Artifacts):
    """``runstream tracking``."""

    host: str = "127.0.0.1"
    port: int = Field(5001, ge=0, le=65535)
    fd: int | None = Field(None, description="an inherited listening socket, instead of host and port")
    gateway: str = Field(
        "http://127.0.0.1:5000", description="URL of the gateway, for points logged on the server"
    )
    query: str = Field("http://127.0.0.1:5002", description="URL of the query service")
    allowed_hosts: str | None = None
    cors_allowed_origins: str | None = Field(None, description="MLflow's --cors-allowed-origins")
    static_prefix: StaticPrefix = ""
    basic_auth: bool = False


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def load(role: type[SettingsT], **flags: Any) -> SettingsT:
    """A role's settings from the environment; flags that are not ``None`` win.

    Raises ``ConfigError`` with one line that names every wrong setting.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return role(**given)
    except ValidationError as error:
        faults = "; ".join(
            f"RUNSTREAM_{str(fault['loc'][0]).upper()} {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_input=False, include_url=False)
            if fault["loc"]
        )
        raise ConfigError(f"wrong settings: {faults}") from None
