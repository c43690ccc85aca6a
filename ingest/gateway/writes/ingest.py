"""Points of many runs in one request, in columns: the decoding, checking and storing behind the ingest route.

Names are checked once each, a run's verdict is asked once, and values are not looked at: they go into queue records as
they came. What is refused (a run, a name, timestamps before 1970) is named in the answer; the rest is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson

from runstream.ingest.gateway.http.admission import Admission, Identity, RefusedError
from runstream.ingest.gateway.http.handling import Call, Outcome, Routes, json_outcome
from runstream.ingest.gateway.writes.batching import Batcher
from runstream.ingest.gateway.writes.columns import RunColumns
from runstream.ingest.gateway.writes.frames import read_arrow, read_frames
from runstream.schemas import frame
from runstream.schemas.errors import BadRecordError, MlflowError
from runstream.schemas.mlflow.names import KnownNames, check_length, check_name, is_run_id
from runstream.schemas.wire import API, ARROW

FRAMES = "application/vnd.runstream.frames"
_READERS: dict[str, Callable[[bytes, int], list[RunColumns]]] = {FRAMES: read_frames, ARROW: read_arrow}
# Of what is sent at once no more points share a record than this, so that records stay near their bound.
_POINTS_PER_RECORD = 10_000
# Bodies larger than this are decoded beside the loop.
_LARGE_BYTES = 128 << 10
# Packed frames may grow to this many times the largest body.
_GROWTH = 4


class Ingest:
    """Belongs to one event loop, like the batcher."""

    def __init__(
        self,
        batcher: Batcher,
        admission: Admission,
        *,
        max_body_bytes: int,
        creates: Callable[[], bool] = lambda: False,
    ) -> None:
        self._batcher = batcher
        self._admission = admission
        self._max_body_bytes = max_body_bytes
        self._creates = creates
        self._names = KnownNames()

    def offers(self) -> dict[str, Any]:
        """What this route takes, for clients to find out."""
        return {
            "frames": frame.VERSION,
            "types": list(_READERS),
            "create": self._creates(),
            "max_bytes": self._max_body_bytes,
        }

    def add_to(self, routes: Routes, prefix: str) -> None:
        """Serve ``/api/1.0/runstream/ingest``."""
        for base in {"", prefix}:
            routes.add("GET", f"{base}{API}/ingest", self._say, name="ingest")
            routes.add("POST", f"{base}{API}/ingest", self._take, name="ingest")

    async def _say(self, _: Call) -> Outcome:
        return json_outcome(self.offers())

    async def _take(self, call: Call) -> Outcome:
        body, call.body = call.body, b""  # it may be long until all is durable
        return json_outcome(await self.store(body, call.headers.get("content-type"), call.identity))

    async def store(self, body: bytes, content_type: str | None, identity: Identity) -> dict[str, Any]:
        """Store what a body holds; returns when it is durable.

        The answer is ``{"stored": points, "refused": [{"run_id", "key"?, "code", "reason"}]}``. Raises
        ``MlflowError`` for a body that cannot be read, and what the batcher and the admission raise; then nothing is
        known to be stored, and the same may be sent again.
        """
        read = _READERS.get((content_type or "").partition(";")[0].strip().lower())
        if read is None:
            raise MlflowError(f"the type of the body is one of {', '.join(_READERS)}", status=415)
        most = _GROWTH * self._max_body_bytes
        try:
            if len(body) > _LARGE_BYTES:
                found = await asyncio.to_thread(read, body, most)
            else:
                found = read(body, most)
        except BadRecordError as error:
            raise MlflowError(str(error)) from error
        refused: list[dict[str, str]] = []
        allowed = await self._allowed({run.run_id for run in found}, identity, refused)
        waiting: set[asyncio.Future[None]] = set()
        stored = 0
        for run in found:
            if run.run_id in allowed:
                good = self._checked(run, refused)
                stored += len(good)
                for part in good.cut(_POINTS_PER_RECORD):
                    waiting.add(self._batcher.add_nowait(part))
        for durable in waiting:
            # Shared with other requests: never cancelled.
            await asyncio.shield(durable)
        return {"stored": stored, "refused": refused}

    async def _allowed(
        self, run_ids: set[str], identity: Identity, refused: list[dict[str, str]]
    ) -> set[str]:
        async def ask(run_id: str) -> str | None:
            if not is_run_id(run_id):
                refused.append(_no(run_id, "INVALID_PARAMETER_VALUE", f"Invalid run ID: '{run_id}'"))
                return None
            try:
                await self._admission.check(run_id, identity)
            except RefusedError as error:
                if error.answer.status == 401:
                    # Whoever asks is not known at all.
                    raise
                refused.append(_no(run_id, *_words(error)))
                return None
            return run_id

        answers = await asyncio.gather(*map(ask, sorted(run_ids)))
        return {run_id for run_id in answers if run_id is not None}

    def _checked(self, run: RunColumns, refused: list[dict[str, str]]) -> RunColumns:
        """The points that MLflow's rules allow."""
        kept = None
        if not self._names.all_valid(run.names):
            bad = []
            for place, name in enumerate(run.names):
                if (reason := _wrong(name)) is not None:
                    bad.append(place)
                    if (run.codes == place).any():
                        refused.append(_no(run.run_id, "INVALID_PARAMETER_VALUE", reason, name))
            kept = ~np.isin(run.codes, bad)
        if len(run) and int(run.timestamps.min()) < 0:
            early = run.timestamps < 0
            for place in np.unique(run.codes[early]).tolist():
                reason = "Timestamps must be non-negative integers (Unix, in milliseconds)"
                refused.append(_no(run.run_id, "INVALID_PARAMETER_VALUE", reason, run.names[place]))
            kept = ~early if kept is None else kept & ~early
        return run if kept is None else run.only(kept)


def _wrong(name: str) -> str | None:
    """Why this cannot be a metric's name; ``None`` if it can."""
    if not name:
        return "Metric name cannot be empty"
    try:
        check_name(name, "name")
        check_length("name", name)
    except MlflowError as error:
        return error.message
    return None


def _no(run_id: str, code: str, reason: str, key: str | None = None) -> dict[str, str]:
    refusal = {"run_id": run_id, "code": code, "reason": reason}
    return refusal if key is None else {**refusal, "key": key}


def _words(error: RefusedError) -> tuple[str, str]:
    """MLflow's code and message, from its answer."""
    try:
        value = orjson.loads(error.answer.body)
        return str(value["error_code"]), str(value["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.answer.status), error.answer.body[:200].decode(errors="replace")
