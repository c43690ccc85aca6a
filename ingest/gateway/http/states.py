"""The states of a connection, the moves between them, and the measure of a slow one."""

from __future__ import annotations

from enum import IntEnum


class State(IntEnum):
    """What a connection is doing."""

    READING = 0  # collecting a request's head, or the body of one that is handled here
    ANSWERING = 1  # a request is handled here; what comes meanwhile is read ahead
    FORWARDING = 2  # passing on a body to the server behind
    GIVEN_AWAY = 3  # all bytes belong to the server behind, for good
    CLOSED = 4


READING, ANSWERING, FORWARDING, GIVEN_AWAY, CLOSED = State
_MOVES: tuple[frozenset[State], ...] = (
    frozenset((ANSWERING, FORWARDING, GIVEN_AWAY, CLOSED)),
    frozenset((READING, CLOSED)),
    frozenset((READING, GIVEN_AWAY, CLOSED)),
    frozenset((CLOSED,)),
    frozenset(),
)


def move(now: State, to: State) -> State:
    """The state ``to``, which must be one that can follow ``now``."""
    assert to in _MOVES[now], (now, to)
    return to


class Slowness:
    """How long a caller has been holding a request up; looked at in turns. ``arrived`` counts bytes since the last
    turn, ``seconds`` is the time."""

    __slots__ = ("arrived", "seconds")

    def __init__(self) -> None:
        self.arrived = 0
        self.seconds = 0.0

    def turn(self, seconds: float, least_rate: float) -> float:
        """Another turn of that many seconds, in which so many bytes a second should have come. Returns ``seconds``."""
        slow = self.arrived < least_rate * seconds
        self.arrived = 0
        self.seconds = self.seconds + seconds if slow else 0.0
        return self.seconds
