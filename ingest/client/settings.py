"""What the client may be told, in the environment or in code."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SpoolSettings:
    """``folder`` is where the spool is. ``sync``: every append is synced to disk. ``max_bytes`` bounds the folder;
    points that would go beyond are counted and lost. ``keep``: delivered files stay. ``offline``: nothing is sent.
    ``auto_step``: a step of 0, which is MLflow's default, counts up by key. ``flush_timeout_s`` bounds every wait for
    the server. ``run_key``: a run gets the id that follows from this text, so that a requeued job finds its run."""

    folder: Path
    sync: bool = False
    max_bytes: int = 10 << 30
    keep: bool = False
    offline: bool = False
    auto_step: bool = False
    flush_timeout_s: float = 5.0
    run_key: str = ""
    token: Callable[[], str] | None = None


def from_environment(environment: Mapping[str, str] = os.environ) -> SpoolSettings | None:
    """The settings that RUNSTREAM_* variables give; ``None`` unless RUNSTREAM_SPOOL names a folder."""
    folder = environment.get("RUNSTREAM_SPOOL", "").strip()
    if not folder:
        return None
    return SpoolSettings(
        folder=Path(folder).expanduser().absolute(),
        sync=environment.get("RUNSTREAM_SPOOL_SYNC", "").lower() == "disk",
        max_bytes=int(_number(environment, "RUNSTREAM_SPOOL_MAX_BYTES", 10 << 30)),
        keep=_yes(environment, "RUNSTREAM_SPOOL_KEEP"),
        offline=_yes(environment, "RUNSTREAM_OFFLINE"),
        auto_step=_yes(environment, "RUNSTREAM_AUTO_STEP"),
        flush_timeout_s=_number(environment, "RUNSTREAM_FLUSH_TIMEOUT_S", 5.0),
        run_key=environment.get("RUNSTREAM_RUN_KEY", ""),
    )


def _yes(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").strip().lower() in ("1", "true", "yes", "on")


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    # A training must not die of a typing error in its environment.
    try:
        return max(float(environment.get(name, default)), 0.0)
    except ValueError:
        return default
