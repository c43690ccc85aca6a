"""chDB: the ClickHouse engine in this process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
from clickhouse_connect.driver.binding import bind_query

from runstream.clickhouse.errors import translate
from runstream.clickhouse.pool import Pool
from runstream.clickhouse.sql import identifiers, literal, settings_clause
from runstream.clickhouse.url import ClickHouseUrl
from runstream.process.disk import free_bytes, reserve_bytes
from runstream.schemas.errors import ConfigError
from runstream.schemas.ports.database import DatabaseError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

# Settings of the engine itself, for a process that shares its machine; an option in the URL wins.
_ENGINE_OPTIONS = {
    "mark_cache_size": "67108864",
    "primary_index_cache_size": "67108864",
    # A bound for what goes wrong; full load takes about 450 MB.
    "max_server_memory_usage": "2000000000",
    # Under full load, inserts and reads come before merges; merges keep a third of an equal share.
    "os_threads_nice_value_merge_mutate": "5",
    "log-level": "fatal",
}
# Counted by the engine for every write to a file that the disk refuses (src/Common/ProfileEvents.cpp).
_REFUSED_WRITES = "SELECT value FROM system.events WHERE event = 'WriteBufferFromFileDescriptorWriteFailed'"
_NOT_ENOUGH_SPACE = 243
_SESSION_SETTINGS = {
    "output_format_arrow_string_as_string": 1,
    "output_format_arrow_low_cardinality_as_dictionary": 0,
    "output_format_arrow_compression_method": "none",
    # Rows are deduplicated by merges and by readers; doing it at insert too doubles the insert's cost.
    "optimize_on_insert": 0,
    # Blocks arrive under reused file names, so nothing may be remembered about a name.
    "schema_inference_use_cache_for_file": 0,
}


class EmbeddedDatabase:
    """``runstream.schemas.ports.database.Database`` on chDB; also holds the folder's lock until ``close``.

    chDB serialises the queries of one connection, so calls borrow connections from a bounded pool.

    chDB (4.4) goes on when the disk refuses a write: it puts parts in place whose files are empty or cut short, and
    reports success. So nothing is inserted while less than half of ``reserve_bytes`` is free, and what was written
    while a write was refused is an error, to be repeated.

    What ``execute`` does happens inside ``changing`` of the statement: for who keeps rows in memory, and has to forget
    them.
    """

    def __init__(self, url: ClickHouseUrl, *, reserve: int | None = None) -> None:
        assert url.path is not None
        try:
            import chdb
            import clickhouse_connect
        except ImportError as error:
            raise ConfigError(
                f"chdb:// needs the embedded extra: pip install 'runstream[embedded]' ({error})"
            ) from error
        self._connect_chdb = chdb.connect
        self._connect_client = clickhouse_connect.get_client
        self._folder = Path(url.path).resolve()
        self._database = url.database
        self._options = {**_ENGINE_OPTIONS, **url.settings}
        self._lock_file = _lock(self._folder)
        self.reserve_bytes = reserve_bytes(self._folder, reserve)
        self.changing: Callable[[str], contextlib.AbstractContextManager[None]] = lambda _: (
            contextlib.nullcontext()
        )
        self._counting = threading.Lock()
        self._refused = 0
        if not self.has_room():
            self._lock_file.close()
            raise ConfigError(f"the disk is full: {self._room()}; make room at {self._folder}")
        self._clients: Pool[Client] = Pool(self._open_client, lambda client: client.close(), url.pool_size)
        self._streams = threading.BoundedSemaphore(url.pool_size)
        try:
            # The server settings of the first connection are the engine's. It also keeps the engine open.
            options = "&".join(f"{name}={value}" for name, value in self._options.items())
            self._engine = chdb.connect(f"{self._folder}?{options}")
            self._engine.query(f"CREATE DATABASE IF NOT EXISTS {identifiers([url.database])} ENGINE = Atomic")
        except Exception as error:
            self._lock_file.close()
            raise ConfigError(f"chDB cannot open {self._folder}: {str(translate(error))[:300]}") from error

    def execute(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """See ``Database.execute``."""
        with self.changing(sql), self._complete(), self._client() as client:
            client.command(sql, parameters=_copy(parameters), settings=_copy(settings))

    def arrow(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """See ``Database.arrow``."""
        with self._client() as client:
            # As a clause: clickhouse-connect would run two SET statements per setting around the query.
            raw = client.raw_query(
                sql + settings_clause(settings), parameters=_copy(parameters), fmt="ArrowStream"
            )
            return pa.ipc.open_stream(raw).read_all()

    @contextlib.contextmanager
    def arrow_stream(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Iterator[Iterator[pa.RecordBatch]]:
        """See ``Database.arrow_stream``."""
        # clickhouse-connect materialises Arrow on chDB. chDB itself streams it: an Arrow stream per block.
        with self._streams, contextlib.ExitStack() as stack:
            try:
                connection = self._connect_chdb(str(self._folder))
                stack.callback(connection.close)
                connection.query(f"USE {identifiers([self._database])}")
                for name, value in _SESSION_SETTINGS.items():
                    connection.query(f"SET {name} = {literal(value)}")
                bound, bind = bind_query(sql + settings_clause(settings), _copy(parameters))
                names = {name.removeprefix("param_"): value for name, value in bind.items()}
                text = bound if isinstance(bound, str) else bound.decode()
                stream = connection.send_query(text, "ArrowStream", params=names)
                stack.callback(stream.close)
            except Exception as error:
                raise translate(error) from error
            yield _batches(stream)

    def insert_native(
        self, table: str, columns: Sequence[str], block: bytes, *, deduplication_token: str | None = None
    ) -> None:
        """See ``Database.insert_native``."""
        settings: dict[str, Any] = {"max_insert_threads": 1}
        if deduplication_token is not None:
            settings["insert_deduplication_token"] = deduplication_token
        names = identifiers(columns)
        if not self.has_room():
            raise DatabaseError(
                f"nothing is inserted: {self._room()}", code=_NOT_ENOUGH_SPACE, retryable=True
            )
        with self._complete(), _block_file(block, self._folder) as path, self._client() as client:
            # An in-memory file read by the engine is the cheapest way in (3/4 of the CPU of INFILE and of
            # chDB's own streaming inserts), and the data never passes the SQL parser.
            client.command(
                f"INSERT INTO {table} ({names}){settings_clause(settings)} "
                f"SELECT {names} FROM file({literal(path)}, Native)"
            )

    @property
    def folder(self) -> Path:
        """Where the engine keeps everything."""
        return self._folder

    def free_bytes(self) -> int:
        """What is free on the engine's disk. Raises ``OSError``."""
        return free_bytes(self._folder)

    def has_room(self) -> bool:
        """Whether enough is free for the engine to write to its disk. Raises ``OSError``."""
        return self.free_bytes() >= self.reserve_bytes // 2

    def refused_writes(self) -> int:
        """How many writes to files the disk has refused since the start. Raises ``DatabaseError``."""
        with self._counting:
            if self._lock_file.closed:
                raise DatabaseError("the engine is closed")
            try:
                text = self._engine.query(_REFUSED_WRITES, "TabSeparated").bytes()
            except Exception as error:
                raise translate(error) from error
            self._refused = max(self._refused, int(text or 0))
            return self._refused

    def _room(self) -> str:
        mib = 1 << 20
        kept = self.reserve_bytes // 2 // mib
        return f"{self.free_bytes() // mib} MiB are free, {kept} MiB are kept for the engine"

    @contextlib.contextmanager
    def _complete(self) -> Iterator[None]:
        """Raise a retryable error after the block if the disk has refused a write of the engine meanwhile."""
        # At most what had been refused when the block began: a merge's misfortune in between is taken for the block's
        # own, which is repeated for nothing.
        before = self._refused
        yield
        if self.refused_writes() != before:
            raise DatabaseError(
                "the disk refused a write while the engine was writing",
                code=_NOT_ENOUGH_SPACE,
                retryable=True,
            )

    def ping(self) -> bool:
        """See ``Database.ping``."""
        try:
            with self._client() as client:
                return bool(client.ping())
        except DatabaseError:
            return False

    def close(self) -> None:
        """See ``Database.close``."""
        self._clients.close()
        with self._counting:
            if not self._lock_file.closed:
                self._engine.close()
                self._lock_file.close()

    @contextlib.contextmanager
    def _client(self) -> Iterator[Client]:
        with self._clients.borrow() as client:
            try:
                yield client
            except Exception as error:
                raise translate(error) from error

    def _open_client(self) -> Client:
        try:
            return self._connect_client(
                interface="chdb", path=str(self._folder), database=self._database, settings=_SESSION_SETTINGS
            )
        except Exception as error:
            raise translate(error) from error


def _copy(mapping: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return dict(mapping) if mapping else None


def _batches(stream: Iterator[Any]) -> Iterator[pa.RecordBatch]:
    try:
        for chunk in stream:
            data = chunk.bytes()
            if data:
                yield from pa.ipc.open_stream(data)
    except Exception as error:
        raise translate(error) from error


def _lock(folder: Path) -> IO[bytes]:
    """Lock the folder: chDB prints its own message about a lock, and its exception says nothing of it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / "runstream.lock").open("ab")
    except OSError as error:
        raise ConfigError(f"the ClickHouse folder {folder} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise ConfigError(f"the ClickHouse folder {folder} is in use by another process") from error
    return handle


@contextlib.contextmanager
def _block_file(block: bytes, folder: Path) -> Iterator[str]:
    """A path that the engine can read ``block`` from: memory on Linux, else a file in the data folder."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("runstream-block")
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(block)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile(dir=folder, prefix="block-", suffix=".native") as file:
        file.write(block)
        file.flush()
        yield file.name
