"""Alignment: which old line became which new one, so that each changed line is a change of its own.

The canonical diff of a whole commit is as short as can be and may run changes of neighbouring lines together. Here
lines are paired in order by the tokens they share, and each pair is compared by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate

from population.diff import Change, changed_lines, diff
from population.tokens import tokens

ALIKE = 0.5  # shared tokens / all tokens, beyond which two lines are one that changed
MOST_PAIRS = 10_000  # a stretch with more pairs of lines to compare stays as the canonical diff has it


def line_changes(old: str, new: str, path: str) -> list[Change]:
    """Return changes that turn `old` into `new`, in order, none over two lines that can be told apart."""
    found: list[Change] = []
    for start, old_lines, new_lines in changed_lines(old, new, path):
        pairs = _pairs(old_lines, new_lines, path) if len(old_lines) * len(new_lines) <= MOST_PAIRS else []
        for at, before, after in _parts(start, old_lines, new_lines, pairs):
            for change in diff(before, after, path):
                _add(found, Change(at + change.start, at + change.end, change.replacement))
    return found


def _add(found: list[Change], change: Change) -> None:
    """Add a change, joined to the one before if they meet where one of them inserts."""
    before = found[-1] if found else None
    if before and before.end == change.start and (before.start == before.end or change.start == change.end):
        found[-1] = Change(before.start, change.end, before.replacement + change.replacement)
    else:
        found.append(change)


def _parts(
    start: int, old: Sequence[str], new: Sequence[str], pairs: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, str, str]]:
    """Yield the pairs of lines, and what is between them, each with where it starts."""
    starts = list(accumulate(map(len, old), initial=start))
    i = j = 0
    for a, b in [*pairs, (len(old), len(new))]:
        yield starts[i], "".join(old[i:a]), "".join(new[j:b])
        if a < len(old):
            yield starts[a], old[a], new[b]
        i, j = a + 1, b + 1


def _pairs(old: Sequence[str], new: Sequence[str], path: str) -> list[tuple[int, int]]:
    """Return the pairs (i, j) of lines, in order, whose likenesses have the largest sum."""
    bags = [[_bag(line, path) for line in lines] for lines in (old, new)]
    best: list[tuple[float, list[tuple[int, int]]]] = [(0.0, [])] * (len(new) + 1)
    for i, mine in enumerate(bags[0]):
        row = [best[0]]
        for j, theirs in enumerate(bags[1]):
            likeness = _likeness(mine, theirs)
            taken = (best[j][0] + likeness, [*best[j][1], (i, j)]) if likeness > ALIKE else best[j]
            row.append(max(best[j + 1], row[j], taken, key=lambda option: option[0]))
        best = row
    return best[-1][1]


def _bag(line: str, path: str) -> Counter[str]:
    (cut,) = tokens(path, line)
    return Counter(token for token in cut if token.strip())


def _likeness(a: Counter[str], b: Counter[str]) -> float:
    return 2 * (a & b).total() / max(1, a.total() + b.total())
