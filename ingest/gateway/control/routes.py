"""MLflow's REST calls on experiments, runs and models, and Runstream's own ways to create them.

**Creating under an id of the client's.** ``POST /api/1.0/runstream/runs/create`` takes MLflow's ``runs/create`` body
with ``run_id`` beside it, 32 hexadecimal digits in lower case; ``…/logged-models/create`` takes MLflow's body with
``model_id`` (the same, MLflow's ``m-`` may stand before it); ``…/experiments/create`` takes MLflow's body with ``key``,
any text of up to 200 characters. The same call again, at any time and through any gateway, answers with the same
run, model or experiment, and creates nothing. Where Runstream does not keep them itself (users, workspaces, a schema
that it does not know), these routes answer 404 with ``ENDPOINT_NOT_FOUND``; while it is not known yet, 503.

**Under a key.** The same holds for MLflow's own ``runs/create``, ``logged-models`` and ``experiments/create`` with the
header ``X-Runstream-Idempotency-Key`` (up to 200 characters): the key decides about the id.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from runstream.ingest.control import requests
from runstream.ingest.control.answers import Body, render
from runstream.ingest.control.database.reads import MetadataUnavailableError
from runstream.ingest.control.errors import PassOnError
from runstream.ingest.control.requests import Change, CreateExperiment, CreateLoggedModel, CreateRun
from runstream.ingest.control.store import RunStore
from runstream.ingest.gateway.control.access import Control
from runstream.ingest.gateway.control.decode import decode, only
from runstream.ingest.gateway.control.fresh import FreshRuns
from runstream.ingest.gateway.control.needs import experiment_shown, names_models, needed
from runstream.ingest.gateway.control.onward import Onward
from runstream.ingest.gateway.http.epochs import Epochs
from runstream.ingest.gateway.http.handling import OK, Call, Outcome, Routes
from runstream.ingest.gateway.http.holding import Line
from runstream.ingest.gateway.http.rights import Action
from runstream.ingest.gateway.http.server_mode import SERVER_INFO
from runstream.ingest.gateway.http.upstream import UpstreamUnavailableError
from runstream.schemas.errors import MlflowError, RunstreamError
from runstream.schemas.mlflow.paths import APIS
from runstream.schemas.wire import API, STALE_HEADER

IDEMPOTENCY_HEADER = "X-Runstream-Idempotency-Key"
_MAX_KEY = 200
_CHANGES: dict[str, type[Change]] = {
    "experiments/create": requests.CreateExperiment,
    "experiments/update": requests.UpdateExperiment,
    "experiments/delete": requests.DeleteExperiment,
    "experiments/restore": requests.RestoreExperiment,
    "experiments/set-experiment-tag": requests.SetExperimentTag,
    "experiments/delete-experiment-tag": requests.DeleteExperimentTag,
    "runs/create": requests.CreateRun,
    "runs/update": requests.UpdateRun,
    "runs/delete": requests.DeleteRun,
    "runs/restore": requests.RestoreRun,
    "runs/log-parameter": requests.LogParam,
    "runs/set-tag": requests.SetTag,
    "runs/delete-tag": requests.DeleteTag,
    "runs/log-inputs": requests.LogInputs,
    "runs/outputs": requests.LogOutputs,
    "logged-models": requests.CreateLoggedModel,
}
_CREATIONS: dict[str, type[Change]] = {
    "runs/create": requests.CreateRun,
    "logged-models/create": requests.CreateLoggedModel,
    "experiments/create": requests.CreateExperiment,
}
# They change which runs may be written to: what is remembered of that is void.
_MOVES = (
    requests.DeleteRun,
    requests.RestoreRun,
    requests.DeleteExperiment,
    requests.RestoreExperiment,
)
# What MLflow's client asks with every listing and download of a run's artifacts: is there a model of that name?
_BY_NAME = re.compile(r"name = '([\w./-]{1,200})'", re.ASCII)
_MODEL_SEARCH = msgspec.json.Decoder(requests.SearchModelsByName)
Handler = Callable[[Call], Coroutine[Any, Any, Outcome]]


class ControlRoutes:
    """Handlers, as ``http.handling`` has them. What the store leaves to MLflow's server is passed on as it came; who
    needs a database that is away waits in the line ``database``."""

    def __init__(
        self, control: Control, fresh: FreshRuns, onward: Onward, epochs: Epochs, database: Line
    ) -> None:
        self._control = control
        self._held = database.run
        self._fresh = fresh
        self._onward = onward
        self._epochs = epochs

    def add_to(self, routes: Routes, prefix: str) -> None:
        """Serve MLflow's paths below both of its APIs, and ours."""
        for api in APIS:
            for path, kind in _CHANGES.items():
                handler = self._changing(f"{api}/{path}", kind)
                routes.add("POST", f"{prefix}{api}/{path}", handler, name=path.rpartition("/")[2])
            get_run = self._get_run(f"{api}/runs/get")
            routes.add("GET", f"{prefix}{api}/runs/get", get_run, name="get")
            for path, read in {
                "experiments/get": self._get_experiment,
                "experiments/get-by-name": self._get_experiment_by_name,
            }.items():
                handler = self._reading(f"{api}/{path}", read)
                routes.add("GET", f"{prefix}{api}/{path}", handler, name=path.rpartition("/")[2])
            searching = self._search_models(f"{api}/logged-models/search")
            routes.add("POST", f"{prefix}{api}/logged-models/search", searching, name="search")
        routes.add("GET", f"{prefix}{SERVER_INFO}", self._server_info, name="server-info")
        for path, kind in _CREATIONS.items():
            for base in {"", prefix}:
                routes.add("POST", f"{base}{API}/{path}", self._creating(kind), name="create")

    # --- changes ----------------------------------------------------------------------------------------------

    def _changing(self, path: str, kind: type[Change]) -> Handler:
        decoder = msgspec.json.Decoder(kind)
        moves = kind in _MOVES

        async def handle(call: Call) -> Outcome:
            change: Any = None
            epoch = self._control.rights.epoch()
            try:
                change = decode(decoder, call.body, call.headers.get("content-type"))
                _refuse_own_ids(change)
                store = await self._store(call, change)
                _apply_key(change, call.headers.get(IDEMPOTENCY_HEADER.lower()))
                body = await self._held(lambda: store.change(change), size=len(call.body))
            except PassOnError:
                try:
                    outcome = await self._onward.post(path, call)
                except RunstreamError:
                    if moves:
                        self._epochs.bump_later(None)
                    raise
                if moves:
                    # Whichever run it was: what could not be read here may have changed any.
                    self._epochs.bump(None)
                elif outcome.status == 200 and change is not None:
                    await self._learn(call, change, epoch)
                return outcome
            except MetadataUnavailableError:
                if moves:
                    self._epochs.bump_later(getattr(change, "run_id", None))
                raise
            if moves:
                # Before the answer leaves: whoever has seen it must find the verdict gone.
                self._epochs.bump(getattr(change, "run_id", None))
            return _answer(body)

        return handle

    async def _store(self, call: Call, change: Change) -> RunStore:
        """The store, if this caller's change may be made here. Raises ``PassOnError``."""
        store = self._control.store(call.identity)
        # MLflow's server knows nothing of keys: a creation that it made and one that is made here would be two.
        if store is None and IDEMPOTENCY_HEADER.lower() not in call.headers:
            match needed(change):
                case Action.CREATE_RUN, str(experiment_id):
                    store = self._control.for_experiment(call.identity, Action.CREATE_RUN, experiment_id)
                case Action() as action, str(run_id):
                    store = await self._control.for_run(call.identity, action, run_id)
        if store is None:
            raise PassOnError
        return store

    async def _learn(self, call: Call, change: Change, epoch: object) -> None:
        """MLflow's server has made this change for the caller: it may make others like it."""
        if self._control.judged(call.identity) is None:
            return
        match needed(change):
            case Action.CREATE_RUN, str(experiment_id):
                self._control.rights.learn(call.identity, Action.CREATE_RUN, experiment_id, epoch)
            case Action() as action, str(run_id):
                await self._control.learn_of_run(call.identity, action, run_id, epoch)

    def _creating(self, kind: type[Change]) -> Handler:
        decoder = msgspec.json.Decoder(kind)

        async def handle(call: Call) -> Outcome:
            store = self._control.store(call.identity)
            if store is None:
                if self._control.undecided:
                    raise UpstreamUnavailableError("the MLflow server has not answered yet")
                raise MlflowError(_NOT_HERE, "ENDPOINT_NOT_FOUND")
            try:
                change: Any = decode(decoder, call.body, call.headers.get("content-type"))
                if _own_id(change) is None:
                    raise PassOnError
                return _answer(await self._held(lambda: store.change(change), size=len(call.body)))
            except PassOnError:
                raise MlflowError(_BAD_CREATION) from None

        return handle

    # --- reads ------------------------------------------------------------------------------------------------

    def _reading(self, path: str, read: Callable[[Call], Awaitable[Outcome]]) -> Handler:
        async def handle(call: Call) -> Outcome:
            epoch = self._control.rights.epoch()
            try:
                if call.body:
                    raise PassOnError
                return await self._held(lambda: read(call))
            except PassOnError:
                outcome = await self._onward.get(path, call)
                if outcome.status == 200 and self._control.judged(call.identity) is not None:
                    shown = experiment_shown(outcome.body)
                    if shown:
                        self._control.rights.learn(call.identity, Action.READ_EXPERIMENT, shown, epoch)
                return outcome

        return handle

    def _get_run(self, path: str) -> Handler:
        async def handle(call: Call) -> Outcome:
            try:
                run_id = _given(only(call.query, "run_id", "run_uuid").get("run_id"))
            except PassOnError:
                run_id = ""
            is_fresh = await self._fresh.wait(run_id)
            epoch = self._control.rights.epoch()
            try:
                if call.body or not run_id:
                    raise PassOnError
                outcome = await self._held(lambda: self._run_here(call, run_id))
            except PassOnError:
                outcome = await self._onward.get(path, call)
                if outcome.status == 200 and run_id:
                    await self._control.learn_of_run(call.identity, Action.READ_RUN, run_id, epoch)
            if is_fresh:
                return outcome
            return Outcome(outcome.status, {**outcome.headers, STALE_HEADER: "true"}, outcome.body)

        return handle

    async def _server_info(self, call: Call) -> Outcome:
        """As the server last said: a client that begins does not wait for one that hangs."""
        info = self._control.server_info
        if info is None or call.query or call.body or self._control.store(call.identity) is None:
            return await self._onward.get(SERVER_INFO, call)
        return Outcome(200, OK.headers, info)

    def _search_models(self, path: str) -> Handler:
        async def handle(call: Call) -> Outcome:
            try:
                store = self._control.store(call.identity)
                if store is None:
                    raise PassOnError
                wanted = decode(_MODEL_SEARCH, call.body, call.headers.get("content-type"))
                named = _BY_NAME.fullmatch(wanted.filter)
                if named is None:
                    raise PassOnError
                return _answer(
                    await self._held(lambda: store.get_logged_models_named(wanted.experiment_ids, named[1]))
                )
            except PassOnError:
                return await self._onward.post(path, call)

        return handle

    async def _run_here(self, call: Call, run_id: str) -> Outcome:
        store = await self._control.for_run(call.identity, Action.READ_RUN, run_id)
        if store is None:
            raise PassOnError
        outcome = _answer(await store.get_run(run_id))
        if names_models(outcome.body) and self._control.store(call.identity) is None:
            # MLflow leaves out the models that the caller may not see (``redact_get_run_model_links``).
            raise PassOnError
        return outcome

    async def _get_experiment(self, call: Call) -> Outcome:
        experiment_id = _given(only(call.query, "experiment_id").get("experiment_id"))
        store = self._control.for_experiment(call.identity, Action.READ_EXPERIMENT, experiment_id)
        if store is None:
            raise PassOnError
        return _answer(await store.get_experiment(experiment_id))

    async def _get_experiment_by_name(self, call: Call) -> Outcome:
        name = _given(only(call.query, "experiment_name").get("experiment_name"))
        store = self._control.store(call.identity)
        if store is not None:
            return _answer(await store.get_experiment_by_name(name))
        store = self._control.judged(call.identity)
        if store is None or self._control.has_workspaces:
            raise PassOnError
        try:
            body = await store.get_experiment_by_name(name)
        except MlflowError:
            # Whether there is such a name is not for everybody to know.
            raise PassOnError from None
        experiment_id = str(body["experiment"]["experiment_id"])
        if not self._control.rights.knows(call.identity, Action.READ_EXPERIMENT, experiment_id):
            raise PassOnError
        return _answer(body)


_NOT_HERE = (
    "Runstream does not create runs, models and experiments by itself on this server; MLflow's own routes do"
)
_BAD_CREATION = (
    "Runstream's own routes to create take MLflow's bodies, spelled as in its protocol, with an id or key of the"
    " client's beside: run_id or model_id of 32 hexadecimal digits, or key of up to 200 characters"
)


def _given(value: str | None) -> str:
    if not value:
        raise PassOnError
    return value


def _answer(body: Body) -> Outcome:
    return Outcome(200, OK.headers, render(body)) if body else OK


def _own_id(change: Change) -> str | None:
    match change:
        case CreateRun():
            return change.run_id
        case CreateLoggedModel():
            return change.model_id
        case CreateExperiment():
            return change.key if change.key and len(change.key) <= _MAX_KEY else None
    return None


def _refuse_own_ids(change: Change) -> None:
    """On MLflow's routes these are unknown fields, which MLflow ignores."""
    if _own_id(change) is not None:
        raise PassOnError


def _apply_key(change: Change, key: str | None) -> None:
    if not key:
        return
    if len(key) > _MAX_KEY:
        raise MlflowError(f"{IDEMPOTENCY_HEADER} has more than {_MAX_KEY} characters")
    match change:
        case CreateRun():
            change.run_id = _id_of(b"run", key)
        case CreateLoggedModel():
            change.model_id = _id_of(b"model", key)
        case CreateExperiment():
            change.key = key


def _id_of(kind: bytes, key: str) -> str:
    return hashlib.blake2b(key.encode(), digest_size=16, person=kind).hexdigest()
