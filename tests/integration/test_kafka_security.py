"""TLS with client certificates and SASL, on a broker that lets nobody in without."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contracts.queue_backends import KafkaBackend, drain

from runstream.ingest.queue.kafka import KafkaProducerQueue, KafkaSettings
from runstream.schemas.errors import ConfigError
from support.kafka import KafkaCluster

_PASSWORD = "wonderland"


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


def make_certificates(directory: Path) -> None:
    """An authority (``ca.pem``), and ``server`` and ``client`` with keys, signed by it; all PEM."""
    request = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _openssl(directory, *request, "-x509", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for name in ("server", "client"):
        _openssl(directory, *request, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        sign = ["x509", "-req", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names"]
        _openssl(directory, *sign, "-in", f"{name}.csr", "-out", f"{name}.pem")
    stored = (directory / "server.key").read_text() + (directory / "server.pem").read_text()
    (directory / "server-both.pem").write_text(stored)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaCluster, Path]]:
    certificates = tmp_path_factory.mktemp("certificates")
    make_certificates(certificates)
    security = "org.apache.kafka.common.security"
    extra = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificates / "server-both.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificates / "ca.pem"),
        "listener.name.client.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.client.plain.sasl.jaas.config": (
            f"{security}.plain.PlainLoginModule required "
            f'username="alice" password="{_PASSWORD}" user_alice="{_PASSWORD}";'
        ),
        "listener.name.client.scram-sha-256.sasl.jaas.config": f"{security}.scram.ScramLoginModule required;",
        "listener.name.client.scram-sha-512.sasl.jaas.config": f"{security}.scram.ScramLoginModule required;",
    }
    users = [
        option
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        for option in ("--add-scram", f"{mechanism}=[name=alice,password={_PASSWORD}]")
    ]
    cluster = KafkaCluster(
        tmp_path_factory.mktemp("kafka"), extra=extra, protocol="SASL_SSL", format_options=tuple(users)
    )
    with cluster:
        yield cluster, certificates


def _options(certificates: Path, **changes: Any) -> dict[str, Any]:
    return {
        "tls": True,
        "ca_file": str(certificates / "ca.pem"),
        "cert_file": str(certificates / "client.pem"),
        "key_file": str(certificates / "client.key"),
        "sasl_mechanism": "SCRAM-SHA-512",
        "username": "alice",
        "password": _PASSWORD,
    } | changes


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_records_travel_encrypted_and_authenticated(
    secured: tuple[KafkaCluster, Path], mechanism: str
) -> None:
    cluster, certificates = secured
    queue = KafkaBackend(tuple(cluster.servers), **_options(certificates, sasl_mechanism=mechanism))
    try:
        producer, consumer = await queue.producer(), await queue.consumer()
        barrier = await queue.barrier()
        await asyncio.gather(*(producer.append(i % 3, b"secret") for i in range(10)))
        messages = await drain(consumer, 10)
        await consumer.commit({m.partition: m.next_offset for m in messages})
        assert await barrier.wait(None, 10)
        await consumer.dead_letter(messages[0], "for the test")
        assert consumer.dead_letters_stored == 1
    finally:
        await queue.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"password": "jabberwock"},
        {"tls": False},
        {"cert_file": None, "key_file": None},
        {"ca_file": None},
    ],
)
async def test_who_may_not_enter_is_told_in_one_line(
    secured: tuple[KafkaCluster, Path], wrong: dict[str, Any]
) -> None:
    cluster, certificates = secured
    settings = KafkaSettings(
        tuple(cluster.servers),
        **_options(certificates, **wrong),
        start_timeout_ms=0,
        request_timeout_ms=3_000,
    )
    with pytest.raises(ConfigError, match=r"^cannot reach Kafka at [^\n]*$") as refused:
        await KafkaProducerQueue(settings).start()
    assert _PASSWORD not in str(refused.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    settings = KafkaSettings(("127.0.0.1:1",), tls=True, ca_file=str(tmp_path / "nowhere.pem"))
    with pytest.raises(ConfigError, match="TLS"):
        settings.client_options()
