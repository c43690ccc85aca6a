"""MLflow's own tests on a live address, on a stock server and on Runstream, compared test by test.

    python scripts/mlflow_tests.py FOLDER [--users] [--workspaces] TEST...

FOLDER is a checkout of MLflow's repository, best of the version that is installed here; TEST is as pytest takes it,
from that folder: ``tests/tracking/test_rest_tracking.py``, ``tests/server/auth/test_client_workspace.py``. Tests that
would start a server of their own get the address of the one that is running, with MLflow's basic-auth (``--users``) and
workspaces where these say so. What they leave behind is removed before the next (not with workspaces); a test that
needs more of a server of its own fails on both sides. Exit status 1 if a test passes on stock MLflow and not on
Runstream.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.runstream_server import RunstreamServer  # noqa: E402
from support.stock import StockServer  # noqa: E402

PASSWORD = "a-password-for-these-tests"
# A pytest plugin: the tests' own ways to start a server are replaced before they import them. Each test that would have
# a server of its own finds no names of the tests before it.
_PLUGIN = """
import contextlib, os, sys, uuid
import requests

ADDRESS, PASSWORD = os.environ["LIVE_ADDRESS"], os.environ.get("LIVE_PASSWORD")

def ask(method, path, **more):
    auth = ("admin", PASSWORD) if PASSWORD else None
    return requests.request(method, f"{ADDRESS}/api/{path}", auth=auth, timeout=60, **more)

def clear():
    search = {"max_results": 1000, "view_type": "ALL"}
    for found in ask("POST", "2.0/mlflow/experiments/search", json=search).json().get("experiments", []):
        one = {"experiment_id": found["experiment_id"]}
        if one["experiment_id"] != "0" and not found["name"].startswith("gone-"):
            ask("POST", "2.0/mlflow/experiments/restore", json=one)
            ask("POST", "2.0/mlflow/experiments/update", json={**one, "new_name": f"gone-{uuid.uuid4().hex}"})
            ask("POST", "2.0/mlflow/experiments/delete", json=one)
    runs = ask("POST", "2.0/mlflow/runs/search", json={"experiment_ids": ["0"], "max_results": 1000})
    for run in runs.json().get("runs", []):
        ask("POST", "2.0/mlflow/runs/delete", json={"run_id": run["info"]["run_id"]})
    models = ask("GET", "2.0/mlflow/registered-models/search?max_results=1000")
    for model in models.json().get("registered_models", []):
        ask("DELETE", "2.0/mlflow/registered-models/delete", json={"name": model["name"]})
    for workspace in ("default", "ws1", "ws2") if PASSWORD else ():
        roles = ask("GET", "3.0/mlflow/roles/list", params={"workspace": workspace})
        for role in roles.json().get("roles", []):
            ask("DELETE", "3.0/mlflow/roles/delete", json={"role_id": role["id"]})

def pytest_configure(config):
    sys.path.insert(0, os.getcwd())
    from tests.tracking import integration_test_utils as utils

    @contextlib.contextmanager
    def running(*args, **kwargs):
        if not os.environ.get("LIVE_WORKSPACES"):
            clear()
        yield ADDRESS

    utils._init_server = utils.ServerThread = running
"""
_INI = """[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/users.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
grant_default_workspace_access = false
"""


def main() -> int:
    """Run both sides and print what differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--users", action="store_true")
    parser.add_argument("--workspaces", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="runstream-mlflow-tests-") as name:
        work = Path(name)
        (work / "live_address.py").write_text(_PLUGIN)
        found = {side: _outcomes(side, work / side, options) for side in ("stock", "runstream")}
    stock, ours = found["stock"], found["runstream"]
    passed = [test for test, outcome in stock.items() if outcome == "passed"]
    worse = [test for test in passed if ours.get(test) != "passed"]
    better = [test for test, outcome in stock.items() if outcome == "failed" and ours.get(test) == "passed"]
    print(f"{len(stock)} tests; stock passes {len(passed)}, Runstream {len(passed) - len(worse)} of these")
    for title, tests in (("pass on stock only", worse), ("pass on Runstream only", better)):
        print("\n".join([f"{title}: {len(tests)}", *(f"  {test}" for test in tests)]))
    return 1 if worse or not passed else 0


def _outcomes(side: str, work: Path, options: argparse.Namespace) -> dict[str, str]:
    """passed, failed or skipped, by test."""
    work.mkdir()
    environment = {"MLFLOW_CRYPTO_KEK_PASSPHRASE": "a-passphrase-of-more-than-thirty-two-characters"}
    flags = []
    if options.users:
        (work / "users.ini").write_text(_INI.format(folder=work))
        environment |= {
            "MLFLOW_AUTH_CONFIG_PATH": str(work / "users.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-secret-for-these-tests",
            "MLFLOW_RBAC_SEED_DEFAULT_ROLES": "true",
        }
        flags += ["--app-name", "basic-auth"]
    if options.workspaces:
        environment["MLFLOW_ENABLE_WORKSPACES"] = "true"
        flags.append("--enable-workspaces")
    report = work / "report.xml"
    with _server(side, work, environment, flags) as url:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MLFLOW_", "RUNSTREAM_"))
        }
        subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-p", "live_address", "-p", "no:cacheprovider", "-q"),
                *("-c", "/dev/null", "--rootdir", str(options.folder), "-o", "asyncio_mode=auto"),
                *("--timeout", "120", "--tb=short", f"--junitxml={report}", *options.tests),
            ],
            cwd=options.folder,
            env=kept
            | {
                "PYTHONPATH": str(work.parent),
                "LIVE_ADDRESS": url,
                "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
                "LIVE_PASSWORD": PASSWORD if options.users else "",
                "LIVE_WORKSPACES": "yes" if options.workspaces else "",
            },
            check=False,
        )
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        bad = {child.tag for child in case} & {"failure", "error", "skipped"}
        outcome = "passed" if not bad else "skipped" if bad == {"skipped"} else "failed"
        found[f"{case.get('classname')}::{case.get('name')}"] = outcome
    return found


@contextlib.contextmanager
def _server(side: str, work: Path, environment: dict[str, str], flags: list[str]) -> Iterator[str]:
    """A running server's address."""
    if side == "runstream":
        users = {"RUNSTREAM_BASIC_AUTH": "true"} if "--app-name" in flags else {}
        with RunstreamServer(work / "data", environment=environment | users) as server:
            yield server.url
        return
    stock = StockServer(work / "stock", flags=flags, environment=environment)
    stock.start()
    try:
        yield stock.url
    finally:
        stock.stop()


if __name__ == "__main__":
    sys.exit(main())
