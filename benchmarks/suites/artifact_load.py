"""A client for big artifacts that costs little itself: threads on plain sockets, in a process of its own.

``python -m benchmarks.suites.artifact_load DIRECTION HOST PORT PATH BYTES COUNT`` moves ``COUNT`` artifacts at once and
prints one line of JSON: seconds, status codes and whether every byte came.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time

_BLOCK = 1 << 20
# A client that has waited this long has given up.
_TIMEOUT_S = 600.0


def upload(host: str, port: int, path: str, size: int) -> int:
    """PUT ``size`` bytes; the status."""
    pattern = memoryview(os.urandom(_BLOCK) * 8)
    with socket.create_connection((host, port), timeout=_TIMEOUT_S) as connection:
        head = f"PUT {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {size}\r\n\r\n"
        connection.sendall(head.encode())
        left = size
        while left:
            block = pattern[: min(left, len(pattern))]
            connection.sendall(block)
            left -= len(block)
        return _status(connection.makefile("rb").readline())


def download(host: str, port: int, path: str, size: int) -> int:
    """GET; the status, or 0 if not ``size`` bytes came."""
    buffer = bytearray(_BLOCK)
    with socket.create_connection((host, port), timeout=_TIMEOUT_S) as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode()
        )
        stream = connection.makefile("rb")
        status = _status(stream.readline())
        chunked = False
        while (line := stream.readline()) not in (b"\r\n", b""):
            chunked = chunked or line.lower().startswith(b"transfer-encoding: chunked")
        got = 0
        while chunked and (length := int(stream.readline() or b"0", 16)):
            got += length
            while length:
                length -= stream.readinto(memoryview(buffer)[: min(length, _BLOCK)]) or length
            stream.readline()
        while not chunked and (count := stream.readinto(buffer)):
            got += count
        return status if got == size else 0


def _status(line: bytes) -> int:
    return int(line.split()[1]) if line.startswith(b"HTTP/") else 0


def main() -> None:
    """See the module."""
    direction, host, port, path, size, count = sys.argv[1:7]
    move = {"up": upload, "down": download}[direction]
    statuses: list[int] = [0] * int(count)

    def one(number: int) -> None:
        try:
            statuses[number] = move(host, int(port), f"{path}{number}.bin", int(size))
        except OSError as error:
            print(f"transfer {number}: {error}", file=sys.stderr)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(int(count))]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"seconds": time.perf_counter() - began, "statuses": statuses}))


if __name__ == "__main__":
    main()
