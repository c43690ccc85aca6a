"""The process that understands large and odd bodies: see ``aside``. Ends with its standard input."""

from __future__ import annotations

import contextlib
import resource
import signal
import sys
from typing import BinaryIO

import msgspec

from runstream.ingest.gateway.writes.log_request import LogRequest
from runstream.ingest.gateway.writes.parse import PARSERS
from runstream.schemas.errors import MlflowError

_MEMORY_BYTES = 2 << 30


class Question(msgspec.Struct):
    """What goes before a body of ``size`` bytes."""

    route: str
    content_type: str | None
    size: int


class Refusal(msgspec.Struct):
    """An ``MlflowError``."""

    message: str
    code: str

    @classmethod
    def of(cls, error: MlflowError) -> Refusal:
        """What can be sent of it."""
        return cls(error.message.encode(errors="replace").decode(), error.code)

    def error(self) -> MlflowError:
        """The error again."""
        return MlflowError(self.message, self.code)


class Points(msgspec.Struct):
    """A ``LogRequest``."""

    run_id: str
    keys: list[str]
    steps: list[int]
    timestamps: list[int]
    values: list[float]
    forward: bytes | None
    deferred_error: Refusal | None


class Reply(msgspec.Struct):
    """One of the two."""

    log: Points | None = None
    refusal: Refusal | None = None


LENGTH_BYTES = 4


def framed(message: msgspec.Struct) -> bytes:
    """A message behind its length."""
    data = msgspec.msgpack.encode(message)
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def answer(question: Question, body: bytes) -> Reply:
    """Understand one body."""
    try:
        log = PARSERS[question.route].whole(body, question.content_type)
    except MlflowError as error:
        return Reply(refusal=Refusal.of(error))
    return Reply(log=_sendable(log))


def _sendable(log: LogRequest) -> Points:
    deferred = log.deferred_error
    return Points(
        log.run_id,
        log.keys,
        log.steps,
        log.timestamps,
        log.values,
        log.forward,
        Refusal.of(deferred) if deferred is not None else None,
    )


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer until there are no more questions."""
    decoder = msgspec.msgpack.Decoder(Question)
    while length := questions.read(LENGTH_BYTES):
        question = decoder.decode(questions.read(int.from_bytes(length, "big")))
        body = questions.read(question.size)
        answers.write(framed(answer(question, body)))
        answers.flush()


if __name__ == "__main__":
    # Ctrl-C is for the gateway, which ends this process in its own time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, sys.stdout.buffer)
