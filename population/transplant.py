"""Transplanting: what turns one tree into the next, as edits of an older tree that both come from.

    base --(earlier genes)--> before --(this change)--> after

A change can be laid on the base if it touches only text that the base has too.

    Mistake
      +- OnLaterText   a change of text that an earlier change brought
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping

from population.diff import Change, diff
from population.genes import BaseTree, Edit, Kind
from population.mistakes import Mistake


class OnLaterText(Mistake):
    """A change of text that an earlier change brought."""

    def __init__(self, path: str, line: int) -> None:
        super().__init__(
            f"It changes {path}:{line}, text that an earlier change brought and the base does not have; "
            "merge the two into one"
        )


def transplant(base: BaseTree, before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Edit, ...]:
    """Return the edits of the base that do to it what turns `before` into `after`.

    Raises OnLaterText.
    """
    paths = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    return tuple(
        edit for path in paths for edit in _file(path, base.files.get(path), before.get(path), after.get(path))
    )


def _file(path: str, base: str | None, before: str | None, after: str | None) -> Iterator[Edit]:
    """Yield the edits of one file; None is a file that is not there."""
    if before is None and base is None:
        yield Edit(path, 0, 0, after or "", Kind.ADD_FILE)
    elif after is None and before == base:
        yield Edit(path, 0, len(base or ""), "", Kind.DELETE_FILE)
    elif base is None or before is None or after is None:
        raise OnLaterText(path, 1)
    else:
        places = _Places(path, base, before)
        for change in diff(before, after, path):
            yield Edit(path, *places.of(change), change.replacement)


class _Places:
    """Where text of a later version of a file stands in an older one."""

    def __init__(self, path: str, old: str, new: str) -> None:
        self._path, self._new = path, new
        self._stretches = list(_unchanged(old, new, path))
        self._starts = [start for start, _, _ in self._stretches]

    def of(self, change: Change) -> tuple[int, int]:
        """Return the span in the old text of what a change replaces in the new one."""
        for start, at, length in self._stretches[max(0, bisect_right(self._starts, change.start) - 2) :]:
            if start <= change.start and change.end <= start + length:
                return at + change.start - start, at + change.end - start
        raise OnLaterText(self._path, self._new.count("\n", 0, change.start) + 1)


def _unchanged(old: str, new: str, path: str) -> Iterator[tuple[int, int, int]]:
    """Yield (start in the new text, start in the old one, length) of each stretch that both have."""
    at = shift = 0
    for change in diff(old, new, path):
        yield at + shift, at, change.start - at
        at = change.end
        shift += len(change.replacement) - (change.end - change.start)
    yield at + shift, at, len(old) - at
