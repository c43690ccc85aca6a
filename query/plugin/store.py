"""MLflow's tracking store with the metric points in Runstream.

Everything but the points stays with MLflow's own ``SqlAlchemyStore``. ``get_run`` and ``search_runs`` need
nothing here: they read ``latest_metrics``, which the writer keeps.

Import this only while a store is built (``runstream.query.plugin.entry``).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

from mlflow.entities import Metric
from mlflow.entities.entity_type import EntityAssociationType
from mlflow.entities.metric import MetricWithRunId
from mlflow.exceptions import MlflowException
from mlflow.store.entities.paged_list import PagedList
from mlflow.store.tracking.dbmodels.models import SqlRun
from mlflow.utils.validation import _validate_metric

from runstream.query.plugin.remote import Remote

# Steps of one request to the query service.
_STEPS_PER_READ = 10_000


def streaming_store(base: Any, *, gateway_url: str, query_url: str, token: str) -> Any:
    """A subclass of one of MLflow's SQLAlchemy stores whose metric points are Runstream's."""
    remote = Remote(gateway_url=gateway_url, query_url=query_url, token=token)
    return type("RunstreamStore", (_StreamingMetrics, base), {"remote": remote})


class _StreamingMetrics:
    """The overridden methods; signatures, results and errors are ``SqlAlchemyStore``'s, MLflow 3.17."""

    remote: ClassVar[Remote]

    if TYPE_CHECKING:

        def ManagedSessionMaker(self, read_only: bool = True) -> AbstractContextManager[Any]: ...

        def _get_run(self, session: Any, run_uuid: str) -> Any: ...

        def _check_run_is_active(self, run: Any) -> None: ...

        def _validate_run_accessible(self, session: Any, run_id: str) -> None: ...

        def _filter_entity_ids(self, session: Any, entity_type: Any, entity_ids: list[str]) -> list[str]: ...

    def _log_metrics(self, run_id: str, metrics: Sequence[Any]) -> None:
        if not metrics:
            return
        single = len(metrics) == 1
        keys, steps, timestamps, values = [], [], [], []
        for position, metric in enumerate(metrics):
            path = "" if single else f"metrics[{position}]"
            _validate_metric(metric.key, metric.value, metric.timestamp, metric.step, path=path)
            keys.append(metric.key)
            steps.append(int(metric.step))
            timestamps.append(int(metric.timestamp))
            values.append(float(metric.value))
        with self.ManagedSessionMaker() as session:
            self._check_run_is_active(self._get_run(run_uuid=run_id, session=session))
        self.remote.append(run_id, keys, steps, timestamps, values)

    def get_metric_history(
        self,
        run_id: str,
        metric_key: str,
        max_results: int | None = None,
        page_token: str | bytes | None = None,
    ) -> Any:
        self._check_accessible([run_id])
        token = page_token.decode() if isinstance(page_token, bytes) else page_token
        points, next_token = self.remote.points(
            "history", run_id=run_id, key=metric_key, max_results=max_results, page_token=token
        )
        metrics = [Metric(metric_key, value, timestamp, step) for _, step, timestamp, value in points]
        return PagedList(metrics, next_token)

    def get_metric_history_bulk(self, run_ids: Sequence[str], metric_key: str, max_results: int) -> list[Any]:
        with self.ManagedSessionMaker() as session:
            known = self._filter_entity_ids(session, EntityAssociationType.RUN, list(run_ids))
        points, _ = self.remote.points(
            "history-bulk", run_ids=list(known), key=metric_key, max_results=max_results
        )
        return _with_run_ids(metric_key, points)

    def get_max_step_for_metric(self, run_id: str, metric_key: str) -> int:
        self._check_accessible([run_id])
        return self.remote.max_step(run_id, metric_key)

    def get_metric_history_bulk_interval_from_steps(
        self, run_id: str, metric_key: str, steps: Sequence[int], max_results: int
    ) -> list[Any]:
        self._check_accessible([run_id])
        wanted = sorted(set(steps))
        found: list[Any] = []
        for start in range(0, len(wanted), _STEPS_PER_READ):
            if len(found) >= max_results:
                break
            points, _ = self.remote.points(
                "history-steps",
                run_id=run_id,
                key=metric_key,
                steps=wanted[start : start + _STEPS_PER_READ],
                max_results=max_results - len(found),
            )
            found += _with_run_ids(metric_key, points)
        return found

    def get_metric_history_bulk_interval(
        self,
        run_ids: Sequence[str],
        metric_key: str,
        max_results: int,
        start_step: int | None,
        end_step: int | None,
    ) -> list[Any]:
        if (start_step is None) != (end_step is None):
            raise MlflowException.invalid_parameter_value(
                "Both start_step and end_step must be specified together, or neither may be specified."
            )
        self._check_accessible(run_ids)
        points, _ = self.remote.points(
            "history-interval",
            run_ids=list(run_ids),
            key=metric_key,
            max_results=max(1, max_results),
            start_step=start_step,
            end_step=end_step,
        )
        return _with_run_ids(metric_key, points)

    def _hard_delete_run(self, run_id: str) -> None:
        with self.ManagedSessionMaker() as session:
            self._get_run(run_uuid=run_id, session=session)
        # Points first: if that fails, the run is still there to be collected again.
        self.remote.delete_runs([run_id])
        super()._hard_delete_run(run_id)  # type: ignore[misc]

    def _hard_delete_experiment(self, experiment_id: str) -> None:
        with self.ManagedSessionMaker() as session:
            of_experiment = SqlRun.experiment_id == int(experiment_id)
            run_ids = [row[0] for row in session.query(SqlRun.run_uuid).filter(of_experiment)]
        if run_ids:
            self.remote.delete_runs(run_ids)
        super()._hard_delete_experiment(experiment_id)  # type: ignore[misc]

    def _check_accessible(self, run_ids: Sequence[str]) -> None:
        with self.ManagedSessionMaker() as session:
            for run_id in run_ids:
                self._validate_run_accessible(session, run_id)


def _with_run_ids(key: str, points: Sequence[tuple[str, int, int, float]]) -> list[Any]:
    return [
        MetricWithRunId(run_id=run_id, metric=Metric(key, value, timestamp, step))
        for run_id, step, timestamp, value in points
    ]
