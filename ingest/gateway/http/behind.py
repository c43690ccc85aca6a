"""What the door has to know of aiohttp's protocol behind it. The attributes are aiohttp's own: nothing else here
names them, and ``tests/unit/ingest/gateway/http/test_behind.py`` fails first where an upgrade changes them."""

from __future__ import annotations

from aiohttp.web_protocol import RequestHandler, _ErrInfo

from runstream.schemas.errors import MlflowError


def is_idle(handler: RequestHandler) -> bool:
    """Whether it waits for a request: it has read none that it has not answered."""
    waiter = handler._waiter
    return waiter is not None and not waiter.done() and not handler._messages


def awaits_body(handler: RequestHandler) -> bool:
    """Whether a request is under way whose body has not come in full."""
    request = handler._current_request
    return request is not None and not request.content.is_eof()


def end_broken_body(handler: RequestHandler) -> None:
    """Have a request refused in whose body something came that is none. aiohttp puts its 400 behind that request, which
    then waits for the rest of its body, and for ever."""
    messages = handler._messages
    if not messages or not isinstance(fault := messages[-1][0], _ErrInfo):
        return
    if len(messages) > 1:
        content = messages[-2][1]
    elif handler._current_request is not None:
        content = handler._current_request.content
    else:
        return
    if not content.is_eof():
        messages.pop()
        content.set_exception(MlflowError(f"Bad request: {fault.message.partition(':')[0]}"))
        # Its end has not come, and never will: nobody must take it for whole, nor wait for the rest.
        handler._lingering_time = 0
        handler.close()
