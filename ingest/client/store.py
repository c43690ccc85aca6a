"""MLflow's tracking store for a server, with a spool in between: writes return when they are in a file.

A subclass of MLflow's ``RestStore``, so that everything it does not know is MLflow's own. Works from MLflow 2.22 on.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

from mlflow.entities import Experiment, Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.protos import service_pb2 as pb
from mlflow.store.tracking import rest_store
from mlflow.store.tracking.rest_store import RestStore
from mlflow.utils.async_logging.run_operations import RunOperations
from mlflow.utils.proto_json_utils import message_to_json, parse_dict

from runstream.ingest.client import lifecycle, local_models, local_runs, process
from runstream.ingest.client.client import Client, client_for
from runstream.ingest.client.creation import create
from runstream.ingest.client.link import AwayError, DeniedError, NotYetError, RefusedError
from runstream.ingest.client.settings import SpoolSettings
from runstream.ingest.client.spool import now_ms
from runstream.schemas import frame

# Calls whose answer nobody reads, spooled as they are: the message, and where it says which run it is for.
_SPOOLED = ("LogInputs", "LogOutputs", "LogModel", "DeleteTag")
_RUNS_KEPT = 256
# Begins the names of MLflow's system metrics (SystemMetricsMonitor).
_SYSTEM = "system/"
_METRIC_HOOK = "_log_inputs_for_metrics_if_necessary"


def spooling_store(store_uri: str, settings: SpoolSettings) -> Any:
    """The store for this address."""
    from mlflow.utils.credentials import get_default_host_creds

    process.name_node()
    return SpoolingStore(partial(get_default_host_creds, store_uri), client_for(store_uri, settings))


class SpoolingStore(RestStore):  # type: ignore[misc]
    """See the module."""

    def __init__(self, get_host_creds: Any, client: Client) -> None:
        super().__init__(get_host_creds)
        self.client = client
        self._spools = client.spools
        self._auto_step = client.settings.auto_step
        self._known: dict[str, dict[str, Any]] = {}

    # --- writes ------------------------------------------------------------------------------------------------

    def log_metric(self, run_id: str, metric: Any) -> None:
        if getattr(metric, "model_id", None) is not None:
            self._model_metrics(run_id, [metric])
            return
        spool = self._spools.get(run_id) or self.client.spool(run_id)
        step = metric.step
        if self._auto_step and not step:
            step = spool.next_step(metric.key)
        spool.point(metric.key, step, metric.timestamp, metric.value)

    def log_batch(self, run_id: str, metrics: Any, params: Any, tags: Any) -> None:
        spool = self._spools.get(run_id) or self.client.spool(run_id)
        if params:
            spool.record(frame.PARAMS, {param.key: str(param.value) for param in params})
        if tags:
            spool.record(frame.TAGS, {tag.key: str(tag.value) for tag in tags})
        if not metrics:
            return
        of_models = [metric for metric in metrics if getattr(metric, "model_id", None) is not None]
        if of_models:
            self._model_metrics(run_id, of_models)
            metrics = [metric for metric in metrics if getattr(metric, "model_id", None) is None]
        metrics = [*metrics, *self._own_metrics(metrics[0])] if metrics else ()
        keys = [metric.key for metric in metrics]
        steps = [metric.step for metric in metrics]
        if self._auto_step:
            steps = [step or spool.next_step(key) for key, step in zip(keys, steps, strict=True)]
        times, values = [metric.timestamp for metric in metrics], [metric.value for metric in metrics]
        for at in range(0, len(keys), 1_000):
            end = at + 1_000
            spool.several(keys[at:end], steps[at:end], times[at:end], values[at:end])

    def _own_metrics(self, first: Any) -> list[Any]:
        """Where MLflow logs metrics of the system, those of the spool go with them: of the same node and step."""
        if not first.key.startswith(_SYSTEM):
            return []
        place = first.key.rpartition("/")[0]
        return [
            Metric(f"{place}/{name}", value, first.timestamp, first.step)
            for name, value in self.client.status().numbers().items()
        ]

    def _model_metrics(self, run_id: str, metrics: Any) -> None:
        """Points of logged models are MLflow's own, which records them for the model and for the run."""
        listed = [json.loads(message_to_json(metric.to_proto())) for metric in metrics]
        self._spool_call(
            run_id, "POST", "/api/2.0/mlflow/runs/log-batch", {"run_id": run_id, "metrics": listed}
        )

    def log_param(self, run_id: str, param: Any) -> None:
        self.client.spool(run_id).record(frame.PARAMS, {param.key: str(param.value)})

    def set_tag(self, run_id: str, tag: Any) -> None:
        self.client.spool(run_id).record(frame.TAGS, {tag.key: str(tag.value)})

    def log_metric_async(self, run_id: str, metric: Any) -> Any:
        self.log_metric(run_id, metric)
        return RunOperations([])

    def log_param_async(self, run_id: str, param: Any) -> Any:
        self.log_param(run_id, param)
        return RunOperations([])

    def set_tag_async(self, run_id: str, tag: Any) -> Any:
        self.set_tag(run_id, tag)
        return RunOperations([])

    def log_batch_async(self, run_id: str, metrics: Any, params: Any, tags: Any) -> Any:
        self.log_batch(run_id, metrics, params, tags)
        return RunOperations([])

    def flush_async_logging(self) -> None:
        self._flush()

    def shut_down_async_logging(self) -> None:
        """Nothing is queued in memory; ``update_run_info`` follows, and flushes behind the status."""

    def end_async_logging(self) -> None:
        """See ``shut_down_async_logging``."""

    def _spool_call(self, run_id: str, method: str, path: str, body: Any) -> None:
        self.client.spool(run_id).record(frame.CALL, {"method": method, "path": path, "body": body})

    # --- MLflow's REST calls -----------------------------------------------------------------------------------

    def _call_endpoint(self, api: Any, json_body: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Every other call of MLflow's store comes by here."""
        name = api.DESCRIPTOR.name
        body = json.loads(json_body) if isinstance(json_body, str) and json_body else json_body or {}
        if name in _SPOOLED and isinstance(body, dict) and body.get("run_id") and not args and not kwargs:
            path, method = self._route(api)
            self._spool_call(str(body["run_id"]), method, path, body)
            return api.Response()
        if self.client.spools or self.client.sender.files:
            self._flush()
        if not self.client.online():
            if (answer := self._model_here(name, api, body, kwargs.get("endpoint"))) is not None:
                return answer
            raise MlflowException(self.client.unanswered(name))
        if renamed := self.client.sender.delivery.renamed:
            # A server that chooses ids itself has given the run another one.
            for ours, theirs in renamed.items():
                json_body = json_body.replace(ours, theirs) if isinstance(json_body, str) else json_body
        return super()._call_endpoint(api, json_body, *args, **kwargs)

    def _route(self, api: Any) -> tuple[str, str]:
        """Path and method of a call; a table of the module's in MLflow up to 3.1, of the class's since."""
        table = getattr(self, "_METHOD_TO_INFO", None) or rest_store._METHOD_TO_INFO
        path, method = table[api]
        return str(path), str(method)

    def _model_here(self, name: str, api: Any, body: Any, endpoint: str | None) -> Any:
        """What MLflow asks of logged models, for those that are made here while there is no server."""
        spool, response = self.client.settings.folder, api.Response()
        if name == "CreateLoggedModel":
            if not body.get("source_run_id"):
                return None
            model = local_models.create(spool, body)
            wanted = {"what": "model", "body": {**body, "model_id": model["info"]["model_id"]}}
            about = local_runs.made_up_name(spool, str(body.get("experiment_id", "")))
            if about is not None:
                wanted["experiment"] = {"id": body["experiment_id"], "name": about["name"]}
            self.client.spool(body["source_run_id"]).record(frame.CREATE, wanted)
        else:
            model_id = (endpoint or "").partition("logged-models/")[2].partition("/")[0].partition("?")[0]
            found = local_models.find(spool, model_id) if model_id else None
            if found is None:
                return None
            model = found
            _, method = self._route(api)
            if method != "GET":
                run_id = model["info"]["source_run_id"]
                self._spool_call(run_id, method, f"/{str(endpoint).lstrip('/')}", body)
                local_models.change(spool, model, body)
        if "model" in response.DESCRIPTOR.fields_by_name:
            parse_dict({"model": model}, response)
        return response

    def _flush(self) -> int:
        return self.client.flush()

    # --- runs --------------------------------------------------------------------------------------------------

    def create_run(self, experiment_id: Any, user_id: Any, start_time: Any, tags: Any, run_name: Any) -> Run:
        listed = [{"key": tag.key, "value": str(tag.value)} for tag in tags]
        if not run_name:
            run_name = next((tag["value"] for tag in listed if tag["key"] == local_runs.NAME_TAG), None)
        run_name = run_name or _random_name()
        if all(tag["key"] != local_runs.NAME_TAG for tag in listed):
            listed.append({"key": local_runs.NAME_TAG, "value": run_name})
        body = {
            "run_id": self.client.new_run_id(),
            "experiment_id": str(experiment_id),
            "user_id": user_id or "unknown",
            "start_time": int(start_time or now_ms()),
            "tags": listed,
            "run_name": run_name,
        }
        wanted = {"what": "run", "body": body}
        if (about := local_runs.made_up_name(self.client.settings.folder, str(experiment_id))) is not None:
            wanted["experiment"] = {"id": str(experiment_id), "name": about["name"], "body": about}
        made = local_runs.new_run(self.client.settings.folder, body)
        if (answer := self._create_now(wanted)) is None:
            self.client.spool(body["run_id"]).record(frame.CREATE, wanted)
            run = _run(made)
            self._remember(run, made)
        else:
            run = _run(answer["run"])
            self._remember(run)
        if self.client.settings.run_key:
            # It may have ended before: in another process with this key.
            self.client.status_record(run.info.run_id, "RUNNING", None)
        return run

    def _create_now(self, wanted: dict[str, Any]) -> dict[str, Any] | None:
        """The server's answer; ``None`` if it has to be created later."""
        if not self.client.online():
            return None
        # Only under a key can others know of this run.
        spool = self.client.settings.folder if self.client.settings.run_key else None
        try:
            return self.client.sender.do(lambda link: create(link, wanted, {}, spool))
        except (AwayError, DeniedError, NotYetError):
            return None
        except RefusedError as error:
            raise MlflowException(str(error), error_code=_code(error.code)) from None

    def _remember(self, run: Run, made: dict[str, Any] | None = None) -> None:
        info = run.info
        self.client.running[info.run_id] = False
        self._know(info.run_id, made or json.loads(message_to_json(run.to_proto())))

    def _know(self, run_id: str, run: dict[str, Any]) -> None:
        self._known.pop(run_id, None)
        self._known[run_id] = run
        while len(self._known) > _RUNS_KEPT:
            del self._known[next(iter(self._known))]

    def get_run(self, run_id: str) -> Run:
        known = self._known.get(run_id)
        if known is not None and _asked_by(_METRIC_HOOK):
            # Some MLflow (3.1) looks at the run's inputs before every point that it logs: as they were is good enough.
            return _run(known)
        left = self._flush()
        if self.client.online() and not (left and self.client.link.state.state in ("away", "denied")):
            try:
                run = super().get_run(run_id)
            except MlflowException:
                # A run of this process, that the server has not been told of or whose credentials have just expired:
                # MLflow asks for it at the end of each, and a training must not end with that.
                if known is None:
                    raise
            else:
                self._know(run_id, json.loads(message_to_json(run.to_proto())))
                return run
        if not self.client.settings.offline:
            self.client.complain(
                "local run", f"runs are shown as the spool knows them; {self.client.left_sentence(left)}"
            )
        return _run(local_runs.spooled_run(self.client.settings.folder, run_id, known))

    def update_run_info(self, run_id: str, run_status: Any, end_time: Any, run_name: Any) -> Any:
        from mlflow.entities import RunStatus

        status = RunStatus.to_string(run_status) if isinstance(run_status, int) else run_status
        if status is not None:
            status = lifecycle.final_status(status)
        # The record is written before anything is waited for.
        self.client.status_record(run_id, status, end_time, run_name)
        left = self._flush()
        if left and not self.client.settings.offline:
            self.client.complain("left", self.client.left_sentence(left))
        known = self._known.get(run_id) or local_runs.new_run(self.client.settings.folder, {"run_id": run_id})
        info = {**known["info"], "status": status or known["info"].get("status", "RUNNING")}
        if end_time is not None:
            info["end_time"] = end_time
        if run_name:
            info["run_name"] = run_name
        self._know(run_id, {**known, "info": info})
        return _run({**known, "info": info}).info

    # --- experiments -------------------------------------------------------------------------------------------

    def get_experiment_by_name(self, experiment_name: str) -> Any:
        if self.client.online():
            return super().get_experiment_by_name(experiment_name)
        return _experiment(local_runs.made_up_experiment(self.client.settings.folder, experiment_name))

    def get_experiment(self, experiment_id: Any) -> Any:
        about = local_runs.made_up_name(self.client.settings.folder, str(experiment_id))
        if about is not None:
            return self.get_experiment_by_name(about["name"])
        if self.client.online():
            return super().get_experiment(experiment_id)
        made = local_runs.made_up_experiment(self.client.settings.folder, "Default")
        return _experiment({**made, "experiment_id": str(experiment_id)})

    def create_experiment(self, name: str, artifact_location: Any = None, tags: Any = None) -> str:
        if self.client.online():
            return str(super().create_experiment(name, artifact_location, tags))
        body = {"tags": [{"key": tag.key, "value": str(tag.value)} for tag in tags or []]}
        if artifact_location:
            body["artifact_location"] = artifact_location
        return str(local_runs.made_up_experiment(self.client.settings.folder, name, body)["experiment_id"])


def _run(value: dict[str, Any]) -> Run:
    message = pb.Run()
    parse_dict(value, message)
    return Run.from_proto(message)


def _asked_by(function: str) -> bool:
    """Whether a call comes from this function of MLflow, a few frames up."""
    frame_ = sys._getframe(2)
    for _ in range(4):
        if frame_ is None:
            return False
        if frame_.f_code.co_name == function:
            return True
        frame_ = frame_.f_back  # type: ignore[assignment]
    return False


def _experiment(value: dict[str, Any]) -> Any:
    message = pb.Experiment()
    parse_dict(value, message)
    return Experiment.from_proto(message)


def _code(name: str) -> int:
    from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, ErrorCode

    return int(ErrorCode.Value(name)) if name in ErrorCode.keys() else int(INTERNAL_ERROR)  # noqa: SIM118


def _random_name() -> str:
    try:
        from mlflow.utils.name_utils import _generate_random_name

        return str(_generate_random_name())
    except ImportError:
        return "run"
