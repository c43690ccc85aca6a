"""Delivering a spool file: its points in Runstream's frames where the server takes them, else by MLflow's REST calls;
everything else by REST calls, in the order in which it was logged."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runstream.ingest.client.agreement import newest_status_ms, note_status
from runstream.ingest.client.artifacts import upload_all
from runstream.ingest.client.creation import create, find_run
from runstream.ingest.client.link import INGEST, MLFLOW, Link, NotYetError, RefusedError
from runstream.ingest.client.reader import Piece, SpoolFile
from runstream.ingest.client.rest_batches import log_batch
from runstream.schemas import frame
from runstream.schemas.frame import Columns
from runstream.schemas.mlflow.values import json_number

FRAMES_TYPE = "application/vnd.runstream.frames"
# Points of one request: about 1 MB before compression.
_POINTS_PER_REQUEST = 40_000


@dataclass
class Report:
    """What delivery has done and met. ``refused`` holds what the server will never take: a name, and its reason."""

    points: int = 0
    records: int = 0
    requests: int = 0
    refused: dict[str, str] = field(default_factory=dict)

    def refuse(self, what: str, reason: str) -> None:
        """Note a refusal, each name once, and not without bound."""
        if len(self.refused) < 1_000:
            self.refused.setdefault(what, reason)


@dataclass
class _Pending:
    points: list[Columns] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.points or self.params or self.tags)


class Delivery:
    """Delivers the files of one spool through one link. ``complain`` gets each refusal once."""

    def __init__(self, link: Link, complain: Callable[[str, str], None], spool: Path | None = None) -> None:
        self.link = link
        self._spool = spool
        self.report = Report()
        self._complain = complain
        # Names that the server has refused for a run: not offered again.
        self._bad: set[tuple[str, str]] = set()
        # Runs and experiments that had to get other ids than the client gave them.
        self.renamed: dict[str, str] = {}

    def step(self, file: SpoolFile) -> bool:
        """Deliver the next piece of ``file``; whether there was one.

        Raises ``AwayError``, ``DeniedError`` or ``NotYetError``: the file's mark then stands before what is not
        delivered.
        """
        piece = file.read(file.cursor)
        if piece is None:
            return False
        self.link.workspace = file.about.get("workspace")
        try:
            self._deliver(file, piece)
        except RefusedError as error:
            if not error.no_such_run:
                raise
            if self._elsewhere(file.run_id):
                return True
            raise NotYetError(f"run {file.run_id} does not exist on {self.link.uri}") from error
        finally:
            self.link.workspace = None
        file.mark(piece.end)
        return True

    def _elsewhere(self, run_id: str) -> bool:
        """Whether the run has got another id, from a server that chose it itself."""
        if run_id in self.renamed:
            return False
        found = find_run(self.link, run_id)
        if found is None:
            return False
        self.renamed[run_id] = str(found["info"]["run_id"])
        return True

    def artifacts(self, folder: Path, run_id: str) -> int:
        """Upload what waits in a run's folder; how many files."""
        return upload_all(self.link, folder, self.renamed.get(run_id, run_id), self.renamed)

    def _deliver(self, file: SpoolFile, piece: Piece) -> None:
        pending = _Pending()
        for one in piece.frames:
            if one.kind == frame.POINTS:
                if one.count:
                    pending.points.append(frame.decode_points(piece.buffer, one))
                continue
            if one.kind in (frame.FILE, frame.NAMES, frame.MARK, frame.END):
                continue
            if one.kind == frame.PACKED:
                inner = frame.decompress(piece.buffer, one, frame.MAX_PAYLOAD_BYTES)
                self._flush(file, pending)
                self._deliver(file, Piece(inner, frame.scan(inner).frames, 0, len(inner)))
                continue
            value = frame.decode_json(piece.buffer, one)
            if one.kind == frame.PARAMS:
                if any(pending.params.get(key, text) != text for key, text in value.items()):
                    self._flush(file, pending)
                pending.params.update(value)
            elif one.kind == frame.TAGS:
                pending.tags.update(value)
            else:
                self._flush(file, pending)
                self._record(file, one.kind, value, piece.start + one.end)
        self._flush(file, pending)

    # --- records -----------------------------------------------------------------------------------------------

    def _record(self, file: SpoolFile, kind: int, value: dict[str, Any], end: int) -> None:
        run_id = self.renamed.get(file.run_id, file.run_id)
        self.report.requests += 1
        try:
            if kind == frame.CREATE:
                create(self.link, value, self.renamed, self._spool)
            elif kind == frame.STATUS:
                self._status(file, run_id, value)
            elif kind == frame.CALL:
                body = _with_ids(value.get("body") or {}, self.renamed)
                path = "/".join(self.renamed.get(part, part) for part in str(value["path"]).split("/"))
                self.link.call(str(value["method"]), path, body)
            else:
                return
        except (RefusedError, KeyError) as error:
            if isinstance(error, RefusedError) and error.no_such_run:
                raise
            if isinstance(error, RefusedError) and error.repeated:
                self.report.records += 1
                return
            self._refuse(
                file.run_id, f"record {kind} {value.get('path', value.get('status', ''))}", str(error)
            )
        self.report.records += 1
        if end > file.cursor and kind != frame.MARK:
            # What is not a point is not sent again after a crash, if that can be helped.
            file.mark(end)

    def _status(self, file: SpoolFile, run_id: str, value: dict[str, Any]) -> None:
        """A run that went on in another process has a status of a later time, which stays."""
        at_ms = int(value.pop("time_ms", 0))
        if at_ms and at_ms < newest_status_ms(file.path.parent):
            return
        self.link.call("POST", f"{MLFLOW}/runs/update", {"run_id": run_id, "run_uuid": run_id, **value})
        if at_ms:
            note_status(file.path.parent, at_ms)

    def _refuse(self, run_id: str, what: str, reason: str) -> None:
        self.report.refuse(f"{run_id}: {what}", reason)
        self._complain(f"refused {what}", f"the server refuses {what} of run {run_id}: {reason}")

    # --- points, params, tags ----------------------------------------------------------------------------------

    def _flush(self, file: SpoolFile, pending: _Pending) -> None:
        if not pending:
            return
        run_id = self.renamed.get(file.run_id, file.run_id)
        if pending.params or pending.tags:
            for body in _pairs(pending.params, pending.tags):
                self._rest(run_id, body)
        if pending.points:
            points = frame.joined(pending.points)
            if self.link.offers().get("frames"):
                for part in _cut(points, _POINTS_PER_REQUEST):
                    self._send_frames(file, run_id, part)
            else:
                self._send_metrics(file, run_id, points)
        pending.points.clear()
        pending.params.clear()
        pending.tags.clear()

    def _send_frames(self, file: SpoolFile, run_id: str, points: Columns) -> None:
        used = set(memoryview(points.codes).cast("I"))
        names = [(code, file.names[code]) for code in sorted(used) if code in file.names]
        body = frame.compress(
            frame.encode_json(frame.FILE, {"run_id": run_id})
            + frame.encode_names(names)
            + frame.encode_columns(points)
        )
        self.report.requests += 1
        try:
            answer = self.link.request("POST", INGEST, body, content_type=FRAMES_TYPE)
        except RefusedError as error:
            if error.status in (404, 405, 415):
                # Another server stands there now.
                self.link.forget_offers()
                self._send_metrics(file, run_id, points)
                return
            self._refuse(file.run_id, "points", str(error))
            return
        for one in answer.get("refused", []):
            if (
                not one.get("key")
                and (refusal := RefusedError(0, one.get("code", ""), one["reason"])).no_such_run
            ):
                raise refusal
            self._refuse(
                file.run_id,
                f"metric {one.get('key')!r}" if one.get("key") else "points",
                one.get("reason", ""),
            )
        self.report.points += int(answer.get("stored", len(points)))

    def _send_metrics(self, file: SpoolFile, run_id: str, points: Columns) -> None:
        for part in _cut(points, 1_000):
            metrics = list(_metrics(part, file.names))
            metrics = [one for one in metrics if (run_id, f"metric {one['key']!r}") not in self._bad]
            if metrics:
                self._rest(run_id, {"metrics": metrics})

    def _rest(self, run_id: str, body: dict[str, list[dict[str, Any]]]) -> None:
        """One log-batch; where it is refused, the part that is to blame is found, and the rest stored."""

        def refused(what: str, reason: str) -> None:
            self._bad.add((run_id, what))
            self._refuse(run_id, what, reason)

        self.report.requests += 1
        self.report.points += log_batch(self.link, run_id, body, refused)


def _cut(points: Columns, most: int) -> Iterator[Columns]:
    count = len(points)
    if count <= most:
        yield points
        return
    for at in range(0, count, most):
        end = min(at + most, count)
        first, last = 8 * at, 8 * end
        yield Columns(
            points.steps[first:last],
            points.timestamps[first:last],
            points.values[first:last],
            points.codes[4 * at : 4 * end],
        )


def _metrics(points: Columns, names: dict[int, str]) -> Iterator[dict[str, Any]]:
    count = len(points)
    steps = struct.unpack(f"<{count}q", points.steps)
    timestamps = struct.unpack(f"<{count}q", points.timestamps)
    values = struct.unpack(f"<{count}d", points.values)
    codes = struct.unpack(f"<{count}I", points.codes)
    for step, timestamp, value, code in zip(steps, timestamps, values, codes, strict=True):
        if (name := names.get(code)) is not None:
            yield {"key": name, "value": json_number(value), "timestamp": timestamp, "step": step}


def _pairs(params: dict[str, str], tags: dict[str, str]) -> Iterator[dict[str, list[dict[str, Any]]]]:
    for name, pairs in (("params", params), ("tags", tags)):
        listed = [{"key": key, "value": value} for key, value in pairs.items()]
        for at in range(0, len(listed), 100):
            yield {name: listed[at : at + 100]}


def _with_ids(body: Any, renamed: dict[str, str]) -> Any:
    if not renamed:
        return body
    if isinstance(body, dict):
        return {key: _with_ids(value, renamed) for key, value in body.items()}
    if isinstance(body, list):
        return [_with_ids(value, renamed) for value in body]
    return renamed.get(body, body) if isinstance(body, str) else body
