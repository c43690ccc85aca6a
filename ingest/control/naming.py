"""Names for runs that nobody named, and places for their artifacts, as MLflow makes them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

# URIs to which MLflow's ``append_to_uri_path`` adds segments and nothing else.
_PLAIN_LOCATION = re.compile(
    r"(?:mlflow-artifacts:/(?!/)|(?:s3|gs|abfss|wasbs|hdfs|file)://[^/]+/|file:///|/(?!/))[^?#;]*\Z"
)


def load_random_name() -> Callable[[], str]:
    """MLflow's ``_generate_random_name``, from the installed MLflow's own file.

    The file is loaded by itself: importing ``mlflow`` would cost a gateway seconds and 200 MB. Raises ``ImportError``
    without MLflow, or if the function is no longer there.
    """
    package = importlib.util.find_spec("mlflow")
    if package is None or not package.submodule_search_locations:
        raise ImportError("MLflow is not installed")
    path = Path(package.submodule_search_locations[0]) / "utils" / "name_utils.py"
    spec = importlib.util.spec_from_file_location("runstream_mlflow_name_utils", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"{path} is not there")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast(Callable[[], str], module._generate_random_name)


def below(location: str, *segments: str) -> str | None:
    """A location with segments added; ``None`` where MLflow has rules of its own (queries, relative paths, …)."""
    if _PLAIN_LOCATION.match(location) is None:
        return None
    return "/".join((location.removesuffix("/"), *segments)) if location != "/" else None
