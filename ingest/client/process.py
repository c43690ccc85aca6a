"""Who writes: host, boot, process and rank, so that another process can tell whether a file's writer still lives."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from functools import lru_cache
from pathlib import Path
from typing import Any

# In the order in which launchers are asked: torchrun and its kin, SLURM, Open MPI, MPICH and Intel MPI.
_RANKS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
_NODE_ID = "MLFLOW_SYSTEM_METRICS_NODE_ID"
_NODES = ("GROUP_RANK", "NODE_RANK", "SLURM_NODEID", "OMPI_COMM_WORLD_NODE_RANK")


def host() -> str:
    """This machine's name."""
    return socket.gethostname() or "localhost"


@lru_cache(1)
def boot() -> str:
    """This boot of the machine, where the system tells it (Linux); otherwise empty."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")[:12]
    except OSError:
        return ""


def started(pid: int) -> int | None:
    """When a process of this machine started, in the kernel's ticks since boot; 0 where the system does not tell,
    ``None`` if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        return int(text.rpartition(")")[2].split()[19])
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return None
    except (OSError, ValueError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return 0


def rank(environment: Mapping[str, str] = os.environ) -> int | None:
    """This process's place among those of its job, if a launcher set one."""
    return _number(_RANKS, environment)


def node(environment: Mapping[str, str] = os.environ) -> int | None:
    """This machine's place among those of its job, if a launcher set one."""
    return _number(_NODES, environment)


def name_node(environment: MutableMapping[str, str] = os.environ) -> None:
    """Tell MLflow's system metrics which machine and rank they are of, where a launcher says that there are several
    and nobody else has: monitors that log to one run under the same keys would mix (``system/node0-rank3/…``)."""
    place = rank(environment)
    if place is None or environment.get(_NODE_ID):
        return
    at = node(environment)
    environment[_NODE_ID] = f"{host() if at is None else f'node{at}'}-rank{place}"


def _number(names: tuple[str, ...], environment: Mapping[str, str]) -> int | None:
    for name in names:
        text = environment.get(name, "")
        if text.isdigit():
            return int(text)
    return None


def identity() -> dict[str, Any]:
    """What the first frame of a file says of its writer."""
    pid = os.getpid()
    about: dict[str, Any] = {
        "host": host(),
        "boot": boot(),
        "pid": pid,
        "started": started(pid) or 0,
        "created_ms": time.time_ns() // 1_000_000,
    }
    if (place := rank()) is not None:
        about["rank"] = place
    return about


def lives(writer: Mapping[str, Any]) -> bool | None:
    """Whether the process that ``identity`` described still runs; ``None`` if that cannot be told from here."""
    if writer.get("host") != host():
        return None
    if writer.get("boot") != boot():
        return False
    pid = writer.get("pid")
    now = started(pid) if isinstance(pid, int) else None
    return now is not None and now == writer.get("started", now)
