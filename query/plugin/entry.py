"""MLflow's entry point to Runstream's tracking store.

Registered for ``sqlite`` and ``postgresql`` (``mlflow.utils.uri.get_uri_scheme`` strips drivers such as
``+psycopg2``), because a scheme of its own would leave MLflow's registry, webhooks and jobs without a
database. As entry points win over MLflow's own builders in every process of an environment, Runstream's
store is built only where ``RUNSTREAM_TRACKING_PLUGIN`` is ``1``; elsewhere the answer is MLflow's own
store.

Imports of MLflow wait until a store is built: at import time they would be circular.
"""

from __future__ import annotations

import os
from typing import Any

SWITCH = "RUNSTREAM_TRACKING_PLUGIN"
GATEWAY_URL = "RUNSTREAM_GATEWAY_URL"
QUERY_URL = "RUNSTREAM_QUERY_URL"
TOKEN = "RUNSTREAM_INTERNAL_TOKEN"

# mlflow.tracking._tracking_service.utils
_ARTIFACT_ROOT_VARIABLE = "_MLFLOW_SERVER_ARTIFACT_ROOT"


def build_store(store_uri: str, artifact_uri: str | None = None) -> Any:
    """The tracking store of a database URI, as both of MLflow's registries build it.

    The server's (``TrackingStoreRegistryWrapper._get_sqlalchemy_store``) knows a read replica, the client's
    (``_get_sqlalchemy_store``) falls back to the server's artifact root.
    """
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    try:
        from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
        from mlflow.server.constants import READ_REPLICA_BACKEND_STORE_URI_ENV_VAR
        from mlflow.store.tracking.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore
    except ImportError:
        if os.environ.get(SWITCH) == "1":
            raise
        # The client is also used beside an older MLflow, whose own builder this is.
        return SqlAlchemyStore(store_uri, artifact_uri or DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)

    if artifact_uri is None:
        artifact_uri = os.environ.get(_ARTIFACT_ROOT_VARIABLE, DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
    store_class = WorkspaceAwareSqlAlchemyStore if MLFLOW_ENABLE_WORKSPACES.get() else SqlAlchemyStore
    if os.environ.get(SWITCH) == "1":
        from runstream.query.plugin.store import streaming_store

        store_class = streaming_store(
            store_class,
            gateway_url=_needed(GATEWAY_URL),
            query_url=_needed(QUERY_URL),
            token=_needed(TOKEN),
        )
    return store_class(
        store_uri, artifact_uri, read_db_uri=os.environ.get(READ_REPLICA_BACKEND_STORE_URI_ENV_VAR)
    )


def _needed(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        from mlflow.exceptions import MlflowException

        raise MlflowException(f"{SWITCH}=1 needs {name} to be set")
    return value
