"""``runstream doctor``: tries every configured part, and says what works, what does not and what to do.

Nothing that it writes stays: probe objects among the artifacts, a probe table in ClickHouse, a rolled-back change
in the metadata, an empty record in Kafka. Errors are shown without credentials.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from runstream.commands.doctor.artifacts import check_artifacts
from runstream.commands.doctor.services import check_clickhouse, check_metadata, check_queue
from runstream.commands.doctor.steps import Check
from runstream.schemas.errors import ConfigError
from runstream.serve.data_dir import DataDir
from runstream.settings import GatewaySettings, StorageSettings, load

__all__ = ["Check", "checkup", "settings", "table"]


def settings(data_dir: Path | None) -> tuple[GatewaySettings, StorageSettings]:
    """The settings of the environment, or those that ``runstream serve`` has for a folder. Raises ``ConfigError``."""
    if data_dir is None:
        return load(GatewaySettings), load(StorageSettings)
    if not data_dir.is_dir():
        raise ConfigError(f"there is no data folder {data_dir}: `runstream serve` makes one")
    data = DataDir(data_dir)
    artifacts = os.environ.get("RUNSTREAM_ARTIFACTS") or data.artifacts_url
    storage = load(
        StorageSettings,
        queue=data.queue_url,
        clickhouse=data.clickhouse_url,
        metadata=data.metadata_url,
    )
    return load(GatewaySettings, queue=data.queue_url, artifacts=artifacts), storage


async def checkup(gateway: GatewaySettings, storage: StorageSettings) -> list[Check]:
    """Try the queue, ClickHouse, the metadata database and the artifact store, at the same time."""
    parts = await asyncio.gather(
        check_queue(storage),
        check_clickhouse(storage),
        check_metadata(storage),
        check_artifacts(gateway),
    )
    return [check for part in parts for check in part.checks]


def table(checks: Sequence[Check]) -> str:
    """The checks as text, with what to do below those that failed."""
    width = max(len(f"{check.part}: {check.step}") for check in checks)
    lines = []
    for check in checks:
        mark = {True: "ok", False: "FAILED", None: "not tried"}[check.ok]
        lines.append(
            f"{f'{check.part}: {check.step}':<{width}}  {mark:<9}  {check.seconds:>5.1f} s  {check.detail}"
        )
        if check.advice:
            lines.append(f"{'':<{width}}  -> {check.advice}")
    failed = sum(check.ok is False for check in checks)
    lines.append(
        "Everything that was tried works." if not failed else f"{failed} of {len(checks)} checks failed."
    )
    return "\n".join(lines)
