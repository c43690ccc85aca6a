"""Artifacts leave room on a disk that points need: on a real small disk, and however an upload comes."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from runstream.ingest.gateway.artifacts.config import ArtifactConfig
from support.artifact_gateway import ArtifactGateway
from support.full_disk import MIB, mounted

KEPT = 20 * MIB
BASE = "/api/2.0/mlflow-artifacts/artifacts/0/r/artifacts"


def free(folder: Path) -> int:
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


async def blocks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // MIB):
        yield b"x" * MIB


async def test_uploads_stop_before_the_room_is_eaten(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with mounted(folder, f"size={64 * MIB}") as is_mounted:
        if not is_mounted:
            pytest.skip("this user may not mount a disk")
        config = ArtifactConfig(
            url=f"file://{folder}/artifacts", shared_disk=str(folder), keep_free_bytes=KEPT
        )
        timeout = aiohttp.ClientTimeout(total=60)
        with ArtifactGateway(tmp_path / "gateway", config) as gateway:
            async with aiohttp.ClientSession(gateway.url, timeout=timeout) as session:
                # Announced: refused before any of it is stored. Not announced: on the way.
                for data in (io.BytesIO(b"x" * (50 * MIB)), blocks(60 * MIB)):
                    async with session.put(f"{BASE}/large", data=data) as answer:
                        assert answer.status == 429, await answer.text()
                        assert int(answer.headers["Retry-After"]) >= 1
                        assert (await answer.json())["error_code"] == "TEMPORARILY_UNAVAILABLE"
                        assert "full" in (await answer.json())["message"]
                    assert not (folder / "artifacts" / "0" / "r" / "artifacts" / "large").exists()
                statuses = []
                for number in range(12):
                    async with session.put(f"{BASE}/{number}", data=io.BytesIO(b"x" * (8 * MIB))) as answer:
                        statuses.append(answer.status)
                assert statuses == [200] * 5 + [429] * 7
                assert free(folder) >= KEPT
                # What is there can be read and deleted, and then there is room again.
                async with session.get(f"{BASE}/0") as answer:
                    assert len(await answer.read()) == 8 * MIB
                async with session.delete(f"{BASE}/0") as answer:
                    assert answer.status == 200
                async with session.put(f"{BASE}/again", data=blocks(8 * MIB)) as answer:
                    assert answer.status == 200
