"""ClickHouse migrations: numbered SQL files that never change once released.

A file holds statements that end in ``;`` at a line's end. Each can be repeated (``IF NOT EXISTS``), so a
migration that failed half-way is simply run again. ``${name}`` stands for what differs between a single
server and a cluster, and ``-- only: cluster`` (or ``single``) before a statement limits it to one of them.
``checksums.txt`` freezes the files.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Literal

from runstream.schemas.errors import ConfigError

# Where migrations are recorded; ``runstream.clickhouse.migrate`` creates and fills it.
MIGRATIONS_TABLE = "runstream_migrations"
METRICS_TABLE = "metrics"
METRICS_COLUMNS = ("run_id", "key", "step", "timestamp", "value")

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_ONLY = re.compile(r"^-- only: (single|cluster)$", re.MULTILINE)
_CLUSTER_NAME = re.compile(r"[A-Za-z0-9_.\-]+")


@dataclass(frozen=True, slots=True)
class Flavour:
    """Where a migration goes: a single server or chDB (``cluster`` is ``None``), or a named cluster.

    A cluster's replicas need the macros ``{shard}`` and ``{replica}``, as ClickHouse's own guides set them
    up.
    """

    cluster: str | None = None

    def __post_init__(self) -> None:
        if self.cluster is not None and not _CLUSTER_NAME.fullmatch(self.cluster):
            raise ConfigError(f"not a ClickHouse cluster's name: {self.cluster!r}")

    @property
    def kind(self) -> Literal["single", "cluster"]:
        """Which of the two flavours this is."""
        return "single" if self.cluster is None else "cluster"

    @property
    def on_cluster(self) -> str:
        """The ``ON CLUSTER`` clause, or nothing."""
        return "" if self.cluster is None else f"ON CLUSTER '{self.cluster}'"

    def variables(self) -> dict[str, str]:
        """What ``${name}`` in a migration stands for."""
        if self.cluster is None:
            return {
                "table": METRICS_TABLE,
                "cluster": "''",
                "on_cluster": "",
                "replacing_merge_tree": "ReplacingMergeTree",
            }
        return {
            "table": f"{METRICS_TABLE}_local",
            "cluster": f"'{self.cluster}'",
            "on_cluster": self.on_cluster,
            "replacing_merge_tree": (
                "ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')"
            ),
        }


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file; ``checksum`` is the SHA-256 of its text, in hexadecimal."""

    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file, hexadecimal; released files keep theirs."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    def statements(self, flavour: Flavour) -> list[str]:
        """The statements to run, in order, without comments."""
        found = []
        for part in re.split(r";[ \t]*(?:\n|$)", self.sql):
            only = _ONLY.search(part)
            text = re.sub(r"^\s*--.*$", "", part, flags=re.MULTILINE).strip()
            if text and (only is None or only.group(1) == flavour.kind):
                found.append(re.sub(r"\n\s*\n", "\n", Template(text).substitute(flavour.variables())))
        return found


def load() -> list[Migration]:
    """Every migration, in order. Raises ``ConfigError`` if a file is not what was released."""
    folder = resources.files("runstream.schemas") / "clickhouse"
    frozen: dict[str, str] = {}
    for line in (folder / "checksums.txt").read_text().splitlines():
        checksum, name = line.split()
        frozen[name] = checksum
    migrations = []
    for entry in sorted(folder.iterdir(), key=lambda item: item.name):
        match = _FILE.fullmatch(entry.name)
        if match is None:
            continue
        migration = Migration(int(match.group(1)), match.group(2), entry.read_text())
        if frozen.pop(entry.name, None) != migration.checksum:
            raise ConfigError(f"migration {entry.name} is not the released one: its checksum differs")
        migrations.append(migration)
    if frozen:
        raise ConfigError(f"migrations are missing: {', '.join(sorted(frozen))}")
    if [migration.number for migration in migrations] != list(range(1, len(migrations) + 1)):
        raise ConfigError("migrations are not numbered 1, 2, 3, …")
    return migrations
