"""The page's files arrive as browsers should keep them, under a strict policy, and nothing else does."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
from aiohttp import web

from runstream.query.page.routes import PageRoutes
from support.query_server import serving

ROOT = Path(__file__).parents[4]
FOLDER = ROOT / "query" / "page" / "static"
PREFIX = '/ml"><script>'
# What stands before the page's own addresses, for the browser. Here nothing takes it away.
BELOW = quote(PREFIX)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    def make() -> web.Application:
        app = web.Application()
        PageRoutes(PREFIX).add_to(app)
        return app

    with serving(make) as address:
        yield address


def assets(url: str) -> str:
    """Where the page says that its files are."""
    found = re.search(r'src="([^"]+)/js/main.js"', requests.get(f"{url}/runstream/", timeout=10).text)
    assert found
    assert found[1].startswith(f"{BELOW}/runstream/")
    return url + found[1].removeprefix(BELOW)


def test_page_is_asked_for_again_and_seldom_sent_again(url: str) -> None:
    first = requests.get(f"{url}/runstream/", timeout=10)
    assert first.status_code == 200
    assert first.headers["Content-Type"] == "text/html; charset=utf-8"
    assert first.headers["Cache-Control"] == "no-cache"
    again = requests.get(f"{url}/runstream/", headers={"If-None-Match": first.headers["ETag"]}, timeout=10)
    assert (again.status_code, again.content) == (304, b"")
    other = requests.get(f"{url}/runstream/", headers={"If-None-Match": '"other"'}, timeout=10)
    assert other.status_code == 200


def test_address_without_a_slash_leads_to_the_page(url: str) -> None:
    answer = requests.get(f"{url}/runstream?runs=a,b&y=log", allow_redirects=False, timeout=10)
    assert (answer.status_code, answer.headers["Location"]) == (308, f"{BELOW}/runstream/?runs=a,b&y=log")


def test_files_are_kept_for_good_under_the_address_of_their_content(url: str) -> None:
    base = assets(url)
    for path in FOLDER.rglob("*"):
        if not path.is_file() or path.name == "index.html":
            continue
        answer = requests.get(f"{base}/{path.relative_to(FOLDER).as_posix()}", timeout=10)
        assert answer.content == path.read_bytes()
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    old = requests.get(f"{url}/runstream/0123456789abcdef/page.css", timeout=10)
    assert (old.status_code, old.headers["Cache-Control"]) == (200, "no-cache")
    assert (
        requests.get(f"{base}/js/main.js", timeout=10).headers["Content-Type"].startswith("text/javascript")
    )


def test_policy_lets_only_this_origin_in(url: str) -> None:
    for path in (
        "/runstream/",
        "/runstream",
        "/runstream/nothing",
        f"{assets(url).removeprefix(url)}/page.css",
    ):
        answer = requests.get(url + path, allow_redirects=False, timeout=10)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    page = requests.get(f"{url}/runstream/", timeout=10).text
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    assert PREFIX not in page
    assert "{{" not in page


@pytest.mark.parametrize(
    "path",
    [
        "/runstream/nothing",
        "/runstream/a/index.html",
        "/runstream/a/..%2f..%2fservice.py",
        "/runstream/a/js/",
    ],
)
def test_what_is_not_there_says_so(url: str, path: str) -> None:
    answer = requests.get(url + path, timeout=10)
    assert answer.status_code == 404
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert "/runstream/" in answer.text


def test_plotting_library_is_the_pinned_package() -> None:
    manifest = json.loads((FOLDER / "vendor" / "manifest.json").read_text())
    assert manifest["integrity"].startswith("sha512-")
    names = {"manifest.json"}
    for file in manifest["files"]:
        digest = hashlib.sha512((FOLDER / "vendor" / file["name"]).read_bytes()).digest()
        assert file["integrity"] == "sha512-" + base64.b64encode(digest).decode()
        names.add(file["name"])
    assert {path.name for path in (FOLDER / "vendor").iterdir()} == names


def test_wheel_takes_whole_packages() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["runstream"]
    assert not {"include", "only-include", "exclude"} & wheel.keys()
