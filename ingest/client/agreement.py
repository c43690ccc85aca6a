"""What the senders of one folder tell one another, in files beside the spool's: who creates a run on a server that
chooses ids itself, and which status of a run is the newest one sent.

Nothing is locked or renamed: a claim is a file that one process alone can make (O_EXCL, which NFS has too), and one of
a process that is dead is followed by the next number.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from runstream.ingest.client import process
from runstream.schemas import frame
from runstream.schemas.errors import BadRecordError

# A claim of a machine that cannot be asked for its processes is given up after this long.
_CLAIM_S = 60.0


def may_create(run_folder: Path) -> bool:
    """Whether this process, and no other, creates the run now. Raises ``OSError`` for what the disk says."""
    run_folder.mkdir(parents=True, exist_ok=True)
    claims = sorted(run_folder.glob("claim-*"))
    number = 0
    if claims:
        if _ours(claims[-1]):
            return True
        if _holds(claims[-1]):
            return False
        number = int(claims[-1].name.partition("-")[2]) + 1
    try:
        with (run_folder / f"claim-{number:05d}").open("xb", buffering=0) as file:
            file.write(json.dumps(process.identity()).encode())
    except FileExistsError:
        return False
    return True


def _ours(claim: Path) -> bool:
    here, found = process.identity(), _owner(claim)
    return all(found.get(name) == here[name] for name in ("host", "boot", "pid", "started"))


def _holds(claim: Path) -> bool:
    lives = process.lives(owner) if (owner := _owner(claim)) else None
    if lives is not None:
        return lives
    try:
        return time.time() - claim.stat().st_mtime < _CLAIM_S
    except OSError:
        return False


def _owner(claim: Path) -> dict[str, object]:
    try:
        owner = json.loads(claim.read_bytes())
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def newest_status_ms(run_folder: Path) -> int:
    """When the newest status that any sender has delivered was spooled (Unix, ms)."""
    newest = 0
    for notes in run_folder.glob("status.ack-*"):
        try:
            data = notes.read_bytes()
            for one in frame.scan(data).frames:
                newest = max(newest, int(frame.decode_json(data, one).get("status_ms", 0)))
        except (OSError, ValueError, BadRecordError):
            continue
    return newest


def note_status(run_folder: Path, at_ms: int) -> None:
    """Say that a status that was spooled then has been delivered."""
    try:
        with (run_folder / f"status.ack-{process.host()}-{os.getpid()}").open("ab", buffering=0) as file:
            file.write(frame.encode_json(frame.MARK, {"status_ms": at_ms}))
    except OSError:
        pass
