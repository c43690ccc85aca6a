"""The page at ``/runstream/``: files of this package, as the browser should keep them.

Its files are under an address that names their content, so that browsers keep them for good; the page itself is
asked for again each time, and answered with 304 while it is the same.
"""

from __future__ import annotations

import hashlib
import html
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from aiohttp import web

PAGE = "/runstream/"
_FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    "": "text/plain; charset=utf-8",
    ".json": "application/json",
}
_SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
_FOR_GOOD = "public, max-age=31536000, immutable"
_ASK_AGAIN = "no-cache"


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    content_type: str
    etag: str


def _file(name: str, body: bytes) -> _File:
    return _File(body, _TYPES[Path(name).suffix], hashlib.sha256(body).hexdigest()[:32])


class PageRoutes:
    """Handlers of the page; all of it (about 100 KB) is read once, here.

    ``static_prefix`` is where MLflow's own pages and API are.
    """

    def __init__(self, static_prefix: str = "") -> None:
        bodies = {
            path.relative_to(_FOLDER).as_posix(): path.read_bytes()
            for path in sorted(_FOLDER.rglob("*"))
            if path.is_file()
        }
        index = bodies.pop("index.html").decode()
        names = "".join(f"{name} {hashlib.sha256(body).hexdigest()}\n" for name, body in bodies.items())
        self._version = hashlib.sha256(names.encode()).hexdigest()[:16]
        self._address = f"{quote(static_prefix)}{PAGE}"
        index = index.replace("{{assets}}", f"{self._address}{self._version}")
        index = index.replace("{{static_prefix}}", html.escape(static_prefix, quote=True))
        self._index = _file("index.html", index.encode())
        self._files = {name: _file(name, body) for name, body in bodies.items()}

    def add_to(self, app: web.Application) -> None:
        """Mount the routes."""
        app.router.add_get(PAGE.rstrip("/"), self._to_page)
        app.router.add_get(PAGE, self._page)
        app.router.add_get(f"{PAGE}{{version}}/{{name:.+}}", self._asset)
        app.router.add_get(f"{PAGE}{{tail:.+}}", self._missing)

    async def _to_page(self, request: web.Request) -> web.Response:
        query = f"?{request.query_string}" if request.query_string else ""
        return web.Response(status=308, headers={"Location": f"{self._address}{query}", **_SECURITY})

    async def _page(self, request: web.Request) -> web.Response:
        return _answer(request, self._index, _ASK_AGAIN)

    async def _asset(self, request: web.Request) -> web.Response:
        file = self._files.get(request.match_info["name"])
        if file is None:
            return await self._missing(request)
        # Another version's page asks for this during a deployment: it gets what there is, but not for good.
        known = request.match_info["version"] == self._version
        return _answer(request, file, _FOR_GOOD if known else _ASK_AGAIN)

    async def _missing(self, request: web.Request) -> web.Response:
        text = f"There is nothing at this address. The page of curves is at {self._address}\n"
        return web.Response(status=404, text=text, headers={**_SECURITY, "Cache-Control": "no-store"})


def _answer(request: web.Request, file: _File, cache: str) -> web.Response:
    headers = {**_SECURITY, "Cache-Control": cache, "ETag": f'"{file.etag}"'}
    asked = request.if_none_match
    if asked is not None and any(tag.value in (file.etag, "*") for tag in asked):
        return web.Response(status=304, headers=headers)
    return web.Response(body=file.body, headers={**headers, "Content-Type": file.content_type})
