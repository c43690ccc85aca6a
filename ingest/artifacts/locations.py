"""Where artifacts live: reads ``RUNSTREAM_ARTIFACTS`` and the environment's credentials.

Credentials come from the variables that obstore and MLflow's own clients read (``AWS_*``, ``MLFLOW_S3_*``,
``GOOGLE_*``, ``AZURE_*``), never from the address.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from runstream.schemas.errors import ConfigError

_EXAMPLE = "RUNSTREAM_ARTIFACTS must be file:///PATH, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
_AZURE_HOST = "blob.core.windows.net"


@dataclass(frozen=True, slots=True)
class Location:
    """A parsed address. ``bucket`` is empty for a folder; ``prefix`` has no slash at its ends, except a folder's,
    which is a path of this machine. ``account`` is Azure's."""

    scheme: str
    bucket: str
    prefix: str
    account: str = ""


@dataclass(frozen=True, slots=True)
class S3Settings:
    """How to reach an S3 bucket. ``endpoint`` is empty for Amazon's own."""

    endpoint: str
    region: str
    virtual_hosted: bool
    verify_tls: bool
    encryption: str
    encryption_key: str

    def bucket_url(self, bucket: str, endpoint: str | None = None) -> str:
        """The bucket's address, also under another endpoint."""
        base = endpoint or self.endpoint
        if not base:
            suffix = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
            base = f"https://s3.{self.region}.{suffix}"
        base = base.rstrip("/")
        if self.virtual_hosted:
            scheme, _, rest = base.partition("://")
            return base if rest.startswith(f"{bucket}.") else f"{scheme}://{bucket}.{rest}"
        return f"{base}/{bucket}"


def parse(url: str, environ: Mapping[str, str]) -> Location:
    """Read an address. Raises ``ConfigError`` with one line that says what to change."""
    if "://" not in url and not url.startswith(("file:", "memory:")):
        if not url:
            raise ConfigError(_EXAMPLE)
        return Location("file", "", str(Path(url).expanduser().absolute()))
    parts = urlsplit(url)
    if parts.query or parts.fragment or parts.password:
        raise ConfigError(f"{_EXAMPLE}; credentials and options go into the environment")
    match parts.scheme:
        case "file":
            if parts.netloc not in ("", "localhost") or not parts.path:
                raise ConfigError(_EXAMPLE)
            return Location("file", "", str(Path(unquote(parts.path)).absolute()))
        case "memory":
            return Location("memory", "", _prefix(parts.path))
        case "s3" | "gs":
            if not parts.netloc or parts.username:
                raise ConfigError(_EXAMPLE)
            return Location(parts.scheme, parts.netloc, _prefix(parts.path))
        case "az" | "wasbs":
            return _azure(parts.netloc, parts.path, environ)
    raise ConfigError(f"{_EXAMPLE}, not {parts.scheme}://")


def s3_settings(environ: Mapping[str, str]) -> S3Settings:
    """What the environment says about S3, MLflow's names before Amazon's."""
    extra: dict[str, str] = {}
    if text := environ.get("MLFLOW_S3_UPLOAD_EXTRA_ARGS"):
        try:
            extra = json.loads(text)
            unknown = set(extra) - {"ServerSideEncryption", "SSEKMSKeyId"}
        except (ValueError, TypeError) as error:
            raise ConfigError("MLFLOW_S3_UPLOAD_EXTRA_ARGS must be a JSON object") from error
        if unknown:
            raise ConfigError(
                "MLFLOW_S3_UPLOAD_EXTRA_ARGS: only ServerSideEncryption and SSEKMSKeyId are supported, "
                f"not {', '.join(sorted(unknown))}"
            )
    return S3Settings(
        endpoint=environ.get("MLFLOW_S3_ENDPOINT_URL")
        or environ.get("AWS_ENDPOINT_URL_S3")
        or environ.get("AWS_ENDPOINT_URL")
        or environ.get("AWS_ENDPOINT")
        or "",
        region=environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        virtual_hosted=environ.get("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE", "") == "virtual"
        or _true(environ.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST")),
        verify_tls=not _true(environ.get("MLFLOW_S3_IGNORE_TLS")),
        encryption=extra.get("ServerSideEncryption") or environ.get("AWS_SERVER_SIDE_ENCRYPTION", ""),
        encryption_key=extra.get("SSEKMSKeyId") or environ.get("AWS_SSE_KMS_KEY_ID", ""),
    )


def azure_config(location: Location, environ: Mapping[str, str]) -> dict[str, str]:
    """obstore's settings for an Azure container, with MLflow's ``AZURE_STORAGE_CONNECTION_STRING`` taken apart.
    The other variables obstore reads by itself."""
    fields = _connection_string(environ)
    config = {"account_name": location.account}
    for name, key in (
        ("AccountKey", "account_key"),
        ("SharedAccessSignature", "sas_key"),
        ("BlobEndpoint", "endpoint"),
    ):
        if fields.get(name):
            config[key] = fields[name]
    return config


def mlflow_destination(url: str, environ: Mapping[str, str]) -> str:
    """The same place as MLflow writes it, for ``mlflow server --artifacts-destination``."""
    location = parse(url, environ)
    match location.scheme:
        case "file":
            return location.prefix
        case "memory":
            raise ConfigError("memory:// holds artifacts of one process only; it is for tests")
        case "az":
            base = f"wasbs://{location.bucket}@{location.account}.{_AZURE_HOST}"
        case scheme:
            base = f"{scheme}://{location.bucket}"
    return posixpath.join(base, location.prefix) if location.prefix else base


def _azure(netloc: str, path: str, environ: Mapping[str, str]) -> Location:
    container, _, host = netloc.partition("@")
    account = (
        host.partition(".")[0]
        or environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")
        or _connection_string(environ).get("AccountName", "")
    )
    if not container:
        raise ConfigError(_EXAMPLE)
    if not account:
        raise ConfigError(
            "az:// needs AZURE_STORAGE_ACCOUNT_NAME or AZURE_STORAGE_CONNECTION_STRING in the environment"
        )
    return Location("az", container, _prefix(path), account)


def _connection_string(environ: Mapping[str, str]) -> dict[str, str]:
    text = environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    return dict(field.split("=", 1) for field in text.split(";") if "=" in field)


def _prefix(path: str) -> str:
    prefix = unquote(path).strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise ConfigError(_EXAMPLE)
    return prefix


def _true(value: str | None) -> bool:
    return (value or "").strip().lower() in ("1", "true", "yes")
