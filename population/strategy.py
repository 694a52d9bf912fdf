"""The strategy: ask() says who mates next, tell() what came of it. Birth k sees results of births up to k - lag only.

Steady state: births are asked, born and told in order, with up to `lag` of them under way. Everything follows from the
seed and the sequence of observe, born and tell calls, so that a run is resumed by repeating them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from population import dealing, selection
from population.belief import Baseline, Belief, Evidence, GenePosterior, Rules, State, Told
from population.contrasts import NoiseFloor
from population.credit import Effect, Scales
from population.genes import Gene
from population.individuals import Brood, Genotype, Individual, Mating, Operator, Result, Step
from population.mistakes import Mistake


class OutOfTurn(Mistake):
    """Raised when ask, born or tell come in an order that would break determinism."""

    def __init__(self, call: str, birth: int, rule: str) -> None:
        super().__init__(f"{call} came for birth {birth}, but {rule}")


class SharedSeeds(Mistake):
    """Raised when replicates would reuse seeds that candidates are chosen by."""

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__(
            f"seeds {list(seeds)} are kept for replicates and confirmation, but a rung uses them: give the rung others"
        )


@dataclass(frozen=True)
class RungInfo:
    """What the strategy needs of a rung: its name and its seeds."""

    name: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class StrategySettings:
    """Settings of a run; they belong to it, not to the machine."""

    offspring: int = 12  # births in a generation
    population: int = 12  # parents and archive
    lag: int = 12
    tournament: int = 3
    replicate_seeds: tuple[int, ...] = (101, 102, 103)
    pool_first: int = 8  # genes under test at first
    pool_last: int = 32
    pool_growth: int = 4  # births until the pool is one gene larger
    knob_share: float = 0.65  # of births, once enough genes are under test
    replicate_every: int = 24  # births between two replications, at least
    drop_every: int = 12  # births between two drops
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True)
class _Deal:
    """The latest deal: which genes were under test, what was dealt, and at which place in the rotation of seeds."""

    tests: tuple[str, ...]
    child: Genotype
    turn: int
    is_first: bool  # of its pair


class Strategy:
    """Ask and tell over a population of patch sets."""

    def __init__(self, settings: StrategySettings, rungs: Sequence[RungInfo], direction: str, seed: int) -> None:
        self.settings = settings
        self._rungs = tuple(rungs)
        self._sign = {"minimize": -1.0, "maximize": 1.0}[direction]
        self._seed = seed
        shared = {s for rung in rungs for s in rung.seeds} & set(settings.replicate_seeds)
        if shared:
            raise SharedSeeds(sorted(shared))
        self._observed: list[Result] = []
        self._baseline = Baseline((), self._sign)
        self._relations = dealing.Relations()
        self._births: list[Individual] = []
        self._fresh: list[tuple[str, ...]] = []  # per birth, the genes it was the first to carry
        self._told: list[Told] = []
        self._latest_deal: _Deal | None = None
        self._latest_replicate = 0
        self._replicates: tuple[Result, ...] = ()  # of the closing challenger
        self._asked: Mating | None = None
        self._beliefs: dict[int, Belief] = {}
        self._scales: dict[int, Scales] = {}

    # ask and tell

    def observe(self, results: Iterable[Result]) -> None:
        """Learn what the baseline phase measured, before birth 0: genotypes other than the base are null genes."""
        if self._births:
            raise OutOfTurn("observe", len(self._births), "the baseline is observed before the first birth")
        self._observed.extend(results)
        self._baseline = Baseline(self._observed, self._sign)
        self._asked = None
        self._beliefs.clear()
        self._scales.clear()

    def ask(self) -> Mating:
        """Return the plan of the next birth. Asking again before it is born returns the same plan."""
        birth = len(self._births)
        if birth - self.settings.lag >= len(self._told):
            rule = f"births up to {birth - self.settings.lag} are told before it is asked (lag {self.settings.lag})"
            raise OutOfTurn("ask", birth, rule)
        if self._asked is None:
            self._asked = self._plan(birth)
        return self._asked

    def inject(self, gene: Gene) -> Mating:
        """Return, in place of ask(), a plan for a gene that somebody gives: added to a parent as a bred one would be.

        What of the parent conflicts with it, or lacks what it requires, is left out.
        """
        birth = len(self._births)
        belief, parent = self._seen(birth), self._parent(birth)
        relations = self._relations.with_gene(gene)
        carried = dealing.assemble((gene.gene_id, *parent.genotype.genes), relations, belief.apart)
        child = Genotype.of([gene.gene_id, *carried])
        climb = (*self._screens(), self._last_step(birth))
        return self._mating(birth, Operator.INJECT, (parent.individual_id,), child, climb)

    def deal_instead(self, birth: int) -> Mating:
        """Return a plan that needs no new gene, for when breeding could not make one."""
        self._check_next("deal_instead", birth)
        belief = self._seen(birth)
        return self._recombine(belief, self._deal(birth, belief))

    def closing(self) -> Genotype | None:
        """Return the challenger that still lacks replicates when all births have been told; None if there is none."""
        birth = len(self._births)
        if len(self._told) < birth:
            raise OutOfTurn("closing", birth, "every birth is told before the run is closed")
        return self._challenger(self._belief(birth))

    def close(self, results: Sequence[Result]) -> None:
        """Learn the replicates of the closing challenger. They are no birth: a run that goes on does not see them."""
        self._replicates = tuple(results)
        self._beliefs.clear()

    def born(self, brood: Brood) -> None:
        """Learn what breeding made of the latest plan."""
        child = brood.child
        self._check_next("born", child.birth)
        missing = [gene for gene in child.genotype.genes if gene not in brood.genes]
        if missing:
            raise OutOfTurn("born", child.birth, f"its brood lacks the genes {missing}")
        self._remember_plan(child)
        fresh = tuple(gene for gene in child.genotype.genes if gene not in self._relations)
        for gene in child.genotype.genes:
            self._relations.add(brood.genes[gene])
        self._births.append(child)
        self._fresh.append(fresh)
        self._asked = None

    def tell(self, birth: int, results: Sequence[Result]) -> None:
        """Learn all results of a birth; births are told in birth order."""
        if birth != len(self._told) or birth >= len(self._births):
            raise OutOfTurn("tell", birth, f"{len(self._births)} are born and birth {len(self._told)} is told next")
        child = self._births[birth]
        if any(result.genotype != child.genotype for result in results):
            raise OutOfTurn("tell", birth, "its results belong to another genotype than its child's")
        self._told.append(Told(child, self._fresh[birth], tuple(results), self._ran(child, results)))

    def _ran(self, child: Individual, results: Sequence[Result]) -> bool:
        ended = any(result.rung == self._last.name for result in results)
        ruined = any(self._baseline.ruined(result, self.settings.rules.wreck) for result in results)
        return not child.genotype.genes or (ended and not ruined)

    # what is known now, from everything told

    @property
    def noise_floor(self) -> NoiseFloor:
        """Return the noise floor of the last rung."""
        return self._baseline.floor(self._last.name)

    @property
    def largest_climb(self) -> int:
        """Return the most evaluations that one birth can cost."""
        return max(len(self._rungs), len(self.settings.replicate_seeds))

    def posterior(self) -> dict[str, GenePosterior]:
        """Return gene -> what is believed of its gain, for every gene whose first birth has been told."""
        return self._belief(len(self._told)).posterior()

    def champion(self) -> Genotype:
        """Return the replicated genotype of highest shrunken gain; the baseline if there is none."""
        return self._belief(len(self._told)).champion(self.settings.replicate_seeds)

    def champion_gain(self) -> Effect:
        """Return the champion's shrunken gain: positive is better, in the score's unit."""
        return self._belief(len(self._told)).credit.predict(self.champion().genes)

    # plans

    def _plan(self, birth: int) -> Mating:
        if birth == 0:
            return self._mating(birth, Operator.BASELINE, (), Genotype(), ())
        belief = self._seen(birth)
        if self._may_replicate(birth, belief) and (challenger := self._challenger(belief)) is not None:
            return self._replication(birth, challenger)
        if birth % self.settings.drop_every == 0 and belief.core:
            return self._drop(birth, belief)
        if self._wants_gene(birth, belief):
            return self._knob(birth)
        return self._recombine(belief, self._deal(birth, belief))

    def _wants_gene(self, birth: int, belief: Belief) -> bool:
        """Return whether it is a new gene's turn: always while few are under test, then in a fixed share of births."""
        s = self.settings
        pending = sum(len(self._fresh[b]) for b in range(max(0, birth - s.lag + 1), birth))
        few = len(belief.tests) < 2 or len(belief.tests) + pending < s.pool_first
        return few or int(birth * s.knob_share) > int((birth - 1) * s.knob_share)

    def _room(self, n: int) -> int:
        return min(self.settings.pool_last, self.settings.pool_first + n // self.settings.pool_growth)

    def _parent(self, birth: int) -> Individual:
        """Return who carries the genes that a new one is added to: the base while nobody better is known."""
        pool = selection.archive(self._candidates(self._seen(birth)), self.settings.population)
        if not pool:
            return self._births[0]
        return selection.tournament(pool, self.settings.tournament, self._key(birth, "parent")).individual

    def _knob(self, birth: int) -> Mating:
        parent = self._parent(birth)
        climb = (*self._screens(), self._last_step(birth))
        return self._mating(birth, Operator.KNOB, (parent.individual_id,), parent.genotype, climb)

    def _drop(self, birth: int, belief: Belief) -> Mating:
        """Take one core gene, each in its turn, out of the core."""
        gone = belief.core[self._key(birth, "drop") % len(belief.core)]
        rest = dealing.assemble((g for g in belief.core if g != gone), self._relations, belief.apart)
        child = Genotype.of(g for g in rest if g != gone)
        parents = self._ancestors(Genotype.of(belief.core))
        return self._mating(birth, Operator.DROP, parents, child, (self._last_step(birth),))

    def _recombine(self, belief: Belief, deal: _Deal) -> Mating:
        climb = (self._last_step(deal.turn),)
        return self._mating(len(self._births), Operator.RECOMBINE, self._ancestors(deal.child), deal.child, climb)

    def _deal(self, birth: int, belief: Belief) -> _Deal:
        """Deal half of the genes under test, or, after such a deal, the other half on the same seed.

        The other half is dealt even if some of it has retired since: half a pair is not balanced.
        """
        before, key = self._latest_deal, self._key(birth, "deal")
        if before is not None and before.is_first:
            tests = [gene for gene in before.tests if belief.states[gene] is not State.WRECKED]
            child = dealing.complement(before.child, tests, belief.core, self._relations, key, belief.apart)
            return _Deal(before.tests, child, before.turn, False)
        turn = 0 if before is None else before.turn + 1
        child = dealing.deal(belief.tests, belief.core, self._relations, key, belief.apart)
        return _Deal(belief.tests, child, turn, True)

    def _replication(self, birth: int, challenger: Genotype) -> Mating:
        climb = (Step(self._last.name, self.settings.replicate_seeds),)
        return self._mating(birth, Operator.RECOMBINE, self._ancestors(challenger), challenger, climb)

    def _may_replicate(self, birth: int, belief: Belief) -> bool:
        s = self.settings
        return bool(belief.core) and birth - self._latest_replicate >= max(s.lag, s.replicate_every)

    def _challenger(self, belief: Belief) -> Genotype | None:
        """Return the genotype to replicate, if one is better than the champion beyond the parsimony margin."""
        s = self.settings
        if not s.replicate_seeds:
            return None
        champion, challenger = belief.champion(s.replicate_seeds), belief.challenger()
        better = belief.credit.difference(challenger.genes, champion.genes).mean
        known = challenger in belief.replicated(s.replicate_seeds)
        return None if known or better <= s.rules.parsimony * belief.floor else challenger

    # pieces of plans

    @property
    def _last(self) -> RungInfo:
        return self._rungs[-1]

    def _mating(
        self, birth: int, operator: Operator, parents: tuple[str, ...], genotype: Genotype, climb: tuple[Step, ...]
    ) -> Mating:
        generation = 0 if birth == 0 else 1 + (birth - 1) // self.settings.offspring
        return Mating(birth, generation, operator, parents, genotype.genes, self._key(birth, "breed"), climb)

    def _last_step(self, turn: int) -> Step:
        return Step(self._last.name, (self._last.seeds[turn % len(self._last.seeds)],))

    def _screens(self) -> tuple[Step, ...]:
        return tuple(Step(rung.name, rung.seeds[:1], self._worst(rung)) for rung in self._rungs[:-1])

    def _worst(self, rung: RungInfo) -> float | None:
        """Return the score below which a screened child is a wreck; None while the noise is unknown."""
        base = self._baseline.at(rung.name, rung.seeds[0])
        noise = self._baseline.floor(rung.name).sd or self.noise_floor.sd
        return None if base is None or noise == 0 else self._sign * (base - self.settings.rules.wreck * noise)

    def _candidates(self, belief: Belief) -> list[selection.Candidate]:
        return selection.candidates(belief.members(), self.settings.rules.parsimony * belief.floor)

    def _ancestors(self, child: Genotype) -> tuple[str, ...]:
        """Return the fewest earlier individuals, found greedily, that together carry the child's genes."""
        missing, found = set(child.genes), list[str]()
        while missing:
            best = max(self._births, key=lambda i: (len(missing & set(i.genotype.genes)), -i.birth))
            found.append(best.individual_id)
            missing -= set(best.genotype.genes)
        return tuple(found) or (self._births[0].individual_id,)

    def _remember_plan(self, child: Individual) -> None:
        """Note what later plans build on: the pair of deals that is open, and when a challenger was last replicated."""
        if child.operator is not Operator.RECOMBINE:
            return
        plan = self.ask()
        if plan.climb[0].seeds == self.settings.replicate_seeds:
            self._latest_replicate = child.birth
        else:
            self._latest_deal = self._deal(child.birth, self._seen(child.birth))

    def _check_next(self, call: str, birth: int) -> None:
        if birth != len(self._births):
            raise OutOfTurn(call, birth, f"birth {len(self._births)} is born next")

    def _key(self, birth: int, purpose: str) -> int:
        digest = hashlib.sha256(f"{self._seed} {birth} {purpose}".encode()).digest()
        return int.from_bytes(digest[:8], "big")

    # beliefs

    def _seen(self, birth: int) -> Belief:
        """Return what birth `birth` may know."""
        return self._belief(max(0, birth - self.settings.lag + 1))

    def _belief(self, n: int) -> Belief:
        """Return the belief from the first n told births, the latest two kept."""
        if n not in self._beliefs:
            evidence = self._evidence(n)
            if n == len(self._told) and self._replicates:
                evidence = replace(evidence, told=(*evidence.told, self._closed()))
            while len(self._beliefs) > 1:
                del self._beliefs[min(self._beliefs)]
            self._beliefs[n] = Belief(evidence, self._scales_at(n), self._relations, self._room(n))
        return self._beliefs[n]

    def _closed(self) -> Told:
        """Return the closing replicates as if they were a birth."""
        genotype = self._replicates[0].genotype
        child = Individual("closing", genotype, Operator.RECOMBINE, (), 0, len(self._births))
        return Told(child, (), self._replicates, self._ran(child, self._replicates))

    def _evidence(self, n: int) -> Evidence:
        return Evidence(self._baseline, tuple(self._told[:n]), self._last.name, self.settings.rules)

    def _scales_at(self, n: int) -> Scales:
        """Return the scales estimated at the last milestone up to n, each searched from the one before."""
        scales: Scales | None = None
        for milestone in _milestones(n):
            if milestone not in self._scales:
                self._scales[milestone] = self._evidence(milestone).rescale(scales)
            scales = self._scales[milestone]
        assert scales is not None, "0 is a milestone"
        return scales


def _milestones(n: int) -> list[int]:
    """Return the numbers of told births, up to n, at which scales are estimated: a quarter more each time."""
    found = [0]
    while (following := max(found[-1] + 8, found[-1] * 5 // 4)) <= n:
        found.append(following)
    return found
