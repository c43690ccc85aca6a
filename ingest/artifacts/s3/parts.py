"""What obstore does not offer for S3: multipart uploads whose parts clients send by themselves, and downloads signed
with a file name.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import quote
from xml.etree import ElementTree

import aiohttp
from yarl import URL

from runstream.ingest.artifacts.errors import (
    BrokenUploadError,
    InvalidPathError,
    StoreRefusedError,
    StoreUnavailableError,
)
from runstream.ingest.artifacts.failures import scrub
from runstream.ingest.artifacts.protocol import UploadedPart
from runstream.ingest.artifacts.s3.signing import S3Credentials, signed

_log = logging.getLogger(__name__)

# As boto3's generate_presigned_url, which MLflow uses: an hour.
_PART_EXPIRY_S = 3600
_OWN_EXPIRY_S = 300
# Stores tell the time in whole seconds.
_CLOCK_SLACK_S = 1.5
_ABORT_PAUSES_S = (0.5, 2.0, 8.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class S3Place:
    """Where the root lies: ``url`` is the bucket's address, ``public_url`` the one under which clients see it."""

    url: str
    public_url: str
    prefix: str
    region: str


class S3Parts:
    """Signs and sends what concerns multipart uploads. ``credentials`` may block; it is called in a thread.

    ``headers`` go with the request that begins an upload (server-side encryption).
    """

    def __init__(
        self,
        place: S3Place,
        credentials: Callable[[], S3Credentials],
        *,
        stall_s: float,
        verify_tls: bool = True,
        headers: Mapping[str, str] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._place = place
        self._credentials = credentials
        self._stall_s = stall_s
        self._verify_tls = verify_tls
        self._headers = dict(headers or {})
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        # By how much the store's clock is ahead of this machine's, by its last answer.
        self._ahead_s = 0.0

    async def create(self, path: str, count: int) -> tuple[str, list[str]]:
        """Begin an upload: its id, and an address for each part that is valid for an hour."""
        answer = await self._send("POST", path, {"uploads": ""}, headers=self._headers)
        upload_id = _text(_parsed(answer), "UploadId")
        if not upload_id:
            raise StoreUnavailableError("the artifact store did not begin a multipart upload")
        keys = await asyncio.to_thread(self._credentials)
        urls = [
            self._sign(
                keys,
                "PUT",
                path,
                {"partNumber": str(number), "uploadId": upload_id},
                expires_s=_PART_EXPIRY_S,
                public=True,
            )
            for number in range(1, count + 1)
        ]
        return upload_id, urls

    async def complete(self, path: str, upload_id: str, parts: Sequence[UploadedPart]) -> None:
        """Make the parts one object. Raises ``BrokenUploadError`` if the store misses some of them."""
        body = ElementTree.Element("CompleteMultipartUpload", xmlns="http://s3.amazonaws.com/doc/2006-03-01/")
        for part in sorted(parts, key=lambda part: part.number):
            listed = ElementTree.SubElement(body, "Part")
            ElementTree.SubElement(listed, "PartNumber").text = str(part.number)
            ElementTree.SubElement(listed, "ETag").text = part.etag
        answer = await self._send("POST", path, {"uploadId": upload_id}, body=ElementTree.tostring(body))
        if _parsed(answer).tag.endswith("Error"):  # S3 can say 200 first, and fail afterwards
            raise StoreUnavailableError("the artifact store could not join the parts")

    async def abort(self, path: str, upload_id: str) -> None:
        """Drop an upload; one that is gone already is fine."""
        await self._send("DELETE", path, {"uploadId": upload_id}, missing_ok=True)

    async def abort_unfinished(self, path: str, *, since: float, until: float) -> None:
        """Drop uploads to this key begun between ``since`` and ``until`` (Unix times of this machine) that nobody can
        end any more, because the store was away when that was tried. Tries for about two minutes.

        What a client began after it had been told of the failure is its next try, and is left alone.
        """
        for pause_s in _ABORT_PAUSES_S:
            await asyncio.sleep(pause_s)
            try:
                key = self._key(path)
                answer = await self._send("GET", None, {"uploads": "", "prefix": key})
                for upload in _parsed(answer).iterfind("{*}Upload"):
                    begun = _time(upload) - self._ahead_s
                    if (
                        _text(upload, "Key") == key
                        and since - _CLOCK_SLACK_S <= begun <= until + _CLOCK_SLACK_S
                    ):
                        await self.abort(path, _text(upload, "UploadId"))
                return
            except StoreUnavailableError:
                continue
        _log.warning("an unfinished multipart upload may remain: %s", scrub(path))

    async def sign_download(self, path: str, *, expires_s: int) -> str:
        """An address whose answer a browser saves under the artifact's name, as MLflow's is."""
        keys = await asyncio.to_thread(self._credentials)
        name = path.rpartition("/")[2]
        if name.isascii() and name.isprintable():
            escaped = name.replace("\\", "\\\\").replace('"', '\\"')
            disposition = f'attachment; filename="{escaped}"'
        else:
            disposition = f"attachment; filename*=UTF-8''{quote(name)}"
        query = {"response-content-disposition": disposition}
        return self._sign(keys, "GET", path, query, expires_s=expires_s, public=True)

    async def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()

    async def _send(
        self,
        method: str,
        path: str | None,
        query: Mapping[str, str],
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        missing_ok: bool = False,
    ) -> str:
        keys = await asyncio.to_thread(self._credentials)
        url = self._sign(keys, method, path, query, expires_s=_OWN_EXPIRY_S, headers=headers)
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self._verify_tls)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=2 * self._stall_s, sock_connect=5),
                skip_auto_headers=("Content-Type",),
            )
        try:
            async with self._session.request(
                method, URL(url, encoded=True), data=body, headers=headers
            ) as answer:
                text = await answer.text(errors="replace")
                status = answer.status
                self._ahead_s = _ahead_s(answer.headers.get("Date"), self._ahead_s)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise StoreUnavailableError("the artifact store does not answer") from error
        if status < 300 or (status == 404 and missing_ok):
            return text
        code = _text(_parsed(text), "Code")
        if status == 404 or code.startswith("InvalidPart"):
            raise BrokenUploadError(
                f"the multipart upload cannot be completed ({code or status}); upload again"
            )
        _log.warning("the artifact store refused a multipart request: %s %s", status, scrub(text))
        if status in (401, 403):
            raise StoreRefusedError(
                "the artifact store does not accept the server's credentials or rights; "
                "`runstream doctor` on the server says more"
            )
        if code == "KeyTooLongError":
            raise InvalidPathError("Invalid path: a name in it is too long")
        raise StoreUnavailableError("the artifact store failed")

    def _key(self, path: str) -> str:
        return "/".join(part for part in (self._place.prefix, path) if part)

    def _sign(
        self,
        keys: S3Credentials,
        method: str,
        path: str | None,
        query: Mapping[str, str],
        *,
        expires_s: int,
        headers: Mapping[str, str] | None = None,
        public: bool = False,
    ) -> str:
        url = self._place.public_url if public else self._place.url
        if path is not None:
            url = f"{url.rstrip('/')}/{quote(self._key(path), safe='/-_.~')}"
        return signed(
            keys,
            method,
            url,
            query,
            region=self._place.region,
            expires_s=expires_s,
            headers=headers,
            now=self._clock(),
        )


def _ahead_s(date: str | None, known: float) -> float:
    try:
        return parsedate_to_datetime(date or "").timestamp() - time.time()
    except ValueError:
        return known


def _parsed(answer: str) -> ElementTree.Element:
    """The root of an answer; an empty one of what is no XML, such as a proxy's page."""
    try:
        return ElementTree.fromstring(answer)
    except ElementTree.ParseError:
        return ElementTree.Element("")


def _text(element: ElementTree.Element, name: str) -> str:
    return element.findtext(f"{{*}}{name}") or ""


def _time(upload: ElementTree.Element) -> float:
    try:
        return datetime.fromisoformat(_text(upload, "Initiated").replace("Z", "+00:00")).timestamp()
    except ValueError:
        return 0.0
