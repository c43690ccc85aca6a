"""The check-up of the artifact store: writes, reads, lists and deletes probe objects."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

import aiohttp
from yarl import URL

from runstream.commands.doctor.steps import Problem, Section, not_there_yet
from runstream.ingest.artifacts.errors import NoSuchArtifactError, StoreRefusedError
from runstream.ingest.artifacts.protocol import ArtifactStore, StoreOptions
from runstream.ingest.artifacts.store import open_store
from runstream.settings import GatewaySettings

_STORE_STALL_S = 10.0
# Small and large objects take different ways: the large one is sent in parts.
_SMALL = b"runstream doctor"
_LARGE_BYTES = 9 << 20
_RIGHTS = "give the credentials the rights to read, write, list and delete below the address"


async def check_artifacts(settings: GatewaySettings) -> Section:
    """Try the store that the gateway's settings name."""
    scheme = urlsplit(settings.artifacts).scheme
    part = Section(
        "artifacts",
        {
            "file": "check that the folder exists and that this user may write to it",
            "s3": "check bucket, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and, for a store other than "
            "Amazon's, MLFLOW_S3_ENDPOINT_URL",
            "gs": "check the bucket and GOOGLE_APPLICATION_CREDENTIALS",
            "az": "check the container and AZURE_STORAGE_CONNECTION_STRING, or the AZURE_STORAGE_* variables",
        }.get(scheme, "check RUNSTREAM_ARTIFACTS"),
    )
    options = StoreOptions(
        stall_s=min(_STORE_STALL_S, settings.artifacts_stall_s),
        direct=settings.artifacts_direct,
        public_endpoint=settings.artifacts_public_endpoint,
    )
    if scheme == "file" and _can_be_made(Path(unquote(urlsplit(settings.artifacts).path))):
        await part.step("open", not_there_yet, str)
        return part
    store = await part.step(
        "open", lambda: open_store(settings.artifacts, options), lambda one: _place(settings, one)
    )
    if store is None:
        return part
    folder = f".runstream-doctor-{uuid.uuid4().hex}"
    large = os.urandom(_LARGE_BYTES)
    try:
        for name, content in (("small", _SMALL), ("large", large)):
            path, kind = f"{folder}/{name}", f"{name} object"
            await part.step(f"write {kind}", partial(_write, store, path, content), _nothing)
            await part.step(f"read {kind}", partial(_read, store, path, content), _nothing)
        if store.signs_downloads:
            await part.step("signed address", partial(_signed, store, f"{folder}/small"), _nothing)
        await part.step("list", lambda: _list(store, folder), lambda names: f"{names} objects")
        await part.step("delete", lambda: _delete(store, folder), _nothing)
    finally:
        try:
            await store.delete(folder)
        except Exception:
            pass  # the step has said so
        await store.close()
    return part


def _can_be_made(folder: Path) -> bool:
    """Whether a folder is missing, and can be made in the one above it that is there."""
    if folder.exists():
        return False
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    return above.is_dir() and os.access(above, os.W_OK)


def _nothing(_: object) -> str:
    return ""


def _place(settings: GatewaySettings, store: ArtifactStore) -> str:
    if not store.signs_downloads:
        return f"{settings.artifacts}; clients are served through the gateway"
    ways = "up and down" if store.takes_parts else "down"
    return f"{settings.artifacts}; clients get signed addresses for large files, {ways}"


async def _write(store: ArtifactStore, path: str, content: bytes) -> None:
    async def blocks() -> AsyncIterator[bytes]:
        for at in range(0, len(content), 1 << 20):
            yield content[at : at + (1 << 20)]

    try:
        await store.put(path, blocks(), size=len(content))
    except StoreRefusedError as error:
        raise Problem(
            "the store does not accept these credentials, or they may not write", _RIGHTS
        ) from error


async def _signed(store: ArtifactStore, path: str) -> None:
    advice = (
        "set RUNSTREAM_ARTIFACTS_PUBLIC_ENDPOINT to the endpoint as clients reach it, or serve everything through "
        "the gateway with RUNSTREAM_ARTIFACTS_DIRECT=false"
    )
    url, _ = await store.sign_download(path, expires_s=60)
    try:
        async with aiohttp.ClientSession() as session, session.get(URL(url, encoded=True)) as answer:
            found = await answer.read()
            status = answer.status
    except (aiohttp.ClientError, OSError) as error:
        raise Problem(f"the address does not answer: {type(error).__name__}", advice) from error
    if status != 200 or found != _SMALL:
        raise Problem(f"the address answers with {status}", advice)


async def _read(store: ArtifactStore, path: str, content: bytes) -> None:
    try:
        async with store.open(path) as reader:
            found = b"".join([bytes(block) async for block in reader.read(0, reader.info.size)])
    except StoreRefusedError as error:
        raise Problem("these credentials may not read", _RIGHTS) from error
    if found != content:
        raise Problem("what was read is not what was written", "the store is not consistent; use another")


async def _list(store: ArtifactStore, folder: str) -> int:
    try:
        names = [entry.name for entry in await store.entries(folder, max_entries=1000)]
    except StoreRefusedError as error:
        raise Problem("these credentials may not list", _RIGHTS) from error
    if names != ["large", "small"]:
        raise Problem(
            f"the listing shows {names}", "the store's listings lag behind its objects; use another"
        )
    return len(names)


async def _delete(store: ArtifactStore, folder: str) -> None:
    try:
        await store.delete(folder)
        await store.stat(f"{folder}/small")
    except NoSuchArtifactError:
        return
    except StoreRefusedError as error:
        raise Problem("these credentials may not delete", _RIGHTS) from error
    raise Problem("the object is still there", _RIGHTS)
