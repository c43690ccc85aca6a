"""The ClickHouse URL: where the engine is, and what it is told at connect."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from runstream.schemas.errors import ConfigError

DEFAULT_DATABASE = "runstream"
# Every thread that reads or writes in one process has a connection (``query.service.QueryConfig`` has 15, and there are
# the writer's and those of work in the background), so that reads of one kind never wait for another's.
DEFAULT_POOL_SIZE = 20
_DEFAULT_PORTS = {"http": 8123, "https": 8443}
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}
_COMPRESSIONS = {"none", "lz4", "zstd", "gzip"}


@dataclass(frozen=True, slots=True)
class ClickHouseUrl:
    """A parsed ``RUNSTREAM_CLICKHOUSE``.

    ``path`` is chDB's folder, and ``None`` for a server. Options in the query string: ``compression``
    (none, lz4, zstd, gzip; default lz4), ``connect_timeout`` and ``timeout`` (seconds), ``verify``,
    ``ca_cert``, ``client_cert``, ``client_cert_key``, ``server_host_name``, ``pool_size`` (connections).
    Every other option is a ClickHouse setting; for chDB also a server setting such as
    ``max_server_memory_usage``.
    """

    database: str
    path: str | None = None
    interface: str = "http"
    hosts: tuple[tuple[str, int], ...] = ()
    username: str | None = None
    password: str = field(default="", repr=False)
    compression: str = "lz4"
    connect_timeout_s: int = 10
    timeout_s: int = 300
    pool_size: int = DEFAULT_POOL_SIZE
    verify: bool = True
    ca_cert: str | None = None
    client_cert: str | None = None
    client_cert_key: str | None = field(default=None, repr=False)
    server_host_name: str | None = None
    settings: dict[str, str] = field(default_factory=dict)


def parse_url(url: str) -> ClickHouseUrl:
    """Parse a URL; raises ``ConfigError`` (which never repeats the password)."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"the ClickHouse URL is malformed: {error}") from None
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme == "chdb":
        path = unquote(parts.netloc + parts.path)
        if not path:
            raise ConfigError("the ClickHouse URL needs a folder: chdb:///PATH")
        pool_size = _integer(options, "pool_size", DEFAULT_POOL_SIZE)
        return ClickHouseUrl(database=DEFAULT_DATABASE, path=path, pool_size=pool_size, settings=options)
    if parts.scheme not in _DEFAULT_PORTS:
        raise ConfigError(
            f"the ClickHouse URL must begin with chdb:// or http(s)://, not {parts.scheme or 'nothing'}://"
        )
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    compression = options.pop("compression", "lz4")
    if compression not in _COMPRESSIONS:
        raise ConfigError(f"ClickHouse compression must be one of {', '.join(sorted(_COMPRESSIONS))}")
    return ClickHouseUrl(
        database=unquote(parts.path.strip("/")) or DEFAULT_DATABASE,
        interface=parts.scheme,
        hosts=tuple(_host(host, _DEFAULT_PORTS[parts.scheme]) for host in hosts.split(",")),
        username=unquote(username) or None,
        password=unquote(password),
        compression=compression,
        connect_timeout_s=_integer(options, "connect_timeout", 10),
        timeout_s=_integer(options, "timeout", 300),
        pool_size=_integer(options, "pool_size", DEFAULT_POOL_SIZE),
        verify=_boolean(options, "verify", True),
        ca_cert=options.pop("ca_cert", None),
        client_cert=options.pop("client_cert", None),
        client_cert_key=options.pop("client_cert_key", None),
        server_host_name=options.pop("server_host_name", None),
        settings=options,
    )


def _host(text: str, default_port: int) -> tuple[str, int]:
    """``host``, ``host:port``, ``[v6]`` or ``[v6]:port``."""
    name, port = text, ""
    if text.startswith("["):
        name, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif ":" in text:
        name, _, port = text.rpartition(":")
    if not name or (port and not (port.isdecimal() and 0 < int(port) < 65536)):
        raise ConfigError("the ClickHouse URL has a host that is not HOST or HOST:PORT")
    return name, int(port) if port else default_port


def _integer(options: dict[str, str], name: str, default: int) -> int:
    text = options.pop(name, None)
    if text is None:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{name} in the ClickHouse URL must be a whole number above zero")
    return int(text)


def _boolean(options: dict[str, str], name: str, default: bool) -> bool:
    text = options.pop(name, str(default)).lower()
    if text not in _TRUE | _FALSE:
        raise ConfigError(f"{name} in the ClickHouse URL must be true or false")
    return text in _TRUE
