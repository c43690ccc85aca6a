"""A run as a small object, with the names that users of Azure ML know."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import pyarrow as pa


class RunReads(Protocol):
    """What a run asks its server for."""

    @property
    def uri(self) -> str:
        """The server's address."""
        ...

    def get_metrics(self, runs: Any, keys: str | None, *, as_: Literal["arrow"]) -> pa.Table:
        """Points of a run."""
        ...

    def get_run(self, run_id: Any) -> Run:
        """A run as it is now."""
        ...


class Run:
    """A run as it was when it was read; metrics are read anew at each call."""

    def __init__(self, connection: RunReads, run: Mapping[str, Any]) -> None:
        info, data = run["info"], run.get("data", {})
        self._connection = connection
        self._info = info
        self._inputs = run.get("inputs", {})
        self.run_id: str = info["run_id"]
        self.name: str | None = info.get("run_name")
        self.experiment_id: str = info["experiment_id"]
        self.status: str = info.get("status", "")
        self.params: dict[str, str] = {item["key"]: item.get("value", "") for item in data.get("params", [])}
        self.tags: dict[str, str] = {item["key"]: item.get("value", "") for item in data.get("tags", [])}
        self.metrics: dict[str, float] = {
            item["key"]: float(item["value"]) for item in data.get("metrics", [])
        }

    @property
    def id(self) -> str:
        """The run id."""
        return self.run_id

    def get_metrics(self, name: str | None = None) -> dict[str, Any]:
        """``{name: value}``, or ``{name: [values]}`` where more than one was logged, in the order of steps.

        ``name`` may be a metric's name or a glob.
        """
        table = self._connection.get_metrics(self.run_id, name, as_="arrow")
        found: dict[str, list[float]] = {}
        for key, value in zip(
            table.column("key").to_pylist(), table.column("value").to_pylist(), strict=True
        ):
            found.setdefault(key, []).append(value)
        return {key: values[0] if len(values) == 1 else values for key, values in found.items()}

    def get_details(self) -> dict[str, Any]:
        """What is known of the run, under Azure ML's names where it has one."""
        return {
            "runId": self.run_id,
            "runName": self.name,
            "experimentId": self.experiment_id,
            "status": self.status,
            "startTimeUtc": _utc(self._info.get("start_time")),
            "endTimeUtc": _utc(self._info.get("end_time")),
            "user": self._info.get("user_id"),
            "lifecycleStage": self._info.get("lifecycle_stage"),
            "artifactUri": self._info.get("artifact_uri"),
            "parameters": dict(self.params),
            "tags": dict(self.tags),
            "metrics": dict(self.metrics),
            "inputDatasets": list(self._inputs.get("dataset_inputs", [])),
            "portalUrl": self.get_portal_url(),
        }

    def get_portal_url(self) -> str:
        """The address of the run's page in the UI."""
        return f"{self._connection.uri}/#/experiments/{self.experiment_id}/runs/{self.run_id}"

    def get_status(self) -> str:
        """The run's status now."""
        return self._connection.get_run(self.run_id).status

    def __repr__(self) -> str:
        return f"Run(run_id={self.run_id!r}, name={self.name!r}, status={self.status!r})"


def _utc(milliseconds: int | None) -> str | None:
    if not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat().replace("+00:00", "Z")
