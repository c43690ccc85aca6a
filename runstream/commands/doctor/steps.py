"""The steps of a check-up: tried one after the other, each with what to do if it fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from runstream.ingest.artifacts.failures import scrub

T = TypeVar("T")
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried. ``advice`` is empty when there is nothing to do; ``ok`` is ``None`` when it could
    not be tried, which is no fault."""

    part: str
    step: str
    ok: bool | None
    detail: str
    advice: str
    seconds: float


class Problem(Exception):
    """A step did not work; carries what to do about it."""

    def __init__(self, detail: str, advice: str) -> None:
        super().__init__(detail)
        self.advice = advice


class NotNow(Exception):
    """A step cannot be tried, and that is fine."""


class Section:
    """Runs the steps of one part, and leaves out those that follow a failure."""

    def __init__(self, name: str, advice: str) -> None:
        self._name = name
        self._advice = advice
        self._failed = False
        self.checks: list[Check] = []

    async def step(self, name: str, work: Callable[[], Awaitable[T]], say: Callable[[T], str]) -> T | None:
        """Try ``work``; ``say`` words its result."""
        if self._failed:
            return None
        began = time.monotonic()
        ok: bool | None = True
        advice = ""
        outcome: T | None = None
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                outcome = await work()
            detail = say(outcome)
        except NotNow as reason:
            ok, detail = None, str(reason)
            self._failed = True
        except Problem as problem:
            ok, detail, advice = False, scrub(str(problem)), problem.advice
        except TimeoutError:
            ok, detail, advice = False, f"no answer within {_TIMEOUT_S:.0f} s", self._advice
        except Exception as error:
            ok, detail, advice = False, scrub(str(error) or type(error).__name__), self._advice
        self._failed = self._failed or ok is False
        self.checks.append(Check(self._name, name, ok, detail, advice, time.monotonic() - began))
        return outcome


async def not_there_yet() -> str:
    """A step's work where a folder is missing that a server makes by itself."""
    raise NotNow("the folder is made when the server first starts")
