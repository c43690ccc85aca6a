"""The small parts of the artifact routes: answers, budget, locations, signatures, secrets."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore import exceptions

from runstream.ingest.artifacts import locations
from runstream.ingest.artifacts.errors import (
    ArtifactTooLargeError,
    BusyError,
    RangeError,
    StoreRefusedError,
    StoreUnavailableError,
)
from runstream.ingest.artifacts.failures import scrub, translate
from runstream.ingest.artifacts.protocol import Entry, StoreOptions
from runstream.ingest.artifacts.s3.parts import S3Parts, S3Place
from runstream.ingest.artifacts.s3.signing import S3Credentials
from runstream.ingest.artifacts.store import open_store
from runstream.ingest.artifacts.upload import own_part
from runstream.ingest.gateway.artifacts import responses
from runstream.ingest.gateway.artifacts.budget import TransferBudget
from runstream.ingest.gateway.artifacts.limits import FileCounts, owner_of
from runstream.schemas.errors import ConfigError, MlflowError

NAMES = st.text(
    alphabet=st.characters(blacklist_characters="/\x00", blacklist_categories=("Cs", "Cc")), min_size=1
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.txt", "attachment; filename=a.txt"),
        ("a b.txt", 'attachment; filename="a b.txt"'),
        ('a"b\\c', 'attachment; filename="a\\"b\\\\c"'),
        ("", 'attachment; filename=""'),
        ("ü.html", "attachment; filename=u.html; filename*=UTF-8''%C3%BC.html"),
        ("日本", "attachment; filename=download; filename*=UTF-8''%E6%97%A5%E6%9C%AC"),
        ("a;b=c", 'attachment; filename="a;b=c"'),
    ],
)
def test_dispositions_are_mlflows(name: str, expected: str) -> None:
    assert responses.disposition(name) == expected


@given(NAMES)
def test_headers_of_a_download_are_one_ascii_line(name: str) -> None:
    for value in responses.file_headers(f"d/{name}").values():
        assert value.isascii()
        assert value.isprintable()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MLmodel", "text/plain"),
        ("mlproject", "text/plain"),
        ("a.yaml", "text/plain"),
        ("a.json", "text/plain"),
        ("json", "text/plain"),
        ("a.html", "text/html"),
        ("a.tar.gz", "application/x-tar"),
        ("a.png", "image/png"),
        (".json", "application/octet-stream"),
        ("x", "application/octet-stream"),
    ],
)
def test_types_are_mlflows(name: str, expected: str) -> None:
    assert responses.mime_type(f"d/{name}") == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=2-5", (2, 6)),
        ("bytes=7-", (7, 10)),
        ("bytes=7-99", (7, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
        ("bytes=0-1,3-4", None),
        ("lines=1-2", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("nonsense", None),
    ],
)
def test_ranges(header: str, expected: tuple[int, int] | None) -> None:
    assert responses.wanted_range({"Range": header}, 10, '"e"') == expected


def test_ranges_that_cannot_be_served() -> None:
    for header in ("bytes=10-", "bytes=99-100", "bytes=-0"):
        with pytest.raises(RangeError):
            responses.wanted_range({"Range": header}, 10, '"e"')
    with pytest.raises(MlflowError):
        responses.wanted_range({"Range": "bytes=5-2"}, 10, '"e"')
    assert responses.wanted_range({"Range": "bytes=0-1", "If-Range": '"old"'}, 10, '"e"') is None
    assert responses.wanted_range({"Range": "bytes=0-1", "If-Range": '"e"'}, 10, '"e"') == (0, 2)


def test_if_none_match() -> None:
    for header in ('"e"', 'W/"e"', '"x", "e"', "*"):
        assert responses.not_modified({"If-None-Match": header}, '"e"')
    assert responses.not_modified({"If-None-Match": '"e"'}, 'W/"e"')
    for header in ('"x"', "e", ""):
        assert not responses.not_modified({"If-None-Match": header}, '"e"')
    assert not responses.not_modified({}, '"e"')


def test_listings_are_as_protobuf_prints_them() -> None:
    entries = [Entry("a", False, 3), Entry("b", False, 0), Entry("c", True, 0)]
    assert responses.listing([]) == {}
    assert responses.listing(entries, below="d", root_uri="u") == {
        "root_uri": "u",
        "files": [
            {"path": "d/a", "is_dir": False, "file_size": 3},
            {"path": "d/b", "is_dir": False},
            {"path": "d/c", "is_dir": True},
        ],
    }


def test_what_passes_by_itself_can_be_tried_again() -> None:
    for error in (BusyError("busy"), StoreUnavailableError("away")):
        answer = responses.of_error(error, 3)
        assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
    assert responses.of_error(StoreRefusedError("no"), 3).status == 500
    assert responses.of_error(ArtifactTooLargeError("big"), 3).status == 413


async def test_budget_is_given_in_order_and_never_exceeded() -> None:
    budget = TransferBudget(10, max_waiting=10, wait_s=5)
    order: list[int] = []
    gate = asyncio.Event()

    async def transfer(number: int, size: int) -> None:
        async with budget.hold(size):
            assert budget.held_bytes <= 10
            order.append(number)
            await gate.wait()

    tasks = [asyncio.create_task(transfer(number, size)) for number, size in enumerate((6, 3, 9, 1, 99))]
    await asyncio.sleep(0)
    assert order == [0, 1]  # the small one behind the large one waits for its turn
    gate.set()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert budget.held_bytes == 0


async def test_budget_refuses_what_would_wait_too_long() -> None:
    budget = TransferBudget(10, max_waiting=1, wait_s=0.05)
    async with budget.hold(10):
        waiting = asyncio.create_task(budget.hold(1).__aenter__())
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await budget.hold(1).__aenter__()
        with pytest.raises(BusyError):
            await waiting
        cancelled = asyncio.create_task(budget.hold(1).__aenter__())
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
    async with budget.hold(10):
        assert budget.held_bytes == 10
    assert budget.held_bytes == 0


async def test_count_limit(tmp_path: Path) -> None:
    store = await open_store(f"file://{tmp_path}", StoreOptions())

    async def put(path: str) -> None:
        async def body() -> Any:
            yield b"x"

        await store.put(path, body(), size=1)

    counts = FileCounts(2)
    for name in ("a", "d/b"):
        await counts.check(store, f"1/run/artifacts/{name}")
        await put(f"1/run/artifacts/{name}")
        counts.added(f"1/run/artifacts/{name}")
    with pytest.raises(ArtifactTooLargeError):
        await counts.check(store, "1/run/artifacts/e/c")
    await counts.check(store, "1/run/artifacts/a")  # replacing is no new artifact
    await counts.check(store, "1/other/artifacts/a")
    await store.delete("1/run/artifacts/a")
    counts.forget("1/run/artifacts/a")
    await counts.check(store, "1/run/artifacts/e/c")
    await store.close()


def test_owners() -> None:
    assert owner_of("1/run/artifacts/d/f") == "1/run/artifacts"
    assert owner_of("1/models/m-1/artifacts/MLmodel") == "1/models/m-1/artifacts"
    assert owner_of("1/run/x") == "1/run"


@pytest.mark.parametrize(
    ("url", "environ", "expected", "mlflow"),
    [
        ("file:///data/a", {}, ("file", "", "/data/a", ""), "/data/a"),
        ("/data/a", {}, ("file", "", "/data/a", ""), "/data/a"),
        ("file:///data/a%20b", {}, ("file", "", "/data/a b", ""), "/data/a b"),
        ("s3://b", {}, ("s3", "b", "", ""), "s3://b"),
        ("s3://b/p/q/", {}, ("s3", "b", "p/q", ""), "s3://b/p/q"),
        ("gs://b/p", {}, ("gs", "b", "p", ""), "gs://b/p"),
        (
            "az://c/p",
            {"AZURE_STORAGE_ACCOUNT_NAME": "acc"},
            ("az", "c", "p", "acc"),
            "wasbs://c@acc.blob.core.windows.net/p",
        ),
        (
            "az://c",
            {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=acc;AccountKey=a2V5"},
            ("az", "c", "", "acc"),
            "wasbs://c@acc.blob.core.windows.net",
        ),
        (
            "wasbs://c@acc.blob.core.windows.net/p",
            {},
            ("az", "c", "p", "acc"),
            "wasbs://c@acc.blob.core.windows.net/p",
        ),
    ],
)
def test_addresses(url: str, environ: dict[str, str], expected: tuple[str, ...], mlflow: str) -> None:
    location = locations.parse(url, environ)
    assert (location.scheme, location.bucket, location.prefix, location.account) == expected
    assert locations.mlflow_destination(url, environ) == mlflow


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://h/p",
        "s3:///p",
        "s3://key:secret@bucket/p",
        "s3://b/../c",
        "s3://b/a//c",
        "s3://b?endpoint=x",
        "gs://",
        "az://container",
        "az:///p",
        "file://host/p",
    ],
)
def test_addresses_that_cannot_work(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        locations.parse(url, {})
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_configurations_of_the_clouds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_NAME"):
        monkeypatch.delenv(name, raising=False)
    aws = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-west-1"}
    store = await open_store("s3://bucket/p", StoreOptions(), aws)
    assert (store.scheme, store.takes_parts, store.signs_downloads) == ("s3", True, True)
    await store.close()
    store = await open_store("s3://bucket/p", StoreOptions(direct=False), aws)
    assert (store.takes_parts, store.signs_downloads) == (False, False)
    await store.close()
    azure = {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=acc;AccountKey=a2V5a2V5"}
    store = await open_store("az://container/p", StoreOptions(), azure)
    assert (store.scheme, store.takes_parts, store.signs_downloads) == ("az", False, True)
    await store.close()
    with pytest.raises(ConfigError):
        await open_store("az://container/p", StoreOptions(), {})
    key = tmp_path / "key.json"
    key.write_text(json.dumps({"client_email": "x@y", "private_key": "no key", "disable_oauth": True}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    with pytest.raises(ConfigError, match="gs://bucket"):
        await open_store("gs://bucket/p", StoreOptions())
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="artifact folder"):
        await open_store(f"file://{tmp_path}/file/below", StoreOptions())


def test_s3_settings() -> None:
    settings = locations.s3_settings(
        {"MLFLOW_S3_ENDPOINT_URL": "http://h:1", "AWS_ENDPOINT_URL": "http://other"}
    )
    assert settings.bucket_url("b") == "http://h:1/b"
    assert settings.bucket_url("b", "https://public") == "https://public/b"
    virtual = locations.s3_settings(
        {"AWS_ENDPOINT_URL": "https://h", "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "virtual"}
    )
    assert virtual.bucket_url("b") == "https://b.h"
    assert (
        locations.s3_settings({"AWS_REGION": "eu-west-1"}).bucket_url("b")
        == "https://s3.eu-west-1.amazonaws.com/b"
    )
    extra = {"MLFLOW_S3_UPLOAD_EXTRA_ARGS": '{"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "k"}'}
    assert locations.s3_settings(extra).encryption_key == "k"
    for wrong in ("nonsense", '{"ACL": "public-read"}', "3"):
        with pytest.raises(ConfigError):
            locations.s3_settings({"MLFLOW_S3_UPLOAD_EXTRA_ARGS": wrong})


def test_signatures_equal_botocores() -> None:
    from botocore.auth import S3SigV4QueryAuth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    now = datetime.now(UTC)
    keys = S3Credentials("AKID", "SECRET", "TOKEN/with+signs=")
    place = S3Place("https://h.example:8443/bucket", "https://h.example:8443/bucket", "pre fix", "eu-west-1")
    parts = S3Parts(place, lambda: keys, stall_s=1, clock=lambda: now)
    query = {"partNumber": "3", "uploadId": "a/b+c="}
    ours = parts._sign(keys, "PUT", "d/ü f+%.bin", query, expires_s=300)
    bare = "https://h.example:8443/bucket/pre%20fix/d/%C3%BC%20f%2B%25.bin?partNumber=3&uploadId=a%2Fb%2Bc%3D"
    request = AWSRequest("PUT", bare)
    auth = S3SigV4QueryAuth(
        Credentials("AKID", "SECRET", "TOKEN/with+signs="), "s3", "eu-west-1", expires=300
    )
    request.context["timestamp"] = now.strftime("%Y%m%dT%H%M%SZ")
    auth._modify_request_before_signing(request)
    expected = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    assert ours.endswith(f"X-Amz-Signature={expected}")
    assert "SECRET" not in ours
    assert "SECRET" not in repr(keys)
    assert "AKID" not in repr(keys)


def test_secrets_do_not_reach_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5a2V5a2V5")
    text = (
        "Error performing GET http://user:pw@h/b/k?X-Amz-Signature=abcdef&sig=xyz in 3ms - 403: "
        "<Error><Code>Bad</Code><AWSAccessKeyId>AKIA</AWSAccessKeyId><StringToSign>AWS4\nSIGNED</StringToSign></Error> "
        "wJalrXUtnFEMI a2V5a2V5a2V5\n\nDebug source: more secrets"
    )
    clean = scrub(text)
    for secret in ("abcdef", "xyz", "user", "pw@", "AKIA", "SIGNED", "wJalr", "a2V5", "more secrets", "\n"):
        assert secret not in clean
    assert "<Code>Bad</Code>" in clean
    with caplog.at_level(logging.DEBUG):
        error = translate(exceptions.PermissionDeniedError(text), "read")
    assert isinstance(error, StoreRefusedError)
    assert "403" not in str(error)
    assert "abcdef" not in caplog.text
    assert "wJalr" not in caplog.text


@given(
    st.integers(5 << 20, 1 << 30),
    st.one_of(st.none(), st.integers(1, 5 << 40)),
    st.floats(0, 1),
)
def test_parts_differ_between_uploads_within_the_stores_bounds(
    part: int, size: int | None, fraction: float
) -> None:
    most = part if size is None else max(part, -(-size // 9_999))
    own = own_part(most, size, fraction)
    assert max(5 << 20, most * 5 // 6) <= own <= most
    if size is not None:
        assert -(-size // own) < 10_000
    assert own_part(most, None, 0) == most


def test_uploads_that_begin_together_part_ways() -> None:
    assert len({own_part(6 << 20, 1 << 30, fraction / 10) for fraction in range(10)}) == 10
