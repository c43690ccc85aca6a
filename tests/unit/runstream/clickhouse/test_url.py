"""ClickHouse URLs."""

from __future__ import annotations

import pytest

from runstream.clickhouse import parse_url
from runstream.schemas.errors import ConfigError


def test_embedded() -> None:
    url = parse_url("chdb:///data/a%20b?max_server_memory_usage=1000&pool_size=3")
    assert (url.path, url.database, url.pool_size) == ("/data/a b", "runstream", 3)
    assert url.settings == {"max_server_memory_usage": "1000"}
    assert parse_url("chdb://relative/folder").path == "relative/folder"


def test_server_with_everything() -> None:
    url = parse_url(
        "https://me:p%40ss%3Aword@one,two:9000,[::1]:8124,[fe80::2]/points"
        "?compression=zstd&connect_timeout=3&timeout=20&verify=false&ca_cert=/ca.pem&max_threads=2"
    )
    assert url.interface == "https"
    assert url.hosts == (("one", 8443), ("two", 9000), ("::1", 8124), ("fe80::2", 8443))
    assert (url.username, url.password, url.database) == ("me", "p@ss:word", "points")
    assert (url.compression, url.connect_timeout_s, url.timeout_s) == ("zstd", 3, 20)
    assert (url.verify, url.ca_cert) == (False, "/ca.pem")
    assert url.settings == {"max_threads": "2"}
    assert "p@ss" not in repr(url)


def test_server_by_default() -> None:
    url = parse_url("http://host")
    assert url.path is None
    assert url.hosts == (("host", 8123),)
    assert (url.username, url.password, url.database) == (None, "", "runstream")
    assert (url.compression, url.verify, url.settings) == ("lz4", True, {})


@pytest.mark.parametrize(
    "text",
    [
        "", "host:8123", "tcp://host:9000", "chdb://", "http://", "http://a,,b", "http://a:0", "http://a:port",
        "http://a:70000", "http://[::1", "http://a?compression=rar", "http://a?timeout=0", "http://a?verify=x",
        "http://a?timeout=soon", "chdb:///x?pool_size=0",
    ],
)  # fmt: skip
def test_malformed(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_url(text)
    assert "\n" not in str(raised.value)


def test_errors_do_not_show_the_password() -> None:
    with pytest.raises(ConfigError) as raised:
        parse_url("http://me:s3cret@host:port/db")
    assert "s3cret" not in str(raised.value)
