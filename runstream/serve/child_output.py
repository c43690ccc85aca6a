"""What a child writes to standard error: passed on as it comes, its last line remembered."""

from __future__ import annotations

import asyncio
import sys

_CHUNK_BYTES = 1 << 16
# A line without an end is passed on in pieces of at most this size.
_LINE_BYTES = 1 << 16
_LAST_LINE_CHARS = 2000
# What is still in the pipe of a child that has ended is read within this; a grandchild may hold it open.
_REST_S = 1.0


class Output:
    """Passes whole lines on, so that those of several children do not mix.

    A line that begins with ``hold_back`` is not passed on but kept, for somebody else to say.
    """

    def __init__(self, stream: asyncio.StreamReader, *, hold_back: str) -> None:
        self._stream = stream
        self._hold_back = hold_back.encode()
        self._rest = b""
        self._last = b""
        self._held = b""
        self._passing = asyncio.create_task(self._pass_on())

    async def close(self) -> str:
        """The child has ended: pass on what is left; what was held back, or else the last line."""
        await asyncio.wait((self._passing,), timeout=_REST_S)
        self._passing.cancel()
        self._lines(self._rest + b"\n" if self._rest else b"")
        line = (self._held or self._last).decode(errors="replace").strip()
        return line[:_LAST_LINE_CHARS]

    async def _pass_on(self) -> None:
        while chunk := await self._stream.read(_CHUNK_BYTES):
            whole, end, self._rest = (self._rest + chunk).rpartition(b"\n")
            self._lines(whole + end)
            if len(self._rest) > _LINE_BYTES:
                self._write(self._rest)
                self._rest = b""

    def _lines(self, text: bytes) -> None:
        passed = []
        for line in text.splitlines(keepends=True):
            if line.startswith(self._hold_back):
                self._held = line
                continue
            passed.append(line)
            if line.strip():
                self._last = line
        self._write(b"".join(passed))

    @staticmethod
    def _write(text: bytes) -> None:
        if text:
            try:
                sys.stderr.buffer.write(text)
                sys.stderr.buffer.flush()
            except (OSError, ValueError):
                pass  # nobody reads our own any more: the children go on
