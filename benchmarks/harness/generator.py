"""The load generator: many keep-alive connections, prebuilt bodies, one ledger entry per request.

Runs as a process of its own (``python -m benchmarks.harness.generator JOB.json``), so that its CPU time is known apart
from the servers'. One thread, ``epoll`` and plain sockets: 8-10 µs of CPU per small request, what wrk with a Lua
script needs, and unlike wrk it knows which request an answer belongs to (``benchmarks/suites/crosscheck.py`` compares).

Each request is sent once; a body may serve several, with other steps each time. After the deadline nothing new
is sent, and the answers under way are waited for.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import resource
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.harness.load import ACKNOWLEDGED, FAILED, GRACE_S, LOST, REFUSED, Job, LoadResult
from benchmarks.harness.workloads import replayed


class _Connection:
    """One socket; at most one request under way."""

    __slots__ = ("address", "began", "buffer", "fd", "outgoing", "request", "sock")

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.request = -1
        self.began = 0.0
        self.open()

    def open(self) -> None:
        self.sock = socket.create_connection(self.address, timeout=30)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fd = self.sock.fileno()
        self.buffer = b""
        self.outgoing: memoryview | None = None


class Generator:
    """Replays one job; use once."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._index = np.load(job.index)
        index = self._index
        self._offsets: list[int] = index["offset"].tolist()
        self._lengths: list[int] = index["length"].tolist()
        self._runs: list[int] = index["run"].tolist()
        with Path(job.bodies).open("rb") as file:
            self._bodies = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._ids = [b'{"run_id": "' + run_id.encode() for run_id in job.run_ids]
        self._head = (
            f"POST {job.path} HTTP/1.1\r\nHost: {job.host}:{job.port}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._next = job.first
        total = len(index) * job.passes
        self._end = min(total, job.stop_after if job.stop_after is not None else total)
        self._ledger = bytearray(total)
        self._latency: list[float] = []
        self._finished: list[float] = []
        self._statuses: dict[str, int] = {}
        self._first_error = ""
        self._retry_after = 0
        self._left_out = 0
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._idle: list[_Connection] = []
        self._busy = 0

    def run(self) -> LoadResult:
        """Blocks for the job's seconds and until the last answer, at most the grace time more."""
        job = self._job
        for _ in range(job.connections):
            self._adopt(_Connection((job.host, job.port)))
        self._idle = list(self._connections.values())
        cpu = _cpu_s()
        started = time.monotonic()
        deadline = started + job.seconds
        if job.rate is None:
            self._closed_loop(deadline)
        else:
            self._open_loop(started, deadline, job.rate)
        self._closed_loop(0.0)
        for connection in self._connections.values():
            connection.sock.close()
        return self._result(started, _cpu_s() - cpu)

    def _closed_loop(self, deadline: float) -> None:
        """Answer and send until nothing is under way; after ``deadline`` nothing is sent."""
        give_up = max(deadline, time.monotonic()) + GRACE_S
        monotonic, end = time.monotonic, self._end
        idle = self._idle
        while True:
            while idle and self._next < end and (now := monotonic()) < deadline:
                self._send(idle.pop(), now)
            if not self._busy or monotonic() > give_up:
                break
            for fd, event in self._epoll.poll(1.0):
                connection = self._connections[fd]
                if self._on_event(connection, event):
                    now = monotonic()
                    if now < deadline and self._next < end:
                        self._send(connection, now)
                    else:
                        idle.append(connection)
        if self._busy and deadline == 0.0:
            for connection in list(self._connections.values()):
                if connection.request >= 0:
                    self._settle(connection, LOST, "no answer")

    def _open_loop(self, started: float, deadline: float, rate: float) -> None:
        waiting: deque[float] = deque()
        due_number = 0
        while (now := time.monotonic()) < deadline and self._next < self._end:
            while (due := started + due_number / rate) <= now:
                waiting.append(due)
                due_number += 1
            while waiting and self._idle and self._next < self._end:
                fell_due = waiting.popleft()
                self._send(self._idle.pop(), now if self._job.drop_late else fell_due)
            if self._job.drop_late:
                self._left_out += len(waiting)
                waiting.clear()
            for fd, event in self._epoll.poll(max(0.0, min(due - now, 0.05))):
                connection = self._connections[fd]
                if self._on_event(connection, event):
                    self._idle.append(connection)
        self._left_out += len(waiting)

    def _send(self, connection: _Connection, began: float) -> None:
        number = self._next
        self._next = number + 1
        in_pass, place = divmod(number, len(self._offsets))
        offset, length = self._offsets[place], self._lengths[place]
        opening = self._ids[self._runs[place]]
        body = self._bodies[offset : offset + length]
        if in_pass:
            body = replayed(body, in_pass)
        data = b"".join((self._head, b"%d\r\n\r\n" % (len(opening) + length), opening, body))
        connection.request = number
        connection.began = began
        self._busy += 1
        try:
            done = connection.sock.send(data)
        except BlockingIOError:
            done = 0
        except OSError as error:
            if self._reconnect(connection, repr(error)):
                self._idle.append(connection)
            return
        if done < len(data):
            connection.outgoing = memoryview(data)[done:]
            self._epoll.modify(connection.fd, select.EPOLLIN | select.EPOLLOUT)

    def _on_event(self, connection: _Connection, event: int) -> bool:
        """Move one connection on; true when it has become free."""
        if event & select.EPOLLOUT and connection.outgoing is not None:
            try:
                done = connection.sock.send(connection.outgoing)
            except BlockingIOError:
                done = 0
            except OSError as error:
                return self._reconnect(connection, repr(error))
            connection.outgoing = connection.outgoing[done:]
            if not connection.outgoing:
                connection.outgoing = None
                self._epoll.modify(connection.fd, select.EPOLLIN)
        if not event & ~select.EPOLLOUT:
            return False
        try:
            data = connection.sock.recv(65536)
        except BlockingIOError:
            return False
        except OSError as error:
            return self._reconnect(connection, repr(error))
        if not data:
            return self._reconnect(connection, "closed by the server")
        if connection.buffer:
            data = connection.buffer + data
        # Nearly every answer is one small packet that says 200 and ends in {}.
        if not (data.endswith(b"\r\n\r\n{}") and data[9:12] == b"200") and not _complete(data):
            connection.buffer = data
            return False
        connection.buffer = b""
        return self._answered(connection, data)

    def _answered(self, connection: _Connection, data: bytes) -> bool:
        if connection.request < 0:
            return self._reconnect(connection, "an answer without a request")
        status = data[9:12].decode()
        if status == "200":
            now = time.monotonic()
            self._latency.append(now - connection.began)
            self._finished.append(now)
            self._settle(connection, ACKNOWLEDGED, status)
        else:
            refused = status in ("429", "503")
            head = data.partition(b"\r\n\r\n")[0].lower()
            self._retry_after += b"\r\nretry-after:" in head
            if not refused and not self._first_error:
                self._first_error = data[-500:].decode(errors="replace")
            self._settle(connection, REFUSED if refused else FAILED, status)
        if connection.outgoing is not None:
            # Answered before the whole body was taken: HTTP cannot go on with this connection.
            return self._replace(connection)
        head = data.partition(b"\r\n\r\n")[0].lower() if status != "200" else b""
        return self._replace(connection) if b"connection: close" in head else True

    def _settle(self, connection: _Connection, verdict: int, status: str) -> None:
        self._ledger[connection.request] = verdict
        self._statuses[status] = self._statuses.get(status, 0) + 1
        connection.request = -1
        self._busy -= 1

    def _reconnect(self, connection: _Connection, reason: str) -> bool:
        """The connection broke: what was under way is neither acknowledged nor refused."""
        if connection.request >= 0:
            self._first_error = self._first_error or reason
            self._settle(connection, LOST, "broken")
        return self._replace(connection)

    def _replace(self, connection: _Connection) -> bool:
        with contextlib.suppress(OSError):
            self._epoll.unregister(connection.fd)
        self._connections.pop(connection.fd, None)
        connection.sock.close()
        try:
            connection.open()
        except OSError:
            time.sleep(0.05)
            if not self._connections and not self._idle:
                raise
            return False
        self._adopt(connection)
        return True

    def _adopt(self, connection: _Connection) -> None:
        self._connections[connection.fd] = connection
        self._epoll.register(connection.fd, select.EPOLLIN)

    def _result(self, started: float, cpu_s: float) -> LoadResult:
        ledger = np.frombuffer(bytes(self._ledger), np.uint8)
        counts = np.bincount(ledger, minlength=5)
        return LoadResult(
            sent=self._next - self._job.first,
            acknowledged=int(counts[ACKNOWLEDGED]),
            acknowledged_points=int(
                np.tile(self._index["points"], self._job.passes)[ledger == ACKNOWLEDGED].sum()
            ),
            refused=int(counts[REFUSED]),
            failed=int(counts[FAILED]),
            lost=int(counts[LOST]),
            left_out=self._left_out,
            retry_after=self._retry_after,
            started=started,
            ended=max(self._finished, default=time.monotonic()),
            cpu_s=cpu_s,
            exhausted=self._next >= self._end,
            statuses=self._statuses,
            first_error=self._first_error,
            ledger=ledger,
            latency_ms=np.array(self._latency, np.float32) * 1000,
            finished_at=np.array(self._finished),
        )


def _complete(data: bytes) -> bool:
    """Whether an answer is whole, by Content-Length or its last chunk."""
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line[15:])
        if line.startswith(b"transfer-encoding:"):
            return body.endswith(b"0\r\n\r\n")
    return True


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main(arguments: Sequence[str]) -> None:
    """Run the job in the file named, and write its result beside it."""
    job = Job(**json.loads(Path(arguments[0]).read_text()))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = job.connections + 256
    if soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
    result = asdict(Generator(job).run())
    arrays = {name: result.pop(name) for name in ("ledger", "latency_ms", "finished_at")}
    np.savez(Path(job.out).with_suffix(".npz"), **arrays)
    Path(job.out).with_suffix(".json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
