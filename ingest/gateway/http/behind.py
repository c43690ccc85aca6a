"""What the door has to know of aiohttp's protocol behind it. The attributes are aiohttp's own: nothing else here
names them, and ``tests/unit/ingest/gateway/http/test_behind.py`` fails first where an upgrade changes them."""

from __future__ import annotations

from aiohttp.web_protocol import RequestHandler


def is_idle(handler: RequestHandler) -> bool:
    """Whether it waits for a request: it has read none that it has not answered."""
    waiter = handler._waiter
    return waiter is not None and not waiter.done() and not handler._messages


def awaits_body(handler: RequestHandler) -> bool:
    """Whether a request is under way whose body has not come in full."""
    request = handler._current_request
    return request is not None and not request.content.is_eof()
