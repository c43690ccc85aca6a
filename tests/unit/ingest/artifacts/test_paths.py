"""Artifact paths cannot leave the root, and mean what they mean to MLflow."""

from __future__ import annotations

import os
import posixpath
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runstream.ingest.artifacts import paths
from runstream.ingest.artifacts.errors import (
    ArtifactError,
    InvalidPathError,
    NoSuchArtifactError,
)
from runstream.ingest.artifacts.folder import FolderStore
from runstream.ingest.artifacts.protocol import StoreOptions

ESCAPES = [
    # No UTF-8: these two would be one file's name.
    "%ff",
    "a/%fe.txt",
    "%25ff",
    "%c3",
    "%ed%a0%80",
    "%c0%ae%c0%ae/x",
    "..",
    "../x",
    "a/../b",
    "a/..",
    "%2e%2e/x",
    "%2E%2E%2Fx",
    "a/%2e%2e/b",
    "..%2fx",
    "%252e%252e%252fx",
    "%25252e%25252e/x",
    ".%2e/x",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "//etc",
    "///etc/passwd",
    "\\etc",
    "..\\x",
    "a\\..\\b",
    "%5c..%5cx",
    "a%255cb",
    "\\\\server\\share",
    "C:\\x",
    "C:/x",
    "c:",
    "C%3A%5Cx",
    "file:///etc/passwd",
    "file:x",
    "FILE:/etc",
    "a#b",
    "a%23b",
    "．．/x",  # full-width dots
    "‥/x",  # two dot leader
    "a／．．／b",  # full-width slashes
    "%EF%BC%8E%EF%BC%8E/x",
    "%u002e%u002e/x/../y",
    "a/" * 2500,
]

HARMLESS = {
    "": "",
    ".": "",
    "a": "a",
    "a/b": "a/b",
    "a//b": "a/b",
    "a/./b": "a/b",
    "a/": "a",
    "a%20b": "a b",
    "a%2520b": "a b",
    "100%": "100%",
    "%zz": "%zz",
    "ü/é": "ü/é",
    "%C3%BC": "ü",
    "a\x00b": "a%00b",
    "a%00b": "a%00b",
    "a%2500": "a%00",
    "a\x7f": "a%7f",
    "...": "...",
    "..a": "..a",
    "a..b/c..": "a..b/c..",
    ".hidden": ".hidden",
    "x:y": "x:y",
    "images/k+step+1.png": "images/k+step+1.png",
    "％2e％2e/x": "％2e％2e/x",
}


@pytest.mark.parametrize("raw", ESCAPES)
def test_what_could_leave_the_root_is_refused(raw: str) -> None:
    for check in (paths.canonical, paths.destination):
        with pytest.raises(InvalidPathError, match="Invalid path"):
            check(raw)


@pytest.mark.parametrize(("raw", "expected"), HARMLESS.items())
def test_harmless_paths_keep_their_meaning(raw: str, expected: str) -> None:
    assert paths.canonical(raw) == expected


@pytest.mark.parametrize(
    "raw", ["", "a/", "a/.", ".", "a/./b", "./a", ".artifact.uploading.x", "d/.artifact.uploading.x"]
)
def test_uploads_need_an_unambiguous_name(raw: str) -> None:
    with pytest.raises(InvalidPathError):
        paths.destination(raw)


def test_uploads_with_a_plain_name() -> None:
    assert paths.destination("a/b%20c") == "a/b c"
    assert paths.destination("a//b") == "a/b"  # as MLflow: splitting drops the slashes before the name


PIECES = st.one_of(
    st.sampled_from(
        [
            "..",
            ".",
            "/",
            "\\",
            "%2e",
            "%2f",
            "%5c",
            "%25",
            "%00",
            "\x00",
            "C:",
            "file:",
            "~",
            "．",
            "／",
            "‥",
            "a",
            " ",
            "#",
            "?",
        ]
    ),
    st.text(max_size=4),
)
TRICKY = st.lists(PIECES, max_size=12).map("".join)


@settings(max_examples=600, deadline=None)
@given(TRICKY)
@example("%25" * 12 + "2e%2e/x")
def test_no_path_leaves_the_root(raw: str) -> None:
    try:
        path = paths.canonical(raw)
    except InvalidPathError:
        return
    assert ".." not in path.split("/")
    assert not path.startswith(("/", "\\"))
    assert "\x00" not in path
    assert path == "" or posixpath.normpath(path) == path
    assert os.path.realpath(f"/root/of/artifacts/{path}").startswith("/root/of/artifacts")


@settings(max_examples=400, deadline=None)
@given(TRICKY)
def test_what_is_canonical_stays_so(raw: str) -> None:
    try:
        path = paths.canonical(raw)
    except InvalidPathError:
        return
    # Listings give canonical names to clients, which send them back, escaped once.
    if not any(ord(c) < 32 or c == "\x7f" for c in raw):
        assert paths.canonical(quote(path)) == paths.canonical(path)


@settings(max_examples=600, deadline=None)
@given(TRICKY)
def test_mlflow_refuses_nothing_that_is_accepted_here(raw: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.uri import validate_path_is_safe

    try:
        ours = paths.canonical(raw)
    except InvalidPathError:
        return
    try:
        stock = validate_path_is_safe(raw)
    except MlflowException as error:
        raise AssertionError(f"MLflow refuses {raw!r}") from error
    assert ours == ("" if posixpath.normpath(stock or ".") == "." else posixpath.normpath(stock))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    return folder


@pytest.fixture
async def folder(tmp_path: Path, outside: Path) -> AsyncIterator[FolderStore]:
    root = tmp_path / "root"
    store = FolderStore(root, StoreOptions())
    (root / "d").mkdir()
    (root / "d" / "f").write_text("fine")
    (root / "out").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    (root / "up").symlink_to("../outside")
    (root / "inside").symlink_to(root / "d")
    (root / "loop").symlink_to(root / "loop")
    (root / "dangling").symlink_to(outside / "new")
    yield store
    await store.close()


async def block() -> AsyncIterator[bytes]:
    yield b"data"


@pytest.mark.parametrize("path", ["out/secret", "file", "up/secret", "out", "dangling"])
async def test_links_out_of_the_root_are_not_followed(folder: FolderStore, outside: Path, path: str) -> None:
    with pytest.raises(InvalidPathError):
        await folder.stat(path)
    with pytest.raises(InvalidPathError):
        async with folder.open(path):
            pass
    with pytest.raises(InvalidPathError):
        await folder.entries(path, max_entries=10)
    with pytest.raises(ArtifactError):
        await folder.put(path, block(), size=4)
    with pytest.raises(InvalidPathError):
        await folder.put(f"{path}/x", block(), size=4)
    assert sorted(one.name for one in outside.iterdir()) == ["secret"]
    assert (outside / "secret").read_text() == "secret"


async def test_deleting_a_link_leaves_what_it_points_to(folder: FolderStore, outside: Path) -> None:
    with pytest.raises(InvalidPathError):
        await folder.delete("out/secret")
    for name in ("out", "file", "up", "loop", "inside"):
        await folder.delete(name)
    assert (outside / "secret").read_text() == "secret"
    assert (await folder.stat("d/f")).size == 4


async def test_links_inside_the_root_work(folder: FolderStore) -> None:
    assert (await folder.stat("inside/f")).size == 4
    await folder.put("inside/g", block(), size=4)
    assert (await folder.stat("d/g")).size == 4
    with pytest.raises((InvalidPathError, NoSuchArtifactError)):
        await folder.stat("loop")


async def test_odd_things_in_the_folder_do_no_harm(folder: FolderStore, tmp_path: Path) -> None:
    root = tmp_path / "root"
    os.mkfifo(root / "pipe")
    (root / ".artifact.uploading.left#1").write_text("x")
    Path(os.fsdecode(os.fsencode(root) + b"/bad\xff")).touch()
    listed = [entry.name for entry in await folder.entries("", max_entries=100)]
    assert "pipe" in listed
    assert not any("uploading" in name or "bad" in name for name in listed)
    with pytest.raises(NoSuchArtifactError):
        async with folder.open("pipe"):
            pass
