"""MLflow's model registry store for a server, beside the one that spools: without a server it says so, in one sentence
and at once, where MLflow's own would try again for minutes. What it asks of the registry cannot be spooled."""

from __future__ import annotations

from functools import partial
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.rest_store import RestStore

from runstream.ingest.client.client import Client, client_for
from runstream.ingest.client.settings import SpoolSettings


def spooling_registry(store_uri: str, settings: SpoolSettings) -> Any:
    """The registry store for this address."""
    from mlflow.utils.credentials import get_default_host_creds

    return SpoolingRegistry(partial(get_default_host_creds, store_uri), client_for(store_uri, settings))


class SpoolingRegistry(RestStore):  # type: ignore[misc]
    """See the module."""

    def __init__(self, get_host_creds: Any, client: Client) -> None:
        super().__init__(get_host_creds)
        self._client = client

    def _call_endpoint(self, api: Any, *args: Any, **kwargs: Any) -> Any:
        if self._client.spools:
            # A model version names the run that it comes from.
            self._client.flush()
        if not self._client.online():
            raise MlflowException(self._client.unanswered(api.DESCRIPTOR.name))
        return super()._call_endpoint(api, *args, **kwargs)
