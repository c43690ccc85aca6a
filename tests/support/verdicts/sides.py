"""The two servers of a differential test, each with the runs that the cases use."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any
from urllib.parse import urlencode

from google.protobuf.json_format import ParseError
from mlflow.protos.service_pb2 import LogBatch, LogMetric
from mlflow.utils.proto_json_utils import parse_dict

from support.raw_http import Answer, RawClient
from support.verdicts.cases import HISTORY
from support.verdicts.requests import API, UNKNOWN, Request

# A run with more keys than this is compared in as many of them.
MAX_HISTORIES = 6


class Side:
    """One server. Marks such as ``@active@`` stand for its own ids, in what is sent and in what comes back."""

    def __init__(self, url: str) -> None:
        self.client = RawClient(url)
        name = f"verdicts-{uuid.uuid4().hex[:8]}"
        self.experiment_id = self.client.call("experiments/create", {"name": name})["experiment_id"]
        # Bulk answers come in the order of run ids: the same on both sides.
        own_ids = sorted(self._new_run() for _ in HISTORY)
        self.ids = {"unknown": UNKNOWN, **dict(zip(HISTORY, own_ids, strict=True))}
        for name, metrics in HISTORY.items():
            if metrics:
                self.client.call("runs/log-batch", {"run_id": self.ids[name], "metrics": metrics})
        self.client.call("runs/delete", {"run_id": self.ids["deleted"]})
        model = self.client.call("logged-models", {"experiment_id": self.experiment_id, "name": "m"})
        self.ids["model"] = model["model"]["info"]["model_id"]
        self._clean_run: str | None = None

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def begin(self) -> None:
        """Make a run that has nothing in it the active one."""
        self.ids["active"] = self._clean_run or self._new_run()
        self._clean_run = None

    def end(self, *, clean: bool) -> None:
        """The case is over; ``clean`` says that it left nothing in the active run."""
        if clean:
            self._clean_run = self.ids["active"]

    def send(self, request: Request) -> Answer:
        """Send one request of a case."""
        headers = {} if request.content_type is None else {"Content-Type": request.content_type}
        body = None if request.body is None else self._fill(request.body)
        path = self._fill(request.path.replace("%40", "@").encode()).decode()
        answer = self.client.send(request.method, path, body, headers)
        text = answer.body
        for name, own_id in self.ids.items():
            text = text.replace(own_id.encode(), f"@{name}@".encode())
        # A small number, so only where it stands for the experiment.
        own = rf'("experiment_id": ?"|artifacts:/){self.experiment_id}(?=["/])'.encode()
        return Answer(answer.status, re.sub(own, rb"\1@experiment@", text))

    def stored(self, *, of_model: bool) -> dict[str, Any]:
        """What the active run shows: attributes, params, tags, newest values, histories, its model's metrics."""
        run_id = self.ids["active"]
        run = self._get("runs/get", run_id=run_id)["run"]
        shown: dict[str, Any] = {
            kind: sorted(run["data"].get(kind, []), key=lambda entry: str(entry["key"]))
            for kind in ("metrics", "params", "tags")
        }
        for name in ("status", "lifecycle_stage", "run_name", "end_time"):
            shown[name] = run["info"].get(name)
        shown["histories"] = [
            self._get("metrics/get-history", run_id=run_id, metric_key=metric["key"])
            for metric in shown["metrics"][:MAX_HISTORIES]
        ]
        if of_model:
            model = self._get(f"logged-models/{self.ids['model']}")["model"]
            shown["model"] = [
                entry for entry in model["data"].get("metrics", []) if entry["run_id"] == run_id
            ]
        text = json.dumps(shown, sort_keys=True)
        for name, own_id in self.ids.items():
            text = text.replace(own_id, f"@{name}@")
        result: dict[str, Any] = json.loads(text)
        return result

    def _new_run(self) -> str:
        body = {"experiment_id": self.experiment_id, "run_name": "case", "start_time": 1}
        run_id: str = self.client.call("runs/create", body)["run"]["info"]["run_id"]
        return run_id

    def _fill(self, text: bytes) -> bytes:
        for name, own_id in self.ids.items():
            for coding in ("utf-8", "utf-16-le", "utf-32-le", "utf-32-be"):
                text = text.replace(f"@{name}@".encode(coding), own_id.encode(coding))
        return text

    def _get(self, path: str, **query: str) -> Any:
        answer = self.client.send("GET", f"{API}/{path}?{urlencode(query)}")
        assert answer.status == 200, (path, answer)
        return answer.json


def parser_stops_half_way(request: Request) -> bool:
    """Whether protobuf's own parser, which MLflow uses, does not get through the body."""
    try:
        body = json.loads(request.body or b"")
        body = json.loads(body) if isinstance(body, str) else body
        parse_dict(body, LogBatch() if request.path.endswith("log-batch") else LogMetric())
    except ParseError:
        return True
    except (ValueError, TypeError, RecursionError):
        return False
    return False
