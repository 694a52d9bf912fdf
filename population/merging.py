"""Merging: pieces that fail alone are merged with the pieces they need, found by delta debugging.

Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input" (2002); here for what a piece needs. All
pieces together are taken to pass, and what passes to pass with more that does. Everything follows from the outcomes so
far, so whoever runs the tests may run those that are wanted in parallel and in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Pieces = frozenset[int]
Outcomes = Mapping[Pieces, bool]


@dataclass(frozen=True)
class Plan:
    """Which sets of pieces to test next; when there are none, `groups` is the answer.

    Each group then passes alone, unless it fails even with all the others.
    """

    wanted: tuple[Pieces, ...]
    groups: tuple[Pieces, ...]


class _Untested(Exception):
    """The search cannot go on without this outcome."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces


def plan(groups: Sequence[Pieces], outcomes: Outcomes) -> Plan:
    """Return what the outcomes so far say about groups of piece numbers; neighbours have neighbouring numbers."""
    untested = tuple(group for group in groups if group not in outcomes)
    if untested:
        return Plan(untested, tuple(groups))
    sound = [group for group in groups if outcomes[group]]
    broken = [group for group in groups if not outcomes[group]]
    wanted = [union for group in broken if (union := group.union(*sound)) not in outcomes]
    if wanted:
        return Plan(tuple(wanted), tuple(groups))
    # what sound groups can mend comes first: then those that they mended are sound, and may mend others
    mendable = [group for group in broken if outcomes[group.union(*sound)]]
    candidates = sound if mendable else list(groups)
    return _merged(groups, mendable or broken, candidates, outcomes)


def _merged(
    groups: Sequence[Pieces], broken: Sequence[Pieces], candidates: Sequence[Pieces], outcomes: Outcomes
) -> Plan:
    """Merge each broken group with those candidates that it needs, and go on with the groups that this makes."""
    found: list[Pieces] = []
    wanted: list[Pieces] = []
    for group in broken:
        try:
            found.append(_with_needs(group, candidates, outcomes))
        except _Untested as missing:
            wanted.append(missing.pieces)
    merged = _joined([*groups, *found])
    if wanted or merged == tuple(groups):  # the latter: all are sound, or some fail even with everything
        return Plan(tuple(dict.fromkeys(wanted)), tuple(groups))
    return plan(merged, outcomes)


def settle(groups: Sequence[Pieces], test: Callable[[Sequence[Pieces]], Outcomes]) -> tuple[Pieces, ...]:
    """Merge groups until each passes alone; `test` returns the outcome of every set of pieces it is given."""
    outcomes: dict[Pieces, bool] = {}
    while (step := plan(groups, outcomes)).wanted:
        outcomes.update(test(step.wanted))
    return step.groups


def _with_needs(group: Pieces, groups: Sequence[Pieces], outcomes: Outcomes) -> Pieces:
    """Return a group that fails alone with the fewest others that make it pass: sound ones first, and near ones."""
    others = [other for other in groups if other != group]
    others.sort(key=lambda other: (not outcomes[other], _distance(group, other)))
    needed: list[Pieces] = []
    while others and not _passes(group.union(*needed), outcomes):
        n = _first_that_helps(group.union(*needed), others, outcomes)
        needed, others = [*needed, others[n - 1]], others[: n - 1]
    while (fewer := _one_less(group, needed, outcomes)) is not None:
        needed = fewer
    return group.union(*needed)


def _one_less(group: Pieces, needed: Sequence[Pieces], outcomes: Outcomes) -> list[Pieces] | None:
    """Return what is needed less the first that turns out not to be; None if all are."""
    shorter = ([other for other in needed if other != extra] for extra in needed)
    return next((rest for rest in shorter if _passes(group.union(*rest), outcomes)), None)


def _first_that_helps(group: Pieces, others: Sequence[Pieces], outcomes: Outcomes) -> int:
    """Return the least n such that the first n others make the group pass: doubled until they do, then halved."""
    low, high = 0, 1
    while high < len(others) and not _passes(group.union(*others[:high]), outcomes):
        low, high = high, 2 * high
    high = min(high, len(others))  # all together pass
    while high - low > 1:
        middle = (low + high) // 2
        if _passes(group.union(*others[:middle]), outcomes):
            high = middle
        else:
            low = middle
    return high


def _passes(pieces: Pieces, outcomes: Outcomes) -> bool:
    if pieces not in outcomes:
        raise _Untested(pieces)
    return outcomes[pieces]


def _distance(a: Pieces, b: Pieces) -> int:
    return min(abs(i - j) for i in a for j in b)


def _joined(groups: Sequence[Pieces]) -> tuple[Pieces, ...]:
    """Return the unions of groups that overlap, in order of their first piece."""
    unions: list[Pieces] = []
    for group in groups:
        apart = [union for union in unions if not union & group]
        unions = [*apart, group.union(*(union for union in unions if union & group))]
    return tuple(sorted(unions, key=min))
