"""What address a request is for: one form for every spelling of it that MLflow's server takes.

MLflow's server decodes the path once (uvicorn) and drops the slashes before it but one (werkzeug); everything
else has to be right to the letter: dot segments, doubled slashes further in and slashes at the end are other
addresses, to which it says 404 or where it redirects. The gateway does the same, once, before any rule of its own
looks at a path, and passes the one form on; so no rule can be passed by in another spelling.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from runstream.schemas.errors import MlflowError

# What may stand in a path and a query as it is (RFC 3986, section 3.3).
_PLAIN = re.compile(r"/(?!/)[A-Za-z0-9\-._~!$&'()*+,;=:@/]*")
_SAFE = "/-._~!$&'()*+,;=:@"
_PLAIN_QUERY = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@/?%]*")
_SAFE_QUERY = _SAFE + "?%"
_ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)


class Target(NamedTuple):
    """A request's address. ``path`` is decoded, for rules to look at; ``raw`` is ``path`` escaped, and the
    query as it was sent, for passing on. ``authority`` is what an absolute-form target named as its host."""

    path: str
    raw: str
    authority: str | None = None

    @property
    def query(self) -> str:
        """What follows the question mark."""
        return self.raw.partition("?")[2]


def read_target(target: str) -> Target:
    """Read the target of a request line. Raises ``MlflowError`` for what is no address of this server.

    RFC 9112, section 3.2.2: servers must take the absolute form, which clients send to proxies.
    """
    authority = None
    if not target.startswith(("/", "%")):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise MlflowError("The request's target must be a path")
        authority, target = absolute.groups()
        if not target.startswith("/"):
            target = f"/{target}"
    raw_path, mark, query = target.partition("?")
    if _PLAIN.fullmatch(raw_path):
        path = raw_path
    else:
        decoded = unquote_to_bytes(raw_path.encode("utf-8", "surrogateescape"))
        if not decoded.startswith(b"/"):
            raise MlflowError("The request's target must be a path")
        decoded = b"/" + decoded.lstrip(b"/")
        path, raw_path = decoded.decode(errors="replace"), quote(decoded, safe=_SAFE)
    if mark and not _PLAIN_QUERY.fullmatch(query):
        query = quote(query.encode("utf-8", "surrogateescape"), safe=_SAFE_QUERY)
    return Target(path, f"{raw_path}{mark}{query}", authority)
