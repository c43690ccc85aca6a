"""The machine: what it is, how fast it is just now, and who used its processors.

CPU time of the contenders is the sum over their process trees, sampled, so that processes that end during a
run still count. Peak memory counts shared pages once per role.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

_SAMPLE_S = 0.5
_SAMPLES_KEPT = 300
# Above this share of all processors used by others (or stolen by the hypervisor), a run says little.
FOREIGN_LIMIT = 0.08


def machine_facts() -> dict[str, object]:
    """What the results depend on and cannot be seen from them."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


@dataclass(frozen=True)
class Calibration:
    """CPU milliseconds of two fixed pieces of work; lower is a faster machine."""

    python_ms: float
    memory_ms: float


def calibrate() -> Calibration:
    """Takes about half a second. CPU time, so waiting for a processor does not count; the best of three."""
    return Calibration(_best(_python_loop), _best(_memory_copy))


def _best(work: Callable[[], None]) -> float:
    def once() -> float:
        began = time.process_time()
        work()
        return (time.process_time() - began) * 1000

    return round(min(once() for _ in range(3)), 2)


def _python_loop() -> None:
    x = 0
    for i in range(600_000):
        x = (x * 31 + i) & 0xFFFFFFFF


def _memory_copy() -> None:
    source, target = np.ones(4_000_000), np.ones(4_000_000)
    for _ in range(4):
        np.copyto(target, source)


@dataclass
class Usage:
    """What was used between ``Meter.start`` and ``stop``. Seconds of CPU; memory in bytes; shares of 1.

    ``memory`` is what each role took over time, at most some hundreds of samples.
    """

    seconds: float = 0.0
    cpu_s: dict[str, float] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    peak_total_bytes: int = 0
    memory: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    foreign_share: float = 0.0
    stolen_share: float = 0.0

    @property
    def total_cpu_s(self) -> float:
        return sum(self.cpu_s.values())

    @property
    def disturbed(self) -> bool:
        return self.foreign_share + self.stolen_share > FOREIGN_LIMIT


class Meter:
    """Watches the process trees below ``roots`` from a thread, and this process with its own children.

    ``role`` names the part that a process of the server plays, from its command line.
    """

    def __init__(self, roots: Iterable[int], role: Callable[[str], str]) -> None:
        self._roots = list(roots)
        self._role = role
        self._roles: dict[int, str] = {}
        self._first: dict[int, float] = {}
        self._last: dict[int, float] = {}
        self._usage = Usage()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._lock = threading.Lock()

    def start(self) -> Meter:
        self._sample(first=True)
        self._machine = _machine_cpu()
        self._began = time.monotonic()
        self._thread.start()
        return self

    def stop(self) -> Usage:
        self._stop.set()
        self._thread.join()
        self._sample()
        usage = self._usage
        usage.seconds = time.monotonic() - self._began
        usage.memory = usage.memory[:: 1 + len(usage.memory) // _SAMPLES_KEPT]
        ours = 0.0
        for pid, last in self._last.items():
            used = last - self._first[pid]
            ours += used
            role = self._roles[pid]
            if role != "harness":
                usage.cpu_s[role] = usage.cpu_s.get(role, 0.0) + used
        busy, stolen = (now - then for now, then in zip(_machine_cpu(), self._machine, strict=True))
        capacity = usage.seconds * (os.cpu_count() or 1)
        usage.foreign_share = round(max(0.0, busy - ours) / capacity, 4)
        usage.stolen_share = round(stolen / capacity, 4)
        return usage

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            self._sample()

    def _sample(self, *, first: bool = False) -> None:
        with self._lock:
            memory: dict[str, int] = {}
            shared: dict[str, int] = {}
            for process, ours in self._family():
                try:
                    with process.oneshot():
                        times, sizes = process.cpu_times(), process.memory_info()
                        if process.pid not in self._roles:
                            line = " ".join(process.cmdline())
                            self._roles[process.pid] = "harness" if ours else self._role(line)
                except psutil.Error:
                    continue
                used = times.user + times.system
                # A process that appears later began with nothing used.
                self._first.setdefault(process.pid, used if first else 0.0)
                self._last[process.pid] = used
                role = self._roles[process.pid]
                if role != "harness":
                    memory[role] = memory.get(role, 0) + sizes.rss - sizes.shared
                    shared[role] = max(shared.get(role, 0), sizes.shared)
            peaks = self._usage.peak_bytes
            sizes_now = {role: size + shared[role] for role, size in memory.items()}
            for role, size in sizes_now.items():
                peaks[role] = max(peaks.get(role, 0), size)
            if not first:
                self._usage.memory.append((round(time.monotonic() - self._began, 1), sizes_now))
            total = sum(memory.values()) + sum(shared.values())
            self._usage.peak_total_bytes = max(self._usage.peak_total_bytes, total)

    def _family(self) -> list[tuple[psutil.Process, bool]]:
        """The server's processes, then the harness's own: itself and the load generator."""
        found: dict[int, tuple[psutil.Process, bool]] = {}
        for root in self._roots:
            try:
                process = psutil.Process(root)
                for member in (process, *process.children(recursive=True)):
                    found[member.pid] = (member, False)
            except psutil.Error:
                continue
        me = psutil.Process()
        for member in (me, *me.children()):
            found.setdefault(member.pid, (member, True))
        return list(found.values())


def _machine_cpu() -> tuple[float, float]:
    """Seconds since the start that all processors were busy, and that the hypervisor took."""
    times = psutil.cpu_times()
    busy = times.user + times.nice + times.system + times.irq + times.softirq
    return busy, times.steal


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
