"""Stock MLflow clients of given versions, beside the environment's own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_INSTALL_TIMEOUT_S = 300.0


def installed(version: str, folder: Path, *, alone: bool = False) -> Path:
    """A folder to put before the others on Python's path, with this MLflow. What it needs it shares with the
    environment; ``alone``: has of its own, the client's part alone. Skips the test where it cannot be installed."""
    if importlib.util.find_spec("uv") is None:
        pytest.skip("uv is not installed: `make install` brings it")
    target = folder / f"mlflow-{version}"
    command = ["uv", "pip", "install", "--quiet", "--target", str(target)]
    command += [f"mlflow-skinny=={version}"] if alone else ["--no-deps", f"mlflow=={version}"]
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S
    )
    if done.returncode != 0:
        pytest.skip(f"MLflow {version} cannot be installed: {done.stderr[-300:]}")
    return target


def environment(version: str, folder: Path) -> Path:
    """The interpreter of an environment of its own with this MLflow's client and stores of databases and files: for
    versions that what is installed here is too new for. Skips the test where it cannot be made."""
    if importlib.util.find_spec("uv") is None:
        pytest.skip("uv is not installed: `make install` brings it")
    python = folder / f"mlflow-{version}" / "bin" / "python"
    wanted = [f"mlflow-skinny=={version}", "sqlalchemy<2.1", "alembic", "sqlparse"]
    for command in (
        ["uv", "venv", "--quiet", "--python", sys.executable, str(python.parents[1])],
        ["uv", "pip", "install", "--quiet", "--python", str(python), *wanted],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command], capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S
        )
        if done.returncode != 0:
            pytest.skip(f"MLflow {version} cannot be installed: {done.stderr[-300:]}")
    return python


@dataclass
class Seen:
    """What trainings have seen."""

    version: str
    made: dict[str, int]
    longest_s: dict[str, float]
    errors: list[str]


class Trainings:
    """``support.patient_training`` with one MLflow, before one server. A context manager that ends the process."""

    def __init__(self, url: str, mlflow: Path) -> None:
        script = Path(__file__).with_name("patient_training.py")
        # In no other way than its users have it: whatever is set for the tests' own MLflow is not set here.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        environment |= {"PYTHONPATH": str(mlflow), "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        environment |= {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "GIT_PYTHON_REFRESH": "quiet"}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(script), url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Trainings:
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.wait(30)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def ready(self) -> None:
        """Wait until every kind of call is being made."""
        assert self._answer() == "ready"

    def tell(self, command: str) -> None:
        """Send a command; ``done`` waits for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def done(self) -> None:
        """Wait for the answer to the last command."""
        assert self._answer() == "done"

    def stop(self) -> Seen:
        """End the trainings; what they have seen."""
        self.tell("stop")
        return Seen(**json.loads(self._answer()))

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the trainings ended with {self._process.wait(30)}"
        return line.strip()
