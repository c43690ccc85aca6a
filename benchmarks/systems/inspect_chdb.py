"""Prints what a stopped server's chDB folder holds, as JSON. ``python -m benchmarks.systems.inspect_chdb FOLDER``.

``points`` are distinct ones; ``bytes`` is the size of the active parts after all merges.
"""

from __future__ import annotations

import json
import os
import sys

import clickhouse_connect


def main(folder: str) -> None:
    client = clickhouse_connect.get_client(interface="chdb", path=folder)
    table = client.query(
        "select database || '.' || name from system.tables"
        " where name = 'metrics' and engine like '%ReplacingMergeTree'"
    ).result_rows[0][0]
    size = (
        "select sum(bytes_on_disk), count() from system.parts"
        f" where active and database || '.' || table = '{table}'"
    )
    before = client.query(size).result_rows[0]
    client.command(f"optimize table {table} final")
    after = client.query(size).result_rows[0]
    facts = {
        "points": client.query(f"select count() from {table} final").result_rows[0][0],
        "bytes": after[0],
        "bytes_before_merges": before[0],
        "parts_before_merges": before[1],
    }
    print(json.dumps(facts), flush=True)
    os._exit(0)  # the embedded engine may not end by itself


if __name__ == "__main__":
    main(sys.argv[1])
