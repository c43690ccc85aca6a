"""MLflow's entry point for ``http`` and ``https``: its own store, or with the switch the one that spools.

Entry points win over MLflow's own builders in every process of an environment, so nothing is imported here that an
older MLflow, or a light installation, might lack, and without ``RUNSTREAM_SPOOL`` (or ``runstream.enable``) the answer
is the very store that MLflow builds.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any

from runstream.ingest.client import settings as _settings

# What ``enable`` was given, instead of the environment.
_enabled: _settings.SpoolSettings | None = None
_REGISTRIES = {
    "mlflow.tracking._tracking_service.utils": "_tracking_store_registry",
    "mlflow.tracking._model_registry.utils": "_model_registry_store_registry",
}


def build_store(store_uri: str, artifact_uri: str | None = None, **_: Any) -> Any:
    """The tracking store for a server's address."""
    if (store := _spooling("store", "spooling_store", store_uri)) is not None:
        return store
    from mlflow.tracking._tracking_service.utils import _get_rest_store

    return _get_rest_store(store_uri)


def build_registry_store(store_uri: str, tracking_uri: str | None = None, **_: Any) -> Any:
    """The model registry store for a server's address."""
    if (store := _spooling("registry", "spooling_registry", store_uri)) is not None:
        return store
    from mlflow.tracking._model_registry.utils import _get_rest_store

    return _get_rest_store(store_uri)


def _spooling(module: str, build: str, store_uri: str) -> Any:
    """What ``build`` of our ``module`` makes, which is imported only where somebody spools; ``None`` where MLflow's own
    store is wanted, or all that there can be."""
    wanted = _enabled or _settings.from_environment()
    if wanted is None:
        return None
    try:
        return getattr(importlib.import_module(f"runstream.ingest.client.{module}"), build)(store_uri, wanted)
    except ImportError as error:
        _is_older(error)
    except Exception as error:
        _say(error)
    return None


def _is_older(error: ImportError) -> None:
    # An older MLflow, or a light installation: its own store, in silence.
    logging.getLogger("runstream").debug("the spool needs another MLflow: %r", error)


def _say(error: Exception) -> None:
    # A training must start, spooled or not.
    logging.getLogger("runstream").warning("the spool cannot be used with this MLflow: %r", error)


def enable(wanted: _settings.SpoolSettings | None) -> None:
    """Spool from here on in this process (``None``: no longer), also for servers that MLflow has talked to before."""
    global _enabled
    _enabled = wanted
    import sys

    for module, registry in _REGISTRIES.items():
        # MLflow keeps the stores that it has built (TrackingStoreRegistry, ModelRegistryStoreRegistry: lru_caches).
        known = getattr(sys.modules.get(module), registry, None)
        clear = getattr(getattr(known, "_get_store_with_resolved_uri", None), "cache_clear", None)
        if clear is not None:
            clear()
