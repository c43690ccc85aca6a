"""A small local log, cut off or corrupted at every byte: nothing whole is lost, nothing false delivered."""

from __future__ import annotations

from pathlib import Path

import pytest

from runstream.ingest.queue.local.files import (
    CommitFile,
    list_segments,
    segment_name,
    stream_dir,
)
from runstream.ingest.queue.local.frame import HEADER_BYTES, encode_header
from runstream.ingest.queue.local.segment import SegmentWriter
from runstream.ingest.queue.local.stream import StreamConsumer
from runstream.ingest.queue.protocol import Message

PAYLOADS = [b"first", b"", b"third record", b"R" * 40, b"last"]


def starts() -> list[int]:
    found, at = [], 0
    for payload in PAYLOADS:
        found.append(at)
        at += HEADER_BYTES + len(payload)
    return [*found, at]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    directory = stream_dir(tmp_path, 0)
    directory.mkdir()
    writer = SegmentWriter(directory, segment_bytes=1 << 20)
    writer.append(PAYLOADS)
    writer.close()
    return tmp_path


def segment_of(log: Path, base: int = 0) -> Path:
    return stream_dir(log, 0) / segment_name(base)


def reopen_and_append(log: Path, payload: bytes) -> SegmentWriter:
    """What a restarted producer does."""
    committed = CommitFile(stream_dir(log, 0))
    writer = SegmentWriter(stream_dir(log, 0), segment_bytes=1 << 20, at_least=committed.read() or 0)
    committed.close()
    writer.append([payload])
    writer.close()
    return writer


def read_all(stream: StreamConsumer) -> list[Message]:
    found: list[Message] = []
    while stream.has_news() and (more := stream.read(1 << 20)):
        found += more
    return found


def consume(log: Path) -> list[Message]:
    stream = StreamConsumer(log, 0)
    found = read_all(stream)
    assert stream.end() == (found[-1].next_offset if found else 0)
    stream.close()
    return found


def test_cut_at_every_byte(log: Path) -> None:
    whole = segment_of(log).read_bytes()
    for cut in range(len(whole)):
        for path in stream_dir(log, 0).iterdir():
            path.unlink()
        segment_of(log).write_bytes(whole[:cut])
        kept = [p for p, end in zip(PAYLOADS, starts()[1:], strict=True) if end <= cut]

        waiting = StreamConsumer(log, 0)
        assert [m.payload for m in read_all(waiting)] == kept
        assert waiting.end() == starts()[len(kept)], "a reader must not wait for a torn record"

        reopen_and_append(log, b"after the restart")
        found = read_all(waiting)
        assert [(m.payload, m.fault) for m in found] == [(b"after the restart", None)]
        assert waiting.end() == found[-1].next_offset
        waiting.close()
        assert [m.payload for m in consume(log)] == [*kept, b"after the restart"]


@pytest.mark.parametrize("reopened", [False, True])
def test_a_flipped_bit_at_every_byte(log: Path, reopened: bool) -> None:
    """The damaged record is reported, the others arrive. Damage to the newest record is reported once the
    segment is closed; until then it might be a write under way."""
    whole = segment_of(log).read_bytes()
    for at in range(len(whole)):
        for path in stream_dir(log, 0).iterdir():
            path.unlink()
        segment_of(log).write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        hit = next(i for i in range(len(PAYLOADS)) if starts()[i + 1] > at)
        expected = [p for i, p in enumerate(PAYLOADS) if i != hit]
        if reopened:
            reopen_and_append(log, b"after the restart")
            expected.append(b"after the restart")
        messages = consume(log) if reopened else read_all(StreamConsumer(log, 0))
        assert [m.payload for m in messages if m.fault is None] == expected
        faults = [m for m in messages if m.fault is not None]
        header_of_newest = hit == len(PAYLOADS) - 1 and at < starts()[hit] + HEADER_BYTES
        if header_of_newest and not reopened:
            assert faults == []
        else:
            assert [(m.offset, m.next_offset) for m in faults] == [(starts()[hit], starts()[hit + 1])]


@pytest.mark.parametrize("zeros", [0, 5, 16, 5000])
def test_a_torn_tail_is_dropped_silently(log: Path, zeros: int) -> None:
    """A file that power loss has left with zeros at its end, or with half a record."""
    size = segment_of(log).stat().st_size
    with segment_of(log).open("ab") as file:
        file.write(bytes(zeros) or encode_header(size, b"x" * 50) + b"x" * 49)
    reopen_and_append(log, b"new")
    assert [(m.payload, m.fault) for m in consume(log)] == [(p, None) for p in [*PAYLOADS, b"new"]]


def test_damage_at_the_end_is_reported_as_soon_as_a_producer_is_back(log: Path) -> None:
    with segment_of(log).open("ab") as file:
        file.write(b"this was never a record, and it is no zeros")
    stream = StreamConsumer(log, 0)
    assert len(read_all(stream)) == len(PAYLOADS)
    SegmentWriter(stream_dir(log, 0), segment_bytes=1 << 20).close()
    (fault,) = read_all(stream)
    assert fault.fault is not None
    assert fault.payload.startswith(b"this was never")
    stream.close()


def test_a_committed_offset_past_the_end_is_never_used_again(log: Path) -> None:
    """Power loss after a record was consumed and before it was synced: the file is shorter than what is
    applied."""
    stream = StreamConsumer(log, 0)
    end = read_all(stream)[-1].next_offset
    stream.commit(end)
    stream.close()
    with segment_of(log).open("r+b") as file:
        file.truncate(starts()[3])
    reopen_and_append(log, b"new")
    assert list_segments(stream_dir(log, 0)) == [0, end]
    assert [(m.offset, m.payload) for m in consume(log)] == [(end, b"new")]


def test_a_damaged_commit_slot_falls_back_to_the_other(log: Path) -> None:
    commits = CommitFile(stream_dir(log, 0))
    assert commits.read() is None
    for offset in (10, 20, 30):
        commits.write(offset)
    commits.close()
    path = stream_dir(log, 0) / "committed"
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        again = CommitFile(stream_dir(log, 0))
        assert again.read() in (20, 30)
        again.close()
    path.write_bytes(b"")
    assert CommitFile(stream_dir(log, 0)).read() is None


def test_a_lost_commit_file_means_reading_again(log: Path) -> None:
    reopen_and_append(log, b"more")
    segment_of(log).unlink()  # consumed and removed; the offset that said so is gone
    assert [m.payload for m in consume(log)] == [b"more"]
