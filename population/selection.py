"""Selection by DEAP: tournaments and the archive, on denoised gains, the smaller patch winning within the noise."""
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUntypedBaseClass=false

from __future__ import annotations

import random
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from deap import base, tools

from population.individuals import Individual


class Denoised(base.Fitness):
    """Compared in this order: noise bins behind the best, number of genes, gain. Invalid until it has values."""

    weights = (-1.0, -1.0, 1.0)


@dataclass
class Candidate:
    """An individual as DEAP sees it. Its fitness stays invalid if it has no score: NaN would win tournaments."""

    individual: Individual
    gain: float | None
    fitness: Denoised = field(default_factory=Denoised)


def candidates(gains: Iterable[tuple[Individual, float | None]], margin: float) -> list[Candidate]:
    """Return candidates whose fitness is their denoised gain, in the score's unit; within a `margin` the smaller wins.

    Bins of width `margin`, counted down from the best gain, keep the comparison transitive.
    """
    found = [Candidate(individual, gain) for individual, gain in gains]
    best = max((c.gain for c in found if c.gain is not None), default=0.0)
    for candidate in found:
        if candidate.gain is not None:
            behind = (best - candidate.gain) // margin if margin > 0 else best - candidate.gain
            candidate.fitness.values = (behind, len(candidate.individual.genotype.genes), candidate.gain)
    return found


def archive(pool: Sequence[Candidate], size: int) -> list[Candidate]:
    """Return the best `size` valid candidates with distinct genotypes, best first; of twins the older one stays."""
    distinct: dict[tuple[str, ...], Candidate] = {}
    for candidate in pool:
        if candidate.fitness.valid:
            distinct.setdefault(candidate.individual.genotype.genes, candidate)
    return cast(list[Candidate], tools.selBest(list(distinct.values()), size))


def tournament(pool: Sequence[Candidate], size: int, key: int) -> Candidate:
    """Return the winner among `size` valid candidates drawn with replacement; deterministic in `key`."""
    valid = [candidate for candidate in pool if candidate.fitness.valid]
    with _seeded(key):
        return cast(Candidate, tools.selTournament(valid, 1, size)[0])


@contextmanager
def _seeded(key: int) -> Generator[None]:
    """Seed the global generator, which is the one DEAP draws from, and put it back as it was."""
    before = random.getstate()
    random.seed(key)
    try:
        yield
    finally:
        random.setstate(before)
