"""The OpenAPI document is true: requests made from it are answered as it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from runstream.query.openapi import document
from support.query_server import query_server

# The streams of live points never end, by GET or POST; what they say of wrong requests is in test_query_client.
_schema = (
    schemathesis.openapi.from_dict(document("0")).exclude(method="GET").exclude(operation_id="liveOfMany")
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with query_server() as address:
        yield address


@_schema.parametrize()
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
    ],
)
def test_answers_are_as_documented(url: str, case: schemathesis.Case[Any]) -> None:
    # A schema cannot say all: ranges that end before they begin, 5.0 where 5 is meant, what is SQL.
    case.call_and_validate(base_url=url, excluded_checks=[positive_data_acceptance])


def test_the_document_is_served(url: str) -> None:
    answer = requests.get(f"{url}/api/1.0/runstream/openapi.json", timeout=30)
    assert answer.headers["Content-Type"].startswith("application/json")
    served = answer.json()
    assert served["openapi"] == "3.1.0"
    assert served["paths"] == document("0")["paths"]
