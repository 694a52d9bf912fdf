"""Genotypes, individuals, and what comes back for them: scores belong to genotypes, ancestry to individuals."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from population.genes import Gene


class Operator(StrEnum):
    """How an individual came to be (DESIGN: operators)."""

    BASELINE = "baseline"
    KNOB = "knob"
    RECOMBINE = "recombine"
    DROP = "drop"
    MUTATE = "mutate"
    CROSS = "cross"
    REFINE = "refine"
    INJECT = "inject"


class Status(StrEnum):
    """How an evaluation ended; a score exists if and only if it is `ok`."""

    OK = "ok"
    PATCH_FAILED = "patch_failed"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    DIVERGED = "diverged"
    OVER_BUDGET = "over_budget"
    CHEATED = "cheated"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Genotype:
    """A patch set: gene ids, sorted, without repetition. `Genotype()` is the baseline."""

    genes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if list(self.genes) != sorted(set(self.genes)):
            raise ValueError(f"genes of a genotype are sorted and distinct, got {self.genes}; use Genotype.of()")

    @staticmethod
    def of(genes: Iterable[str]) -> Genotype:
        """Return the genotype of these gene ids, in any order, repeats allowed."""
        return Genotype(tuple(sorted(set(genes))))

    @cached_property
    def genotype_id(self) -> str:
        """Return 16 hex digits: a hash of the gene ids."""
        return hashlib.sha256(" ".join(self.genes).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Individual:
    """One birth: a genotype with its ancestry."""

    individual_id: str
    genotype: Genotype
    operator: Operator
    parents: tuple[str, ...]  # individual ids
    generation: int
    birth: int
    island: int = 0


@dataclass(frozen=True)
class Result:
    """What the population needs of one evaluation. `score` is in the target's unit; None unless `ok`."""

    genotype: Genotype
    rung: str
    seed: int
    status: Status
    score: float | None
    split: str = "val"
    replicate: int = 0

    def __post_init__(self) -> None:
        if (self.score is None) == (self.status is Status.OK):
            raise ValueError(f"a score exists if and only if status is ok, got {self.status} with {self.score}")


@dataclass(frozen=True)
class Step:
    """One step of a climb: a rung, the seeds to run on it, and the worst mean score that may go on (None: any)."""

    rung: str
    seeds: tuple[int, ...]
    worst: float | None = None


@dataclass(frozen=True)
class Mating:
    """A plan for one birth, made by ask(): who mates, how, and the climb of the child. Breeding carries it out.

    `genes` are the parent's genes for `knob` (one new gene is added), and the child's own genes for
    `recombine` and `drop`. `key` seeds whatever breeding draws; `climb` is frozen here, so that nothing told
    later can change what birth `birth` does.
    """

    birth: int
    generation: int
    operator: Operator
    parents: tuple[str, ...]
    genes: tuple[str, ...]
    key: int
    climb: tuple[Step, ...]


@dataclass(frozen=True)
class Brood:
    """What breeding made of a mating: the child, and every gene it carries (new ones included)."""

    child: Individual
    genes: Mapping[str, Gene]
