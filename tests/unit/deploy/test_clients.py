"""The examples for training on Databricks and Azure ML, run against a real server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import yaml

from support.deploy import DEPLOY, ROOT


def run(script: Path, environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, script],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    last: str = re.findall(r"\b[0-9a-f]{32}\b", done.stdout)[-1]
    return last


def history(url: str, run_id: str) -> list[int]:
    client = mlflow.MlflowClient(url)
    assert client.get_run(run_id).info.status == "FINISHED"
    return [point.step for point in client.get_metric_history(run_id, "train/loss")]


def test_azure_job_logs_here_and_not_to_the_workspace(runstream_url: str, tmp_path: Path) -> None:
    job = yaml.safe_load((DEPLOY / "azureml" / "job.yaml").read_text())
    script = DEPLOY / "azureml" / job["command"].split()[1]
    assert (DEPLOY / "azureml" / job["environment"]["conda_file"]).exists()
    environment = {
        **job["environment_variables"],
        "LOG_TO_URI": runstream_url,
        # What Azure ML sets for a job.
        "MLFLOW_TRACKING_URI": "azureml://workspace.example.com",
        "MLFLOW_TRACKING_TOKEN": "of-the-workspace",
        "MLFLOW_RUN_ID": "a-run-of-the-workspace",
        "MLFLOW_EXPERIMENT_ID": "12345",
        "MLFLOW_EXPERIMENT_NAME": "of-the-workspace",
    }
    assert history(runstream_url, run(script, environment, tmp_path)) == list(range(100))


def test_databricks_notebook(runstream_url: str, tmp_path: Path) -> None:
    cluster = json.loads((DEPLOY / "databricks" / "cluster.json").read_text())
    variables = cluster["spark_env_vars"]
    for name, value in variables.items():
        assert name.startswith(("MLFLOW_", "RUNSTREAM_"))
        secret = any(word in name for word in ("PASSWORD", "USERNAME", "TOKEN"))
        assert value.startswith("{{secrets/") == secret
    environment = {**variables, "MLFLOW_TRACKING_URI": runstream_url, "MLFLOW_REGISTRY_URI": runstream_url}
    environment = {name: value for name, value in environment.items() if "{{" not in value}
    environment["RUNSTREAM_SPOOL"] = str(tmp_path / "spool")
    notebook = DEPLOY / "databricks" / "notebook.py"
    assert notebook.read_text().startswith("# Databricks notebook source\n")
    assert history(runstream_url, run(notebook, environment, tmp_path)) == list(range(100))


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.sh")), ids=lambda path: path.name)
def test_scripts_parse(path: Path) -> None:
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0


def test_clients_are_of_the_tested_range() -> None:
    wanted = re.search(r'"(mlflow>=[^"]+)"', (ROOT / "pyproject.toml").read_text())
    assert wanted
    assert wanted[1] in (DEPLOY / "azureml" / "conda.yaml").read_text()
    assert wanted[1] in (DEPLOY / "databricks" / "init.sh").read_text()
