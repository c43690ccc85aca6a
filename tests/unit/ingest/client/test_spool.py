"""The spool: what a call has written is there, whatever happens next; nothing is raised into a training."""

from __future__ import annotations

import errno
import math
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runstream.ingest.client import process
from runstream.ingest.client.reader import SpoolFile, furthest_mark, spool_files
from runstream.ingest.client.spool import RunSpool, run_folder
from runstream.schemas import frame

Point = tuple[str, int, int, float]


class Complaints(dict[str, str]):
    def __call__(self, kind: str, sentence: str) -> None:
        self.setdefault(kind, sentence)


def make(spool: Path, **options: object) -> tuple[RunSpool, Complaints]:
    complaints = Complaints()
    about = {"run_id": "r1", "uri": "http://server"}
    return RunSpool(run_folder(spool, "r1"), about, complaints, **options), complaints  # type: ignore[arg-type]


def points_of(path: Path) -> list[Point]:
    file, at, found = SpoolFile(path), 0, []
    while (piece := file.read(at)) is not None:
        for one in piece.frames:
            if one.kind == frame.POINTS:
                columns = frame.decode_points(piece.buffer, one)
                count = len(columns)
                found += [
                    (file.names[code], step, timestamp, value)
                    for step, timestamp, value, code in zip(
                        *(
                            struct.unpack(f"<{count}{kind}", raw)
                            for kind, raw in zip("qqdI", columns, strict=True)
                        ),
                        strict=True,
                    )
                ]
        at = piece.end
    return found


def all_points(spool: Path) -> list[Point]:
    return sorted(point for path in spool_files(spool) for point in points_of(path))


def test_points_are_in_the_file_when_the_call_returns(tmp_path: Path) -> None:
    spool, complaints = make(tmp_path)
    spool.point("loss", 1, 10, 0.5)
    spool.several(["a", "loss"], [2, 3], [20, 30], [math.inf, -0.0])
    assert all_points(tmp_path) == [("a", 2, 20, math.inf), ("loss", 1, 10, 0.5), ("loss", 3, 30, -0.0)]
    assert (spool.points, spool.dropped, complaints) == (3, 0, {})
    file = SpoolFile.open(next(spool_files(tmp_path)))
    assert file is not None
    assert (file.run_id, file.about["pid"], file.finished()) == ("r1", os.getpid(), False)
    spool.close()
    assert SpoolFile.open(next(spool_files(tmp_path))).finished()  # type: ignore[union-attr]


def test_what_is_no_point_is_left_out_and_said_once_and_the_others_go_on(tmp_path: Path) -> None:
    spool, complaints = make(tmp_path)
    spool.several(["a", "b", "c"], [1, 2**63, 3], [0, 0, 0], [1.0, 2.0, "x"])  # type: ignore[list-item]
    spool.point("d", 1.0, 0, True)  # type: ignore[arg-type]
    spool.point("e", 1, 0, None)  # type: ignore[arg-type]
    spool.point(None, 1, 0, 1.0)  # type: ignore[arg-type]
    assert [point[0] for point in all_points(tmp_path)] == ["None", "a", "d"]
    assert spool.dropped == 3
    assert len(complaints) == 3


class _Odd:
    """A tensor of many elements is like that: a conversion that raises what it likes."""

    def __float__(self) -> float:
        raise RuntimeError("cannot be converted to a scalar")

    def __str__(self) -> str:
        raise RuntimeError("no text either")

    def __hash__(self) -> int:
        raise RuntimeError("unhashable")


def test_nothing_that_a_caller_passes_is_raised_at_it(tmp_path: Path) -> None:
    spool, complaints = make(tmp_path)
    odd: list[tuple[object, object, object]] = [
        ("a", 1, _Odd()),
        (_Odd(), 1, 1.0),
        ("k" * 17_000_000, 1, 1.0),
        ("a", math.nan, 1.0),
        ("a", 1, 1j),
        ("a", 1, 10**400),
        ("a", None, None),
    ]
    for key, step, value in odd:
        spool.point(key, step, 0, value)  # type: ignore[arg-type]
    spool.several(["a", "b"], [1, 2], [0, 0], [_Odd(), 2.0])  # type: ignore[list-item]
    spool.point("lone \ud800 surrogate", 3, 0, 3.0)
    spool.record(frame.PARAMS, {"huge": "x" * 17_000_000, "small": "1"})
    spool.record(frame.TAGS, {"odd": _Odd()})
    assert [point[1:] for point in all_points(tmp_path)] == [(2, 0, 2.0), (3, 0, 3.0)]
    assert (spool.points, spool.dropped) == (2, 8)
    assert any("huge" in sentence for sentence in complaints.values())
    file, kept = SpoolFile(next(spool_files(tmp_path))), []
    piece = file.read(0, 64 << 20)
    assert piece is not None
    for one in piece.frames:
        if one.kind == frame.PARAMS:
            kept.append(frame.decode_json(piece.buffer, one))
    assert kept == [{"small": "1"}]


def test_threads_lose_and_mix_nothing(tmp_path: Path) -> None:
    spool, complaints = make(tmp_path, part_bytes=40_000)

    def log(thread: int) -> None:
        for step in range(500):
            spool.point(f"k{thread}", step, 0, thread)
            if step % 5 == 0:
                spool.several([f"n{thread}/{step}", "shared"], [step, step], [thread, thread], [1.0, 2.0])

    threads = [threading.Thread(target=log, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (spool.dropped, complaints) == (0, {})
    assert len(list(spool_files(tmp_path))) > 3, "it has gone on in further files"
    wanted = [(f"k{t}", step, 0, float(t)) for t in range(8) for step in range(500)]
    wanted += [(f"n{t}/{step}", step, t, 1.0) for t in range(8) for step in range(0, 500, 5)]
    wanted += [("shared", step, t, 2.0) for t in range(8) for step in range(0, 500, 5)]
    assert all_points(tmp_path) == sorted(wanted)


def test_a_full_spool_counts_what_it_loses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    room = False
    spool, complaints = make(tmp_path, may_grow=lambda: room)
    for step in range(10):
        spool.point("loss", step, 0, 1.0)
    spool.record(frame.STATUS, {"status": "FAILED"})
    assert (spool.points, spool.dropped) == (0, 10)
    assert "RUNSTREAM_SPOOL_MAX_BYTES" in complaints["full"]
    room = True
    spool.point("loss", 10, 0, 1.0)
    assert all_points(tmp_path) == [("loss", 10, 0, 1.0)]


def test_a_disk_that_refuses_loses_points_and_keeps_records_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, complaints = make(tmp_path)
    spool.point("loss", 0, 0, 1.0)
    real = os.write

    def full(fd: int, data: bytes) -> int:
        # As Linux does: what fits is written, then nothing.
        if len(data) > 20 and fd > 2:
            return real(fd, data[:20]) if data[3] == frame.POINTS else _raise()
        return real(fd, data)

    def _raise() -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        spool.point("loss", 1, 0, 1.0)
        spool.several(["loss", "loss"], [2, 3], [0, 0], [1.0, 1.0])
        spool.record(frame.STATUS, {"status": "KILLED"})
    assert spool.dropped == 3
    assert "No space left" in complaints["disk"] or "full" in complaints["disk"]
    spool.point("loss", 4, 0, 1.0)
    spool.record(frame.TAGS, {"a": "b"})
    assert [point[1] for point in all_points(tmp_path)] == [0, 4]
    file = SpoolFile(next(spool_files(tmp_path)))
    piece = file.read(0)
    assert piece is not None
    assert [one.kind for one in piece.frames][-2:] == [frame.STATUS, frame.TAGS]


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    spool, complaints = make(tmp_path)
    spool.point("loss", 0, 0, 1.0)
    spool.record(frame.TAGS, {"a": "b"})
    spool.close()
    assert spool.dropped == 1
    assert "disk" in complaints


def test_marks_are_the_furthest_of_all_senders(tmp_path: Path) -> None:
    spool, _ = make(tmp_path)
    for step in range(10):
        spool.point("loss", step, 0, 1.0)
    path = next(spool_files(tmp_path))
    file = SpoolFile.open(path)
    assert file is not None
    piece = file.read(0)
    assert piece is not None
    file.mark(piece.end)
    other = path.with_name(f"{path.name}.ack-elsewhere-1")
    other.write_bytes(frame.encode_json(frame.MARK, {"offset": 8}) + b"torn")
    assert furthest_mark(path) == piece.end
    spool.point("loss", 10, 0, 1.0)
    again = SpoolFile.open(path)
    assert again is not None
    rest = again.read(again.cursor)
    assert rest is not None
    assert sum(one.points for one in rest.frames) == 1
    assert again.names == {0: "loss"}, "the dictionary before the mark is known"


def test_no_file_has_the_name_of_one_that_was_delivered(tmp_path: Path) -> None:
    names = set()
    for _ in range(3):
        spool, _ = make(tmp_path)
        spool.point("loss", 0, 0, 1.0)
        spool.close()
        (path,) = spool_files(tmp_path)
        names.add(path.name)
        path.unlink()
    assert len(names) == 3


def test_a_writer_that_is_dead_is_known_to_be(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from runstream.ingest.client.spool import RunSpool, run_folder\n"
        "s = RunSpool(run_folder(Path(sys.argv[1]), 'r1'), {'run_id': 'r1', 'uri': 'u'}, print)\n"
        "s.point('loss', 1, 2, 3.0)\nimport os; os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=60)
    file = SpoolFile.open(next(spool_files(tmp_path)))
    assert file is not None
    assert file.finished()
    assert all_points(tmp_path) == [("loss", 1, 2, 3.0)]
    assert process.lives({**file.about, "host": "another"}) is None
    assert process.lives(process.identity()) is True


def test_ranks_are_found_in_the_environment_of_launchers() -> None:
    assert process.rank({"RANK": "3", "SLURM_PROCID": "5"}) == 3
    assert process.rank({"OMPI_COMM_WORLD_RANK": "7"}) == 7
    assert process.rank({"RANK": "none"}) is None
    assert process.node({"SLURM_NODEID": "2"}) == 2


def test_system_metrics_are_named_by_node_and_rank() -> None:
    def named(**environment: str) -> str | None:
        process.name_node(environment)
        return environment.get("MLFLOW_SYSTEM_METRICS_NODE_ID")

    assert named(RANK="3", GROUP_RANK="1") == "node1-rank3"
    assert named(RANK="3") == f"{process.host()}-rank3"
    assert named(RANK="3", MLFLOW_SYSTEM_METRICS_NODE_ID="mine") == "mine"
    assert named() is None, "one process alone has nothing to collide with"
