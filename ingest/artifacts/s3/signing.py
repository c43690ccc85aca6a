"""Addresses signed with Signature Version 4 in the query string.

https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html

botocore signs the same way, and a test holds this to it. It is not used itself: the gateway runs where boto3 is not
installed, up to 10,000 addresses of one upload are signed on the event loop, and a clock cannot be given to it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote, urlsplit


@dataclass(frozen=True, slots=True)
class S3Credentials:
    """Keys of one moment; never shown."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


def signed(
    keys: S3Credentials,
    method: str,
    url: str,
    query: Mapping[str, str],
    *,
    region: str,
    expires_s: int,
    headers: Mapping[str, str] | None = None,
    now: datetime,
) -> str:
    """``url``, whose path is encoded already, with ``query`` and a signature. The request must carry ``headers``."""
    base = urlsplit(url)
    resource = base.path or "/"
    scope = f"{now:%Y%m%d}/{region}/s3/aws4_request"
    carried = {"host": base.netloc, **{name.lower(): value for name, value in (headers or {}).items()}}
    names = ";".join(sorted(carried))
    parameters = {
        **query,
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{keys.access_key}/{scope}",
        "X-Amz-Date": f"{now:%Y%m%dT%H%M%SZ}",
        "X-Amz-Expires": str(expires_s),
        "X-Amz-SignedHeaders": names,
    }
    if keys.token:
        parameters["X-Amz-Security-Token"] = keys.token
    encoded = "&".join(
        f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}"
        for name, value in sorted(parameters.items())
    )
    request = "\n".join(
        (
            method,
            resource,
            encoded,
            *(f"{name}:{value.strip()}" for name, value in sorted(carried.items())),
            "",
            names,
            "UNSIGNED-PAYLOAD",
        )
    )
    digest = hashlib.sha256(request.encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{now:%Y%m%dT%H%M%SZ}\n{scope}\n{digest}"
    key = f"AWS4{keys.secret_key}".encode()
    for step in scope.split("/"):
        key = hmac.digest(key, step.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    return f"{base.scheme}://{base.netloc}{resource}?{encoded}&X-Amz-Signature={signature}"
