"""The one diff of the project: old text, new text -> minimal, deterministic, leftmost changes aligned to tokens.

Lines are matched first, then tokens inside the lines that differ (Myers, "An O(ND) difference algorithm", 1986).
Lines first, because a bare token diff may read an inserted line `y = g(1)` after `x = f(1)` as the insertion of
`(1) y = g` inside `x`: another gene that moves the 1 of `x` would then silently move the 1 of `y`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from population.tokens import is_newline, tokens

MOST_EDITS = 1500  # beyond so many insertions and deletions, a stretch is replaced whole: Myers is quadratic in them

Hunk = tuple[int, int, int, int]  # old[i0:i1] becomes new[j0:j1]


class Change(NamedTuple):
    """Replace characters [start, end) of the old text by `replacement`."""

    start: int
    end: int
    replacement: str


class _Run(NamedTuple):
    """Equal stretches old[old:old+length] == new[new:new+length], and the run before it."""

    old: int
    new: int
    length: int
    before: _Run | None


def diff(old: str, new: str, path: str) -> tuple[Change, ...]:
    """Return the changes that turn `old` into `new`, in order, none touching the next. A path *.py means Python."""
    old_lines, new_lines = map(_lines, tokens(path, old, new))
    starts = list(accumulate(map(_length, old_lines), initial=0))
    changes: list[Change] = []
    for i0, i1, j0, j1 in _hunks(old_lines, new_lines):
        changes += _inside(starts[i0], _flat(old_lines[i0:i1]), _flat(new_lines[j0:j1]))
    return tuple(changes)


def changed_lines(old: str, new: str, path: str) -> list[tuple[int, list[str], list[str]]]:
    """Return each stretch of differing lines: where it starts in the old text, its old lines, its new lines."""
    old_lines, new_lines = ([*map("".join, _lines(cut))] for cut in tokens(path, old, new))
    starts = list(accumulate(map(len, old_lines), initial=0))
    hunks = _hunks(old_lines, new_lines)
    return [(starts[i0], old_lines[i0:i1], new_lines[j0:j1]) for i0, i1, j0, j1 in hunks]


def patched(text: str, changes: Iterable[tuple[int, int, str]]) -> str:
    """Return the text after changes that are sorted and do not overlap."""
    parts: list[str] = []
    at = 0
    for start, end, replacement in changes:
        parts += (text[at:start], replacement)
        at = end
    return "".join((*parts, text[at:]))


def _lines(cut: list[str]) -> list[tuple[str, ...]]:
    """Group tokens into lines; a token that spans several lines keeps them in one group."""
    lines: list[tuple[str, ...]] = []
    start = 0
    for k, token in enumerate(cut, 1):
        if is_newline(token):
            lines.append(tuple(cut[start:k]))
            start = k
    return [*lines, tuple(cut[start:])] if start < len(cut) else lines


def _length(line: tuple[str, ...]) -> int:
    return sum(map(len, line))


def _flat(lines: list[tuple[str, ...]]) -> list[str]:
    return [token for line in lines for token in line]


def _inside(at: int, old: list[str], new: list[str]) -> Iterator[Change]:
    """Yield the token changes inside one stretch of differing lines that starts at character `at`."""
    starts = list(accumulate(map(len, old), initial=at))
    for i0, i1, j0, j1 in _hunks(old, new):
        yield Change(starts[i0], starts[i1], "".join(new[j0:j1]))


def _hunks(old: Sequence[object], new: Sequence[object]) -> list[Hunk]:
    """Return the differing stretches, in order, slid to the left."""
    head = _common(old, new)
    tail = _common(old[head:][::-1], new[head:][::-1])
    i_end, j_end = len(old) - tail, len(new) - tail
    matches = _myers(old[head:i_end], new[head:j_end])
    hunks: list[Hunk] = []
    i, j = head, head
    for x, y in [*((head + x, head + y) for x, y in matches), (i_end, j_end)]:
        if (x, y) != (i, j):
            _push_left(hunks, (i, x, j, y), old, new)
        i, j = x + 1, y + 1
    return hunks


def _common(old: Sequence[object], new: Sequence[object]) -> int:
    pairs = zip(old, new, strict=False)
    return next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(old), len(new)))


def _push_left(hunks: list[Hunk], hunk: Hunk, old: Sequence[object], new: Sequence[object]) -> None:
    """Slide a pure insertion or deletion left as far as it goes, join it to a hunk it meets, and add it."""
    i0, i1, j0, j1 = hunk
    floor = hunks[-1][1] if hunks else 0
    side, last = (new, j1) if i0 == i1 else (old, i1)
    shift = 0
    if i0 == i1 or j0 == j1:
        while i0 - shift > floor and old[i0 - shift - 1] == side[last - shift - 1]:
            shift += 1
    moved = (i0 - shift, i1 - shift, j0 - shift, j1 - shift)
    if hunks and moved[0] == floor:
        before = hunks.pop()
        _push_left(hunks, (before[0], moved[1], before[2], moved[3]), old, new)
    else:
        hunks.append(moved)


def _myers(old: Sequence[object], new: Sequence[object]) -> list[tuple[int, int]]:
    """Return the matched index pairs of a shortest edit script; none when it would take over MOST_EDITS edits."""
    if not old or not new:
        return []
    reach: dict[int, tuple[int, _Run | None]] = {1: (0, None)}  # diagonal -> furthest x, and the runs that led there
    for d in range(min(MOST_EDITS, len(old) + len(new)) + 1):
        for k in range(-d, d + 1, 2):
            down = k == -d or (k != d and reach[k - 1][0] < reach[k + 1][0])
            x, run = reach[k + 1] if down else (reach[k - 1][0] + 1, reach[k - 1][1])
            start = x
            while x < len(old) and x - k < len(new) and old[x] == new[x - k]:
                x += 1
            reach[k] = (x, _Run(start, start - k, x - start, run) if x > start else run)
            if x >= len(old) and x - k >= len(new):
                return _matches(reach[k][1])
    return []


def _matches(run: _Run | None) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    while run is not None:
        pairs += ((run.old + k, run.new + k) for k in reversed(range(run.length)))
        run = run.before
    return pairs[::-1]
