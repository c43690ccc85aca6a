"""What every source of other tools yields, and the rules that make it fit for MLflow's names and whole steps."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from runstream.schemas.mlflow.limits import MAX_KEY_LENGTH
from runstream.schemas.record import PointColumns

_BAD = re.compile(r"[^/\w.\- :]")
# Neptune's steps have six decimals.
_MOST_DECIMALS = 6
SCALE_TAG = "runstream.step_scale"


@dataclass(slots=True)
class SourceRun:
    """A run of the source. Times are Unix milliseconds; ``version`` changes whenever the source's files do.

    ``read`` yields its points, all under this one run; what it finds on the way (params, tags, notes) it adds to this
    object, so that it is complete when the points have been read. ``artifacts`` are paths inside the run and files;
    ``texts`` are artifacts that are made here. ``more``, where the source can tell, yields what has come since it was
    asked the last time.
    """

    run_id: str
    experiment: str
    name: str
    version: str
    read: Callable[[], Iterator[PointColumns]]
    more: Callable[[], Iterator[PointColumns]] | None = None
    start_time: int | None = None
    end_time: int | None = None
    status: str = "FINISHED"
    deleted: bool = False
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SourceExperiment:
    """An experiment of the source, known by its name; the target gives it an id of its own."""

    name: str
    tags: dict[str, str]
    deleted: bool


class Source(Protocol):
    """Something that runs are read from. Reading never changes it. Raises ``SourceError``."""

    def runs(self) -> Iterable[SourceRun]:
        """Every run, with its points still to be read; asked again, what has come since is there too."""
        ...


@runtime_checkable
class Experiments(Protocol):
    """A source that knows of experiments more than their names. ``notes`` is what its latest look has skipped."""

    notes: list[str]

    def experiments(self) -> Iterable[SourceExperiment]:
        """Every experiment, also those without runs."""
        ...


def made_id(*identity: str) -> str:
    """A run's id made of what names it in its source: the same whenever and wherever it is imported."""
    return hashlib.blake2b("\0".join(identity).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def version_of(paths: Iterable[Path]) -> str:
    """Changes when one of the files does."""
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(paths)]
    return hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()


def one_run(
    run_id: str,
    keys: list[str],
    codes: NDArray[np.uint32],
    steps: NDArray[np.int64],
    timestamps: NDArray[np.int64],
    values: NDArray[np.float64],
) -> PointColumns:
    """Points of a single run."""
    return PointColumns([run_id], keys, np.zeros(len(codes), np.uint32), codes, steps, timestamps, values, 0)


def legal_name(name: str) -> str:
    """The nearest name that MLflow takes: ``_`` for characters that it does not, no empty or dotted path parts."""
    plain = _BAD.sub("_", name)
    parts = ["_" * len(part) if part in (".", "..") else part for part in plain.split("/") if part]
    plain = posixpath.join(*parts) if parts else "_"
    if len(plain) > MAX_KEY_LENGTH:
        plain = f"{plain[: MAX_KEY_LENGTH - 9]}-{_short(name)}"
    return plain


def _short(name: str) -> str:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


class LegalNames:
    """The names of one run, each mapped once. Two that would become one are kept apart by a hash of the original."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes
        self._mapped: dict[str, str] = {}
        self._taken: set[str] = set()

    def __call__(self, name: str) -> str:
        mapped = self._mapped.get(name)
        if mapped is None:
            mapped = legal_name(name)
            if mapped in self._taken:
                mapped = f"{mapped[: MAX_KEY_LENGTH - 9]}-{_short(name)}"
            if mapped != name:
                self._notes.append(f"name {name!r} became {mapped!r}")
            self._mapped[name] = mapped
            self._taken.add(mapped)
        return mapped


def whole_steps(steps: NDArray[np.float64]) -> tuple[NDArray[np.int64], int]:
    """Steps as integers, and by what they were multiplied: the least power of ten, up to a million, that makes all of
    them whole; what is finer is rounded."""
    for decimals in range(_MOST_DECIMALS + 1):
        scale = 10**decimals
        scaled = steps * scale
        rounded = np.rint(scaled)
        if decimals == _MOST_DECIMALS or np.allclose(scaled, rounded, rtol=1e-12, atol=1e-6):
            return rounded.astype(np.int64), scale
    raise AssertionError("unreachable")
