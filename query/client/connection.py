"""A connection to a Runstream server: metrics in, data frames out."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

import httpx
import pandas as pd
import pyarrow as pa

from runstream.query.client.frames import As, as_result, to_pandas
from runstream.query.client.http import Http, ServerError, tracking_uri
from runstream.query.client.live import Point, follow
from runstream.query.client.progress import Progress
from runstream.query.client.run import Run
from runstream.query.client.runs import experiment_ids, run_ids, search_run_ids
from runstream.query.client.tables import TableAs, View, read_table, table_result
from runstream.schemas.wire import API, ARROW

Range = tuple[int | None, int | None] | None
Keys = str | Sequence[str] | None


class Connection:
    """One server. Thread-safe; every call blocks. Errors are ``ServerError``; wrong arguments
    ``ValueError`` or ``TypeError``.

    Wherever runs are asked for, give a run id, an MLflow run, a DataFrame of ``mlflow.search_runs``, any
    collection of these (10,000 and more), or instead ``experiment=`` and ``filter=`` in MLflow's search
    syntax. Keys are metric names or globs such as ``"train/*"``; none means every metric. Ranges are
    inclusive pairs, ``steps`` in steps and ``time`` in Unix milliseconds, ``None`` being no bound.
    """

    def __init__(self, uri: str | None = None, *, timeout_s: float = 600.0) -> None:
        self._http = Http(uri or tracking_uri(), timeout_s=timeout_s)

    @property
    def uri(self) -> str:
        """The server's address."""
        return self._http.uri

    def get_metrics(
        self,
        runs: Any = None,
        keys: Keys = None,
        *,
        experiment: Any = None,
        filter: str | None = None,
        steps: Range = None,
        time: Range = None,
        max_points: int | None = None,
        method: Literal["lttb", "minmax"] = "lttb",
        as_: As = "pandas",
        progress: bool | None = None,
    ) -> Any:
        """Points of many series in one call: run_id, key, step, timestamp (Unix milliseconds), value.

        With ``max_points`` longer series are thinned out on the server so that the curve looks the same
        (``"lttb"``), or so that each stretch's smallest and largest value stay (``"minmax"``); the first
        and last point, and the ends of stretches of NaN and infinity, stay too. ``as_`` is ``"pandas"``
        (a ``MetricsFrame``), ``"polars"``, ``"arrow"``, or ``"wide"`` (a pandas frame with a row per run
        and step and a column per key).
        """
        body = self._selection(runs, keys, experiment, filter, steps, time)
        if max_points is not None:
            body |= {"max_points": max_points, "method": method}
        return as_result(self._table("metrics/query", body, progress), as_)

    def latest_metrics(
        self,
        runs: Any = None,
        keys: Keys = None,
        *,
        experiment: Any = None,
        filter: str | None = None,
        as_: As = "pandas",
    ) -> Any:
        """The newest point of each series: the largest by step, then timestamp, then value."""
        body = self._selection(runs, keys, experiment, filter)
        return as_result(self._table("metrics/latest", body), as_)

    def summary(
        self,
        runs: Any = None,
        keys: Keys = None,
        *,
        experiment: Any = None,
        filter: str | None = None,
        steps: Range = None,
        time: Range = None,
    ) -> pd.DataFrame:
        """One line per series: count, NaN count, mean, and first, last, min and max, each with where it is."""
        body = self._selection(runs, keys, experiment, filter, steps, time)
        return to_pandas(self._table("metrics/summary", body))

    def aggregate(
        self,
        runs: Any = None,
        keys: Keys = None,
        *,
        over: Literal["runs"] = "runs",
        stats: Sequence[str] = ("mean", "std", "min", "max", "p10", "p90"),
        every: int = 1,
        experiment: Any = None,
        filter: str | None = None,
        steps: Range = None,
        time: Range = None,
    ) -> pd.DataFrame:
        """Statistics over runs, per key and step: a band across seeds.

        ``stats`` may also hold ``median`` and ``count``. ``every`` takes that many steps together.
        """
        if over != "runs":
            raise ValueError("over is 'runs'")
        body = self._selection(runs, keys, experiment, filter, steps, time)
        return to_pandas(self._table("metrics/aggregate", body | {"stats": list(stats), "every": every}))

    def runs(
        self,
        experiments: Any,
        *,
        filter: str | None = None,
        columns: str | Sequence[str] | None = None,
        order_by: str | Sequence[str] | None = None,
        max_results: int | None = None,
        run_view_type: View = "ACTIVE_ONLY",
        as_: TableAs = "pandas",
    ) -> Any:
        """A table of runs: a row for each run of the experiments, in one call for up to 100,000 of them.

        ``experiments`` is a name, an id, an MLflow experiment, or a list of these. ``columns`` are names or globs:
        ``"params.*"``, ``"tags.team"``, ``"attributes.status"``, ``"metrics.loss"`` (the newest value),
        ``"metrics.loss.min"`` (and ``max``, ``mean``, ``first``, ``count``), ``"metrics.loss.at(500)"``; none is
        every attribute, param, tag and newest value. ``filter`` and ``order_by`` are MLflow's search syntax, in
        which these numbers about metrics may be used too: ``"metrics.loss.min < 0.1 and params.lr = '0.1'"``.
        Names that are no plain words stand in backticks there.

        The frame's columns are named as in ``mlflow.search_runs``: ``run_id``, ``status``, ``params.lr``,
        ``metrics.loss``, … ``start_time`` and ``end_time`` are times in UTC; what a run does not have is missing,
        which pandas cannot tell from NaN, and Arrow and polars can. ``as_`` is ``"pandas"``, ``"polars"`` or
        ``"arrow"``.
        """
        table = read_table(
            lambda body: self._table("runs", body),
            experiment_ids(self._http, experiments),
            filter_string=filter,
            columns=columns,
            order_by=order_by,
            max_results=max_results,
            run_view_type=run_view_type,
        )
        return table_result(table, as_)

    def tail(
        self, runs: Any = None, keys: Keys = None, *, experiment: Any = None, filter: str | None = None
    ) -> Iterator[Point]:
        """New points as they land, without end, of at most 1,000 runs.

        A broken connection is taken up where it was. If the server itself was away, what it cannot repeat is asked
        for by timestamp, from a minute before the newest point that was seen: points dated before that are left out.
        """
        wanted = self.wanted_runs(runs, experiment, filter)
        return follow(self._http, wanted, listed(keys), self.fetch)

    def sql(self, query: str, *, as_: As = "pandas", **parameters: Any) -> Any:
        """The result of a read-only query over the view ``metrics(run_id, key, step, timestamp, value)``.

        ClickHouse's dialect, SELECT only; ``{name:Type}`` in the text takes its value from ``parameters``.
        """
        table = self._table("sql", {"query": query, "parameters": parameters})
        return to_pandas(table) if as_ == "pandas" else as_result(table, as_)

    def get_run(self, run_id: Any) -> Run:
        """A run with what MLflow knows of it."""
        (wanted,) = run_ids(run_id)
        found = self._http.json("GET", "/api/2.0/mlflow/runs/get", params={"run_id": wanted})
        return Run(self, found["run"])

    def get_details(self) -> dict[str, Any]:
        """What is known of the server: its address, version, and whether it is ready."""
        ready = self._http.client.get("/ready")
        version = self._http.client.get("/version")
        return {
            "uri": self.uri,
            "mlflow_version": version.text.strip() if version.status_code == 200 else None,
            "ready": ready.status_code == 200,
            "status": ready.text.strip(),
        }

    def get_portal_url(self, run: Any) -> str:
        """The address of a run's page in the UI."""
        return (run if isinstance(run, Run) else self.get_run(run)).get_portal_url()

    def close(self) -> None:
        """Close every connection to the server."""
        self._http.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def client_options(self) -> dict[str, Any]:
        """How to make another client of httpx for this server."""
        return self._http.options()

    def fetch(self, body: Mapping[str, Any]) -> pa.Table:
        """The points that a body of ``POST metrics/query`` asks for."""
        return self._table("metrics/query", body, progress=False)

    def wanted_runs(self, runs: Any, experiment: Any, filter_string: str | None) -> list[str]:
        """Run ids of whatever names runs; see the class."""
        if runs is None:
            found = search_run_ids(self._http, experiment, filter_string)
            if not found:
                raise ValueError("no run matches")
            return found
        if experiment is not None or filter_string is not None:
            raise ValueError("name runs, or an experiment and a filter, not both")
        return run_ids(runs)

    def _selection(
        self,
        runs: Any,
        keys: Keys,
        experiment: Any,
        filter_string: str | None,
        steps: Range = None,
        time: Range = None,
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"runs": self.wanted_runs(runs, experiment, filter_string)}
        named = listed(keys)
        if named is not None:
            body["keys"] = named
        for name, bounds in (("steps", steps), ("time", time)):
            if bounds is not None:
                low, high = bounds
                body[name] = [None if low is None else int(low), None if high is None else int(high)]
        return body

    def _table(self, route: str, body: Mapping[str, Any], progress: bool | None = None) -> pa.Table:
        local = self.uri.startswith(("http://127.0.0.1", "http://localhost"))
        if route.startswith("metrics/"):
            # On the same machine the wire is cheaper than any compression.
            body = {**body, "compression": "none" if local else "lz4"}
        with (
            Progress(progress) as shown,
            self._http.stream("POST", f"{API}/{route}", json=body, headers={"Accept": ARROW}) as response,
        ):
            try:
                with pa.ipc.open_stream(_Body(response, shown)) as reader:
                    batches = []
                    for batch in reader:
                        batches.append(batch)
                        shown.rows(batch.num_rows)
                    return pa.Table.from_batches(batches, schema=reader.schema)
            except httpx.TransportError as error:
                raise ServerError(f"the answer of {self.uri} broke off: {error}") from error


def connect(uri: str | None = None, *, timeout_s: float = 600.0) -> Connection:
    """A connection to a server; without ``uri`` to MLflow's tracking server.

    ``MLFLOW_TRACKING_TOKEN``, or ``MLFLOW_TRACKING_USERNAME`` and ``MLFLOW_TRACKING_PASSWORD``, are used as
    MLflow's client does. Nothing is sent before the first call.
    """
    return Connection(uri, timeout_s=timeout_s)


def listed(keys: Keys) -> list[str] | None:
    """Keys as a list; ``None`` for every key."""
    if keys is None:
        return None
    return [keys] if isinstance(keys, str) else [os.fspath(key) for key in keys]


class _Body(io.RawIOBase):
    """A body that is still arriving, as a file to read Arrow from."""

    def __init__(self, response: httpx.Response, progress: Progress) -> None:
        super().__init__()
        self._chunks = (
            response.iter_raw(1 << 20)
            if not response.headers.get("Content-Encoding")
            else (response.iter_bytes(1 << 20))
        )
        self._progress = progress
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """``size`` bytes, fewer only at the end: that is what Arrow takes a short read for."""
        parts: list[memoryview] = []
        while size != 0:
            if not self._left:
                chunk = next(self._chunks, b"")
                if not chunk:
                    break
                self._progress.received(len(chunk))
                self._left = memoryview(chunk)
            part = self._left if size < 0 else self._left[:size]
            self._left = self._left[len(part) :]
            size -= len(part) if size > 0 else 0
            parts.append(part)
        return b"".join(parts)
