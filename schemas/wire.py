"""Names that the query service shares with its callers inside Runstream."""

from __future__ import annotations

API = "/api/1.0/runstream"
INTERNAL = f"{API}/internal"
# Where the gateway asks for newer points to be applied before a read.
BARRIER = f"{INTERNAL}/barrier"
TOKEN_HEADER = "X-Runstream-Token"
STALE_HEADER = "X-Runstream-Stale"
ARROW = "application/vnd.apache.arrow.stream"
# In the metadata of an Arrow schema: the token of the page after this one.
NEXT_PAGE = b"next_page_token"
