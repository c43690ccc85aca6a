"""What the gateway's settings mean for artifacts on the disk of the log."""

from __future__ import annotations

from pathlib import Path

import pytest

from runstream.roles.gateway import _config
from runstream.settings import GatewaySettings, load

RESERVE = 7 << 20


@pytest.mark.parametrize(
    ("queue", "artifacts", "kept"),
    [
        ("local://{here}/log", "file://{here}/artifacts", 2 * RESERVE),
        ("local://{here}/log", "file:///dev/shm/artifacts", 0),
        ("local://{here}/log", "s3://bucket/artifacts", 0),
        ("kafka://127.0.0.1:9", "file://{here}/artifacts", 0),
    ],
    ids=("one disk", "another disk", "a bucket", "no log"),
)
def test_artifacts_leave_twice_what_the_log_leaves(
    tmp_path: Path, queue: str, artifacts: str, kept: int
) -> None:
    settings = load(
        GatewaySettings,
        queue=queue.format(here=tmp_path),
        artifacts=artifacts.format(here=tmp_path),
        disk_reserve_bytes=RESERVE,
        internal_token="x",
    )
    found = _config(settings).artifacts
    assert found is not None
    assert (found.keep_free_bytes, found.shared_disk is not None) == (kept, bool(kept))
