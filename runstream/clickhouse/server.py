"""ClickHouse servers over HTTP."""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import clickhouse_connect
import lz4.frame
import pyarrow as pa
from clickhouse_connect.driver.httputil import get_pool_manager

from runstream.clickhouse.errors import translate
from runstream.clickhouse.sql import identifiers
from runstream.clickhouse.url import ClickHouseUrl
from runstream.schemas.ports.database import DatabaseError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

T = TypeVar("T")

_SESSION_SETTINGS = {
    "output_format_arrow_string_as_string": 1,
    "output_format_arrow_low_cardinality_as_dictionary": 0,
}
_INSERT_SETTINGS = {
    # Rows are deduplicated by merges and by readers; doing it at insert too doubles the insert's cost.
    "optimize_on_insert": 0,
    # An insert returns when it is done, on every shard.
    "async_insert": 0,
    "distributed_foreground_insert": 1,
}


class ServerDatabase:
    """``runstream.schemas.ports.database.Database`` on one or several equal hosts.

    Calls go to one host; when it cannot be reached they move on to the next one, at most once around.
    Repeating a statement whose outcome is unknown is harmless here: inserts carry tokens, and identical
    rows are one row.
    """

    def __init__(self, url: ClickHouseUrl) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._clients: dict[int, Client] = {}
        self._current = 0
        self._closed = False
        options: dict[str, Any] = {"maxsize": url.pool_size, "num_pools": len(url.hosts)}
        if url.server_host_name:
            options |= {"server_hostname": url.server_host_name}
            if url.verify:
                options |= {"assert_hostname": url.server_host_name}
        self._pool = get_pool_manager(
            verify=url.verify,
            ca_cert=url.ca_cert,
            client_cert=url.client_cert,
            client_cert_key=url.client_cert_key,
            **options,
        )

    def execute(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """See ``Database.execute``."""
        self._call(lambda client: client.command(sql, parameters=_copy(parameters), settings=_copy(settings)))

    def arrow(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """See ``Database.arrow``."""

        def run(client: Client) -> pa.Table:
            raw = client.raw_query(
                sql, parameters=_copy(parameters), settings=_copy(settings), fmt="ArrowStream"
            )
            return pa.ipc.open_stream(raw).read_all()

        return self._call(run)

    @contextlib.contextmanager
    def arrow_stream(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Iterator[Iterator[pa.RecordBatch]]:
        """See ``Database.arrow_stream``."""
        response: Any = self._call(
            lambda client: client.raw_stream(
                sql, parameters=_copy(parameters), settings=_copy(settings), fmt="ArrowStream"
            )
        )
        with contextlib.closing(response):
            yield _batches(response)

    def insert_native(
        self, table: str, columns: Sequence[str], block: bytes, *, deduplication_token: str | None = None
    ) -> None:
        """See ``Database.insert_native``."""
        settings: dict[str, Any] = dict(_INSERT_SETTINGS)
        if deduplication_token is not None:
            settings["insert_deduplication_token"] = deduplication_token
        compression = self._url.compression
        body = _COMPRESS[compression](block)
        # The columns' names are quoted by clickhouse-connect over chDB, but not over HTTP.
        target = f"{table} ({identifiers(columns)})"
        self._call(
            lambda client: client.raw_insert(
                target,
                insert_block=body,
                settings=settings,
                fmt="Native",
                compression=None if compression == "none" else compression,
            )
        )

    def ping(self) -> bool:
        """See ``Database.ping``."""
        try:
            return bool(self._call(lambda client: client.raw_query("SELECT 1")))
        except DatabaseError:
            return False

    def close(self) -> None:
        """See ``Database.close``."""
        with self._lock:
            self._closed = True
            clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            client.close()
        self._pool.clear()

    def _call(self, run: Callable[[Client], T]) -> T:
        failure: DatabaseError | None = None
        for _ in self._url.hosts:
            index = self._current
            try:
                return run(self._client(index))
            except Exception as error:
                failure = translate(error)
                if not (failure.retryable and failure.code is None):
                    raise failure from error
                with self._lock:
                    if self._current == index:
                        self._current = (index + 1) % len(self._url.hosts)
        assert failure is not None
        raise failure

    def _client(self, index: int) -> Client:
        with self._lock:
            if self._closed:
                raise DatabaseError("the ClickHouse connection is closed")
            client = self._clients.get(index)
        if client is None:
            client = self._open(index)
            with self._lock:
                client = self._clients.setdefault(index, client)
        return client

    def _open(self, index: int) -> Client:
        url = self._url
        host, port = url.hosts[index]
        return clickhouse_connect.get_client(
            interface=url.interface,
            host=host,
            port=port,
            username=url.username,
            password=url.password,
            database=url.database,
            compress=False if url.compression == "none" else url.compression,
            connect_timeout=url.connect_timeout_s,
            send_receive_timeout=url.timeout_s,
            client_cert=url.client_cert,
            server_host_name=url.server_host_name,
            query_retries=0,
            pool_mgr=self._pool,
            # Sessions forbid concurrent statements, and nothing here needs one.
            autogenerate_session_id=False,
            client_name="runstream",
            settings={**_SESSION_SETTINGS, **url.settings},
        )


def _zstd(block: bytes) -> bytes:
    packed: bytes = pa.compress(block, codec="zstd", asbytes=True)
    return packed


_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda block: block,
    "lz4": lz4.frame.compress,
    "zstd": _zstd,
    "gzip": lambda block: gzip.compress(block, 1),
}


def _copy(mapping: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return dict(mapping) if mapping else None


def _batches(response: Any) -> Iterator[pa.RecordBatch]:
    try:
        yield from pa.ipc.open_stream(response)
    except Exception as error:
        raise translate(error) from error
