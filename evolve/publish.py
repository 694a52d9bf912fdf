"""When the lineage is published: often enough to watch a run live, seldom enough to cost it nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from evolve.lineage import Lineage
from evolve.records import Posterior
from population.individuals import Genotype

EVERY_S = 2.0
SHARE = 0.02  # of the engine's time, at most


class Pace:
    """Says when to publish next, from what publishing took the last time. Told the time; has no clock."""

    def __init__(self, every_s: float = EVERY_S, share: float = SHARE) -> None:
        self._every_s = every_s
        self._share = share
        self._next = float("-inf")

    def due(self, now: float) -> bool:
        """Return whether it is time to publish."""
        return now >= self._next

    def took(self, began: float, ended: float) -> None:
        """Learn from a publication: the next one waits until this one was no more than its share."""
        self._next = began + max(self._every_s, (ended - began) / self._share)


class Publisher:
    """Refreshes what is believed of genes and champion, and publishes the lineage, when it is time."""

    def __init__(self, lineage: Lineage, clock: Callable[[], float] = time.monotonic) -> None:
        self._lineage = lineage
        self._clock = clock
        self._pace = Pace()

    def maybe(self, posteriors: Callable[[], Iterable[Posterior]], champion: Callable[[], Genotype]) -> bool:
        """Publish if it is time; return whether it was. What is believed is only asked for then."""
        due = self._pace.due(self._clock())
        if due:
            self.publish(posteriors, champion)
        return due

    def publish(self, posteriors: Callable[[], Iterable[Posterior]], champion: Callable[[], Genotype]) -> None:
        """Publish now: at the end of a run, whatever it costs."""
        began = self._clock()
        self._lineage.record_posteriors(posteriors())
        self._lineage.set_champion(champion())
        self._lineage.publish()
        self._pace.took(began, self._clock())
