"""Opens an artifact store by its address."""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from obstore.store import AzureStore, GCSStore, MemoryStore, S3Store

from runstream.ingest.artifacts import locations
from runstream.ingest.artifacts.bucket import BucketStore, can_sign
from runstream.ingest.artifacts.failures import scrub
from runstream.ingest.artifacts.folder import FolderStore
from runstream.ingest.artifacts.locations import Location, S3Settings
from runstream.ingest.artifacts.protocol import ArtifactStore, StoreOptions
from runstream.ingest.artifacts.s3.parts import S3Parts, S3Place
from runstream.ingest.artifacts.s3.signing import S3Credentials
from runstream.schemas.errors import ConfigError

# botocore renews what expires by itself; obstore asks again after this time.
_CREDENTIALS_TTL = timedelta(minutes=5)
_MAX_RETRIES = 5


async def open_store(
    url: str, options: StoreOptions | None = None, environ: Mapping[str, str] | None = None
) -> ArtifactStore:
    """Open the store at ``url`` (``file:///PATH``, ``s3://bucket/prefix``, ``gs://…``, ``az://…``, ``memory://``).

    Raises ``ConfigError`` for an address or credentials that cannot work. Does not ask the store anything.
    ``environ`` is the process's environment; obstore reads some of its variables by itself.
    """
    options = options or StoreOptions()
    environ = os.environ if environ is None else environ
    location = locations.parse(url, environ)
    try:
        match location.scheme:
            case "file":
                return FolderStore(Path(location.prefix), options)
            case "memory":
                return BucketStore("memory", MemoryStore(), options, labels=False)
            case "s3":
                return await _open_s3(location, options, environ)
            case "gs":
                return await _open_signing(
                    "gs",
                    GCSStore(location.bucket, prefix=location.prefix or None, **_client(options)),
                    options,
                )
        config: Any = locations.azure_config(location, environ)
        plain = config.get("endpoint", "").startswith("http://")
        store = AzureStore(
            location.bucket, prefix=location.prefix or None, config=config, **_client(options, plain=plain)
        )
        return await _open_signing("az", store, options)
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(
            f"the artifact folder {location.prefix} cannot be used: {error.strerror}"
        ) from error
    except Exception as error:
        raise ConfigError(
            f"artifacts at {location.scheme}://{location.bucket}: {scrub(str(error))}"
        ) from error


async def _open_signing(scheme: str, store: Any, options: StoreOptions) -> BucketStore:
    return BucketStore(scheme, store, options, signs=options.direct and await can_sign(store))


async def _open_s3(location: Location, options: StoreOptions, environ: Mapping[str, str]) -> BucketStore:
    settings = locations.s3_settings(environ)
    config: Any = {"region": settings.region}
    if settings.endpoint:
        url = settings.bucket_url(location.bucket) if settings.virtual_hosted else settings.endpoint
        config["endpoint"] = url
    if settings.virtual_hosted:
        config["virtual_hosted_style_request"] = True
    if settings.encryption:
        config["server_side_encryption"] = settings.encryption
    if settings.encryption_key:
        config["sse_kms_key_id"] = settings.encryption_key
    plain = settings.endpoint.startswith("http://")
    if not plain and "AWS_UNSIGNED_PAYLOAD" not in environ:
        # TLS guards the bytes already; hashing them as well costs as much as all the rest of an upload.
        config["unsigned_payload"] = True
    credentials, region = await _s3_credentials(environ)
    if region and not environ.get("AWS_REGION") and not environ.get("AWS_DEFAULT_REGION"):
        config["region"] = region
        settings = replace(settings, region=region)
    store = S3Store(
        location.bucket,
        prefix=location.prefix or None,
        config=config,
        credential_provider=None if credentials is None else _provider(credentials),
        **_client(options, plain=plain, verify_tls=settings.verify_tls),
    )
    if credentials is None:
        return BucketStore("s3", store, options, signs=options.direct and await can_sign(store))
    place = S3Place(
        url=settings.bucket_url(location.bucket),
        public_url=settings.bucket_url(location.bucket, options.public_endpoint),
        prefix=location.prefix,
        region=settings.region,
    )
    parts = S3Parts(
        place,
        credentials,
        stall_s=options.stall_s,
        verify_tls=settings.verify_tls,
        headers=_encryption_headers(settings),
    )
    return BucketStore("s3", store, options, parts=parts)


async def _s3_credentials(
    environ: Mapping[str, str],
) -> tuple[Callable[[], S3Credentials] | None, str | None]:
    """Keys from the environment; else what boto3 finds (profiles, roles), as for MLflow's own server, if it is
    installed; else ``None``: obstore then looks for a role by itself, and only it can use what it finds."""
    if locations._true(environ.get("AWS_SKIP_SIGNATURE")):
        return None, None
    access, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if access and secret:
        fixed = S3Credentials(access, secret, environ.get("AWS_SESSION_TOKEN") or None)
        return (lambda: fixed), None
    try:
        session = importlib.import_module("botocore.session").Session()
    except ImportError:
        return None, None
    found = await asyncio.to_thread(session.get_credentials)
    if found is None:
        return None, None

    def frozen() -> S3Credentials:
        keys = found.get_frozen_credentials()
        return S3Credentials(keys.access_key, keys.secret_key, keys.token)

    return frozen, session.get_config_variable("region")


def _provider(credentials: Callable[[], S3Credentials]) -> Any:
    def provide() -> dict[str, Any]:
        keys = credentials()
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_TTL,
        }

    return provide


def _encryption_headers(settings: S3Settings) -> dict[str, str]:
    headers = {}
    if settings.encryption:
        headers["x-amz-server-side-encryption"] = settings.encryption
    if settings.encryption_key:
        headers["x-amz-server-side-encryption-aws-kms-key-id"] = settings.encryption_key
    return headers


def _client(options: StoreOptions, *, plain: bool = False, verify_tls: bool = True) -> dict[str, Any]:
    """Deadlines: on progress, not on the whole of a transfer, which can take hours."""
    stall = timedelta(seconds=options.stall_s)
    client: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=min(5.0, options.stall_s)),
        "read_timeout": stall,
        "timeout": timedelta(days=1),
    }
    if plain:
        client["allow_http"] = True
    if not verify_tls:
        client["allow_invalid_certificates"] = True
    return {
        "client_options": client,
        "retry_config": {"max_retries": _MAX_RETRIES, "retry_timeout": stall},
    }
