"""From the driver's exceptions to ``DatabaseError``: which failures are worth trying again."""

from __future__ import annotations

import re

import pyarrow as pa
from clickhouse_connect.driver.exceptions import Error as DriverError
from clickhouse_connect.driver.exceptions import OperationalError

from runstream.schemas.ports.database import DatabaseError

# ClickHouse src/Common/ErrorCodes.cpp: failures of the place or the moment, not of the statement or its data.
RETRYABLE_CODES = frozenset(
    {
        3,  # UNEXPECTED_END_OF_FILE: the connection broke in mid-request
        74,  # CANNOT_READ_FROM_FILE_DESCRIPTOR
        75,  # CANNOT_WRITE_TO_FILE_DESCRIPTOR: also a full disk
        76,  # CANNOT_OPEN_FILE: also too many open files
        95,  # CANNOT_READ_FROM_SOCKET
        96,  # CANNOT_WRITE_TO_SOCKET
        159,  # TIMEOUT_EXCEEDED
        160,  # TOO_SLOW
        173,  # CANNOT_ALLOCATE_MEMORY
        198,  # DNS_ERROR
        201,  # QUOTA_EXCEEDED
        202,  # TOO_MANY_SIMULTANEOUS_QUERIES
        203,  # NO_FREE_CONNECTION
        209,  # SOCKET_TIMEOUT
        210,  # NETWORK_ERROR
        225,  # NO_ZOOKEEPER
        236,  # ABORTED
        241,  # MEMORY_LIMIT_EXCEEDED
        242,  # TABLE_IS_READ_ONLY: a replica without its keeper
        243,  # NOT_ENOUGH_SPACE
        252,  # TOO_MANY_PARTS
        254,  # NO_ACTIVE_REPLICAS
        279,  # ALL_CONNECTION_TRIES_FAILED
        285,  # TOO_FEW_LIVE_REPLICAS
        286,  # UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
        289,  # REPLICA_IS_NOT_IN_QUORUM
        290,  # LIMIT_EXCEEDED
        319,  # UNKNOWN_STATUS_OF_INSERT
        341,  # UNFINISHED
        373,  # SESSION_IS_LOCKED
        394,  # QUERY_WAS_CANCELLED
        425,  # SYSTEM_ERROR
        439,  # CANNOT_SCHEDULE_TASK
        499,  # S3_ERROR
        722,  # ASYNC_LOAD_WAIT_FAILED
        745,  # SERVER_OVERLOADED
        999,  # KEEPER_EXCEPTION
    }
)
_CODE = re.compile(r"\bCode:\s*(\d+)")
_TRACE = re.compile(r",? Stack trace \(when copying.*", re.DOTALL)


def translate(error: Exception) -> DatabaseError:
    """The ``DatabaseError`` for anything that the drivers raise; the message is one line of bounded length.

    A transport failure (refused, reset, timed out, cut off) has no code and is retryable; the outcome of a
    statement that failed so is unknown.
    """
    if isinstance(error, DatabaseError):
        return error
    text = _TRACE.sub("", str(error) or type(error).__name__)
    code = getattr(error, "code", None) if isinstance(error, DriverError) else None
    if code is None:
        match = _CODE.search(text)
        code = int(match.group(1)) if match else None
    if code is not None:
        retryable = code in RETRYABLE_CODES
    else:
        retryable = isinstance(error, OperationalError | OSError | pa.ArrowInvalid) or _is_transport(error)
    return DatabaseError(" ".join(text.split())[:1000], code=code, retryable=retryable)


def _is_transport(error: Exception) -> bool:
    # urllib3's errors surface unwrapped while a streamed answer is read.
    return type(error).__module__.partition(".")[0] == "urllib3"
