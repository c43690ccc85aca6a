"""The load of the ingest route: ``python -m benchmarks.suites.binary_sender JOB.json``, a process of its own.

Each connection sends a body that is built already (``sendfile`` from the page cache: no copy through Python), waits
for its answer, and takes the next. It prints JSON: what was acknowledged, and latencies.
"""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any

_TYPES = {
    "frames": "application/vnd.runstream.frames",
    "plain": "application/vnd.runstream.frames",
    "arrow": "application/vnd.apache.arrow.stream",
}


class _Sending:
    """One connection and the request under way on it."""

    __slots__ = ("answer", "at", "began", "end", "head", "sock")

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = socket.create_connection(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.at = self.end = 0
        self.head = self.answer = b""
        self.began = 0.0


class Sender:
    """One job; ``run`` once."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._offsets: list[int] = job["offsets"]
        self._seconds = float(job["seconds"])
        address = (job["host"], int(job["port"]))
        self._prefix = (
            f"POST /api/1.0/runstream/ingest HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
            f"Content-Type: {_TYPES[job['form']]}\r\nContent-Length: "
        ).encode()
        self._file = os.open(job["file"], os.O_RDONLY)
        self._epoll = select.epoll()
        self._connections: dict[int, _Sending] = {}
        for _ in range(int(job["connections"])):
            one = _Sending(address)
            self._connections[one.sock.fileno()] = one
            self._epoll.register(one.sock, select.EPOLLIN)
        self._latencies: list[float] = []
        self._stored = self._next = self._busy = self._other = 0
        self._first_error = ""
        self._deadline = 0.0

    def run(self) -> dict[str, Any]:
        """Send until ``seconds`` have passed or the bodies are used up, and wait for what is under way."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        began = time.monotonic()
        self._deadline = began + self._seconds
        for one in self._connections.values():
            self._begin(one)
        while self._busy and time.monotonic() < self._deadline + 60:
            for number, event in self._epoll.poll(1.0):
                one = self._connections[number]
                if event & select.EPOLLOUT:
                    self._push(one)
                if event & ~select.EPOLLOUT and self._answered(one):
                    self._begin(one)
        ended = time.monotonic()
        now = resource.getrusage(resource.RUSAGE_SELF)
        took = sorted(self._latencies)
        return {
            "stored": self._stored,
            "acknowledged": len(took),
            "not_200": self._other,
            "sent": self._next,
            "unanswered": self._busy,
            "first_error": self._first_error,
            "began": began,
            "seconds": ended - began,
            "ran_out": self._next >= len(self._offsets) - 1,
            "cpu_s": now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime,
            "p50_ms": 1000 * took[len(took) // 2] if took else None,
            "p99_ms": 1000 * took[int(len(took) * 0.99)] if took else None,
        }

    def _begin(self, one: _Sending) -> None:
        if self._next >= len(self._offsets) - 1 or time.monotonic() > self._deadline:
            return
        one.at, one.end = self._offsets[self._next], self._offsets[self._next + 1]
        self._next += 1
        self._busy += 1
        one.head = self._prefix + b"%d\r\n\r\n" % (one.end - one.at)
        one.answer = b""
        one.began = time.monotonic()
        self._push(one)

    def _push(self, one: _Sending) -> None:
        try:
            if one.head:
                one.sock.send(one.head, socket.MSG_MORE)
                one.head = b""
            while one.at < one.end:
                one.at += os.sendfile(one.sock.fileno(), self._file, one.at, one.end - one.at)
        except BlockingIOError:
            self._epoll.modify(one.sock, select.EPOLLIN | select.EPOLLOUT)
            return
        self._epoll.modify(one.sock, select.EPOLLIN)

    def _answered(self, one: _Sending) -> bool:
        data = one.sock.recv(65536)
        if not data:
            raise ConnectionError(f"closed by the server; {self._first_error}")
        one.answer += data
        head, separator, body = one.answer.partition(b"\r\n\r\n")
        if not separator or len(body) < int(head.lower().partition(b"content-length:")[2].split()[0]):
            return False
        self._busy -= 1
        if one.answer[9:12] == b"200":
            self._latencies.append(time.monotonic() - one.began)
            self._stored += json.loads(body)["stored"]
        else:
            self._other += 1
            self._first_error = self._first_error or one.answer[:600].decode(errors="replace")
        return True


if __name__ == "__main__":
    print(json.dumps(Sender(json.loads(Path(sys.argv[1]).read_text())).run()))
