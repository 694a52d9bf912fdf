"""Belief: what a sequence of told births says - credit, the state of every gene, what to keep apart, who is best.

A pure function of what has been told: nothing here remembers an earlier belief.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import combinations

from population.contrasts import NoiseFloor, noise_floor
from population.credit import Credit, Design, Effect, Observation, Scales, estimate, fit
from population.dealing import Relations, assemble
from population.individuals import Genotype, Individual, Result

HOPELESS_DEALS = 3  # a gene whose first this many deals all failed is dropped
APART_AFTER = 2  # a pair that failed together this often, and never ran together, is kept apart


class State(StrEnum):
    """Where a gene stands."""

    UNDER_TEST = "under test"
    CORE = "core"
    RETIRED = "retired"
    WRECKED = "wrecked"  # it crashed or ruined the run in which it first appeared, or whatever carried it


@dataclass(frozen=True)
class GenePosterior:
    """What is believed of one gene's gain (positive is better, the score's unit), and from how many evaluations."""

    mean: float
    sd: float
    p_positive: float
    n: int
    state: State


@dataclass(frozen=True)
class Rules:
    """When a gene changes state: probabilities, and margins in sds of the noise floor."""

    join: float = 0.95  # P(gain > 0) that makes core
    retire: float = 0.02  # P(gain > useful) below which a gene retires though there is room
    useful: float = 0.5
    wreck: float = 10.0
    parsimony: float = 0.5


@dataclass(frozen=True)
class Told:
    """A birth with its results, the genes it was the first to carry, and whether it ran to the end of its climb.

    It did not run if it crashed, was ruined, or was stopped at a threshold; the baseline always did.
    """

    individual: Individual
    fresh: tuple[str, ...]
    results: tuple[Result, ...]
    ran: bool


class Baseline:
    """What the baseline phase measured: the base on every rung, and null genes, which count as the base."""

    def __init__(self, results: Iterable[Result], sign: float) -> None:
        self.sign = sign
        self.results = tuple(r for r in results if r.score is not None and r.split == "val")
        self.nulls = {gene for r in self.results for gene in r.genotype.genes}
        self._gains: dict[str, dict[tuple[str, ...], dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
        for r in self.results:
            self._gains[r.rung][r.genotype.genes][r.seed] = sign * (r.score or 0.0)
        self._floors = {rung: self._floor(rung) for rung in list(self._gains)}

    def _floor(self, rung: str) -> NoiseFloor:
        arms = {genes: self._scores(gains) for genes, gains in self._gains[rung].items()}
        return noise_floor(arms.get((), {}), [scores for genes, scores in arms.items() if genes])

    def _scores(self, gains: Mapping[int, float]) -> dict[int, float]:
        return {seed: self.sign * gain for seed, gain in gains.items()}

    def floor(self, rung: str) -> NoiseFloor:
        """Return the noise floor of a rung, in the score's own orientation."""
        return self._floors.get(rung, NoiseFloor(None, None))

    def scores(self, rung: str) -> Mapping[int, float]:
        """Return seed -> gain-oriented score of the base on a rung."""
        return self._gains[rung][()]

    def at(self, rung: str, seed: int) -> float | None:
        """Return the base's gain-oriented score at this seed; its mean if this seed was not run; None without any."""
        scores = self.scores(rung)
        return scores.get(seed, sum(scores.values()) / len(scores) if scores else None)

    def ruined(self, result: Result, wreck: float) -> bool:
        """Return whether a result failed, or is worse than the base by more than `wreck` noise floors."""
        if result.score is None:
            return True
        base, sd = self.at(result.rung, result.seed), self.floor(result.rung).sd
        return base is not None and sd > 0 and self.sign * result.score < base - wreck * sd


@dataclass(frozen=True)
class Evidence:
    """Everything told up to some birth, on the rung that counts."""

    baseline: Baseline
    told: tuple[Told, ...]
    rung: str
    rules: Rules

    @cached_property
    def ran(self) -> tuple[Told, ...]:
        """Return the births that ran."""
        return tuple(t for t in self.told if t.ran)

    @cached_property
    def broke(self) -> tuple[Told, ...]:
        """Return the births that did not run."""
        return tuple(t for t in self.told if not t.ran)

    @cached_property
    def design(self) -> Design:
        """Return the observations behind the credit: one for each genotype and seed, null genes stripped."""
        nulls, sign = self.baseline.nulls, self.baseline.sign
        gains: dict[tuple[tuple[str, ...], int], list[float]] = defaultdict(list)
        for r in (*self.baseline.results, *(r for t in self.ran for r in t.results)):
            if r.rung == self.rung and r.score is not None:
                gains[r.genotype.genes, r.seed].append(sign * r.score)
        return Design.of(
            Observation(genes if nulls.isdisjoint(genes) else (), seed, sum(y) / len(y))
            for (genes, seed), y in gains.items()
        )

    def rescale(self, start: Scales | None) -> Scales:
        """Return the scales of the credit model, searched from an earlier estimate."""
        null = self.baseline.floor(self.rung).null
        return estimate(self.design, start or self._guess(), null and null.sd / 2**0.5)

    def _guess(self) -> Scales:
        """Return scales to start from: the noise floor's, never zero, though a target may be without noise."""
        level = max((abs(y) for y in self.baseline.scores(self.rung).values()), default=1.0)
        return Scales.guess(max(self.baseline.floor(self.rung).sd / 2**0.5, 1e-9 * level, 1e-12))


class Belief:
    """What to think of genes and genotypes, given evidence and scales."""

    def __init__(self, evidence: Evidence, scales: Scales, relations: Relations, room: int) -> None:
        self._evidence = evidence
        self._room = room
        self._relations = relations
        self._rules = evidence.rules
        self.credit: Credit = fit(evidence.design, scales)
        null = evidence.baseline.floor(evidence.rung).null
        self.floor = null.sd if null else scales.noise * 2**0.5
        self.apart = _apart(evidence)
        self.states: Mapping[str, State] = self._classify()

    @cached_property
    def core(self) -> tuple[str, ...]:
        """Return the genes believed good, best first."""
        return tuple(sorted(self._in_state(State.CORE), key=lambda gene: (-self.credit.effect(gene).mean, gene)))

    @cached_property
    def tests(self) -> tuple[str, ...]:
        """Return the genes under test."""
        return tuple(sorted(self._in_state(State.UNDER_TEST)))

    def posterior(self) -> dict[str, GenePosterior]:
        """Return what is believed of every gene whose first birth has been told."""
        return {gene: self._posterior(self.credit.effect(gene), state) for gene, state in self.states.items()}

    @staticmethod
    def _posterior(effect: Effect, state: State) -> GenePosterior:
        return GenePosterior(effect.mean, effect.sd, effect.p_positive, effect.n, state)

    def members(self) -> list[tuple[Individual, float | None]]:
        """Return every told individual with its denoised gain; None for those that failed."""
        return [
            (t.individual, self.credit.gain(t.individual.genotype.genes) if t.ran else None)
            for t in self._evidence.told
        ]

    def challenger(self) -> Genotype:
        """Return the genotype of highest expected gain, less the genes together within the parsimony margin."""
        means = {gene: self.credit.effect(gene).mean for gene in (*self.core, *self.tests)}
        order = sorted((gene for gene in means if means[gene] > 0), key=lambda gene: (-means[gene], gene))
        carried = assemble(order, self._relations, self.apart)
        allowance = self._rules.parsimony * self.floor
        for gene in reversed(list(carried)):
            rest = [other for other in carried if other != gene]
            if 0 <= means.get(gene, -1.0) <= allowance and self._relations.closed(rest):
                carried, allowance = rest, allowance - means[gene]
        return Genotype.of(carried)

    def replicated(self, seeds: Sequence[int]) -> list[Genotype]:
        """Return the genotypes that ran on every one of these seeds, in birth order."""
        return [t.individual.genotype for t in self._evidence.ran if set(seeds) <= {r.seed for r in t.results}]

    def champion(self, seeds: Sequence[int]) -> Genotype:
        """Return the replicated genotype of highest shrunken gain; the baseline if none is above zero."""
        return max((Genotype(), *self.replicated(seeds)), key=lambda genotype: self.credit.gain(genotype.genes))

    def _in_state(self, state: State) -> list[str]:
        return [gene for gene, s in self.states.items() if s is state]

    def _classify(self) -> dict[str, State]:
        broken = {gene for t in self._evidence.broke for gene in t.fresh} | _hopeless(self._evidence)
        genes = [gene for t in self._evidence.told for gene in t.fresh]
        sound = [gene for gene in genes if gene not in broken]
        good = [gene for gene in sound if self.credit.effect(gene).p_positive >= self._rules.join]
        core = assemble(sorted(good, key=lambda g: (-self.credit.effect(g).mean, g)), self._relations, self.apart)
        states = dict.fromkeys(genes, State.RETIRED) | dict.fromkeys(broken, State.WRECKED)
        states |= dict.fromkeys(self._promising([g for g in sound if g not in core], core), State.UNDER_TEST)
        return states | dict.fromkeys(core, State.CORE)

    def _promising(self, genes: Sequence[str], core: Sequence[str]) -> list[str]:
        """Return the genes with the best chance of being useful, as many as there is room for."""
        chances = {gene: self._chance(gene, core) for gene in genes}
        hopeful = [gene for gene in genes if chances[gene] >= self._rules.retire]
        return sorted(hopeful, key=lambda gene: (-chances[gene], gene))[: self._room]

    def _chance(self, gene: str, core: Sequence[str]) -> float:
        """Return P(the gene is worth more than it displaces in the core, by a useful part of a typical effect)."""
        rivals = [other for other in core if self._relations.clash(gene, other)]
        advantage = self.credit.difference((gene,), rivals) if rivals else self.credit.effect(gene)
        return advantage.p_above(self._rules.useful * self.credit.scales.effect)


def _hopeless(evidence: Evidence) -> set[str]:
    """Return genes that were fine when they first appeared and have failed in every deal since."""
    failures = Counter(gene for t in evidence.broke if not t.fresh for gene in t.individual.genotype.genes)
    successes = {gene for t in evidence.ran if not t.fresh for gene in t.individual.genotype.genes}
    return {gene for gene, n in failures.items() if n >= HOPELESS_DEALS and gene not in successes}


def _apart(evidence: Evidence) -> frozenset[frozenset[str]]:
    """Return the pairs of genes that failed together and never ran together."""
    failed = [t.individual.genotype.genes for t in evidence.broke if not t.fresh]
    counts = Counter(frozenset(pair) for genes in failed for pair in combinations(genes, 2))
    suspects = {pair for pair, n in counts.items() if n >= APART_AFTER}
    ran = [set(t.individual.genotype.genes) for t in evidence.ran] if suspects else []
    return frozenset(pair for pair in suspects if not any(pair <= genes for genes in ran))
