"""Which runs the points that are under way belong to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from runstream.schemas.names import Names


class Runs:
    """A set of runs, collected from the dictionaries of records and blocks.

    They are told apart only when somebody asks, up to 1 µs a name, once: what nobody reads meanwhile costs its
    points nothing. Dictionaries are held, not copied.
    """

    def __init__(self) -> None:
        self._dictionaries: list[Sequence[str]] = []
        self._known: set[str] = set()

    def add(self, dictionary: Sequence[str]) -> None:
        """Add the runs of a record or a block."""
        self._dictionaries.append(dictionary)

    def any_of(self, runs: Iterable[str]) -> bool:
        """Whether one of ``runs`` is here."""
        return not self._names().isdisjoint(runs)

    def among(self, runs: Collection[str]) -> set[str]:
        """Which of ``runs`` are here."""
        return self._names().intersection(runs) if runs else set()

    def _names(self) -> set[str]:
        if self._dictionaries:
            names = Names.joined([Names.of(dictionary) for dictionary in self._dictionaries])
            self._known.update(names.distinct()[0])
            self._dictionaries = []
        return self._known
