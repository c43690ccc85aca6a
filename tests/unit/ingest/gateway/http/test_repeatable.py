"""What may be sent twice."""

from __future__ import annotations

import pytest

from runstream.ingest.gateway.http.repeatable import is_away, is_repeatable, was_nothing_done


@pytest.mark.parametrize(
    ("method", "path", "may"),
    [
        ("GET", "/api/2.0/mlflow/runs/get", True),
        ("HEAD", "/", True),
        ("POST", "/api/2.0/mlflow/runs/search", True),
        ("POST", "/prefix/ajax-api/2.0/mlflow/runs/set-tag", True),
        ("POST", "/api/3.0/mlflow/datasets/search", True),
        ("POST", "/graphql", True),
        ("POST", "/api/2.0/mlflow/runs/create", False),
        ("POST", "/api/2.0/mlflow/experiments/create", False),
        ("POST", "/api/2.0/mlflow/runs/log-inputs", False),
        ("POST", "/api/2.0/mlflow/logged-models", False),
        ("POST", "/api/2.0/mlflow/model-versions/create", False),
        ("POST", "/elsewhere/runs/search", False),
        ("DELETE", "/api/2.0/mlflow/registered-models/delete", False),
        ("PATCH", "/api/2.0/mlflow/registered-models/update", False),
    ],
)
def test_what_may_be_done_twice(method: str, path: str, may: bool) -> None:
    assert is_repeatable(method, path) is may


def test_what_mlflow_says_when_its_database_is_away() -> None:
    refused = (
        b'{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "(psycopg.OperationalError) connection failed: '
        b'connection to server at \\"127.0.0.1\\", port 5432 failed: Connection refused"}'
    )
    broken = (
        b'{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "(psycopg.errors.AdminShutdown) terminating '
        b'connection due to administrator command"}'
    )
    assert (is_away(503, refused), was_nothing_done(refused)) == (True, True)
    assert (is_away(503, broken), was_nothing_done(broken)) == (True, False)
    assert not is_away(500, refused)
    assert not is_away(503, b'{"error_code": "FEATURE_DISABLED"}')
    assert not is_away(503, b"<html>")
