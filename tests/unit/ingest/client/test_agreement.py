"""What senders of one folder tell one another: one of them creates a run, and the newest status stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from runstream.ingest.client import process
from runstream.ingest.client.agreement import may_create, newest_status_ms, note_status

_CLAIM = """
import sys; from pathlib import Path; from runstream.ingest.client.agreement import may_create
print(may_create(Path(sys.argv[1])), flush=True)
sys.stdin.readline()
"""


def claiming(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _CLAIM, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_one_process_of_many_may_create_and_another_when_it_is_dead(tmp_path: Path) -> None:
    many = [claiming(tmp_path / "run") for _ in range(4)]
    try:
        said = [one.stdout.readline().strip() for one in many if one.stdout]
        assert sorted(said) == ["False", "False", "False", "True"]
        assert not may_create(tmp_path / "run")
        many[said.index("True")].kill()
        many[said.index("True")].wait()
        assert may_create(tmp_path / "run")
        assert may_create(tmp_path / "run"), "it may try again"
    finally:
        for one in many:
            one.kill()
            one.communicate()


def test_a_claim_of_another_machine_or_a_torn_one_is_given_up_in_time(tmp_path: Path) -> None:
    for number, text in enumerate((json.dumps({**process.identity(), "host": "elsewhere"}), '{"host": "el')):
        folder = tmp_path / str(number)
        folder.mkdir()
        claim = folder / "claim-00000"
        claim.write_text(text)
        assert not may_create(folder)
        long_ago = time.time() - 3_600
        os.utime(claim, (long_ago, long_ago))
        assert may_create(folder)


def test_the_newest_status_of_all_senders(tmp_path: Path) -> None:
    assert newest_status_ms(tmp_path) == 0
    note_status(tmp_path, 50)
    note_status(tmp_path, 40)
    (tmp_path / "status.ack-elsewhere-1").write_bytes(b"torn")
    assert newest_status_ms(tmp_path) == 50
