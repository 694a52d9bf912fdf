"""The loop: score the base, breed and score births in steady state, confirm the champion on fresh seeds.

    baseline -> [ ask -> breed -> climb -> tell ]* -> confirm

Determinism is by construction, not by locking: birth k is asked only when every birth up to k - lag has been told, it
is shown nothing later, and its climb is frozen in its mating. So the lineage does not depend on the number of workers
or on which evaluation ends first, and resuming is replaying: the same births are asked again, and what is recorded is
served from the record instead of being run. Genes of people come when they come: which birth took one is kept in the
inbox, and replayed too. Their births are added to those of the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from evolve.breeding import Breeder
from evolve.dispatch import Dispatch
from evolve.errors import OnlyFailures, TooFewEvaluations
from evolve.inbox import Inbox
from evolve.lineage import Lineage
from evolve.publish import Publisher
from evolve.records import Posterior
from fitness.evaluation import Evaluation
from fitness.ladder import next_step
from fitness.target import Target
from population.belief import GenePosterior
from population.contrasts import Contrast, NoiseFloor, Spread, detectable, paired
from population.genes import Gene
from population.individuals import Genotype, Individual, Mating, Step
from population.strategy import Strategy

CONFIRM_SEED = 10_000  # confirmation counts up from here; far from every rung's and every replicate's seeds
LOCKBOX = "lockbox"  # the split that only confirmation sees
TICK_S = 0.5
EVALUATIONS_PER_BIRTH = 1.4  # as runs on both bundled targets came out


@dataclass(frozen=True)
class Limits:
    """When a run ends. `births` counts the base as birth 0, `evaluations` everything that is scored."""

    births: int
    evaluations: int | None = None
    hours: float | None = None
    confirm_seeds: int = 4


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for whoever watches."""

    phase: str  # "baseline", "births", "replicate" or "confirm"
    births: int
    of_births: int
    evaluations: int
    failures: int
    floor: Spread | None  # of the baseline over seeds, last rung
    champion_genes: int
    champion_gain: float  # shrunken, positive is better


@dataclass(frozen=True)
class Forecast:
    """What a run will take: evaluations in all, hours from here, and the smallest effect its confirmation can detect.

    `detectable` is in the metric's unit, with 80 % power, if the champion is as noisy as a null gene; None: one seed.
    """

    evaluations: int
    hours: float
    detectable: float | None


@dataclass(frozen=True)
class Confirmation:
    """The champion against the base on seeds and windows that the search never saw.

    `contrast` is champion minus base in the metric's unit; None if the champion is the base or too few runs succeeded.
    """

    champion: Genotype
    contrast: Contrast | None
    failures: int  # of the champion's runs
    lockbox_uses: int  # of the whole run, earlier confirmations included


@dataclass
class _Climber:
    """A birth on its way up the rungs."""

    mating: Mating
    child: Individual
    step: Step | None = None
    wanted: tuple[str, ...] = ()
    ended: list[Evaluation] = field(default_factory=list[Evaluation])


class Engine:
    """Runs one evolution to its end, or to the moment somebody asks it to stop."""

    def __init__(
        self,
        target: Target,
        strategy: Strategy,
        breeder: Breeder,
        dispatch: Dispatch,
        lineage: Lineage,
        nulls: Sequence[Gene],
        limits: Limits,
        watch: Callable[[Progress], None],
        inbox: Inbox,
    ) -> None:
        self._target = target
        self._strategy = strategy
        self._breeder = breeder
        self._dispatch = dispatch
        self._lineage = lineage
        self._publisher = Publisher(lineage)
        self._nulls = nulls
        self._limits = limits
        self._watch = watch
        self._inbox = inbox
        self._began = time.monotonic()
        self._stopping = False
        self._climbers: dict[int, _Climber] = {}  # asked and not yet told
        self._reserved: list[int] = []  # per birth, the most evaluations that its climb can cost
        self._spent: list[int] = []  # per told birth, what it did cost
        self._best_at = (0, 0, 0.0)  # births told, genes of the champion, its gain
        # evaluations outside births: confirmation and the last replicates, then baseline and null genes
        self._overhead = 2 * limits.confirm_seeds + len(strategy.settings.replicate_seeds)

    def stop(self) -> None:
        """Ask the run to end as soon as it may; called from a signal handler."""
        self._stopping = True

    @property
    def stopping(self) -> bool:
        """Return whether somebody asked the run to end."""
        return self._stopping

    @property
    def waiting(self) -> int:
        """Return how many genes of people wait to be born."""
        return self._inbox.waiting

    @property
    def spent(self) -> Literal["evaluations", "hours"] | None:
        """Return the budget that allows no further birth, if there is one."""
        if not self._in_time():
            return "hours"
        return None if self._affordable(len(self._reserved)) else "evaluations"

    @property
    def finished(self) -> list[Evaluation]:
        """Return every evaluation of the run that has ended."""
        return self._dispatch.finished

    @property
    def training_share(self) -> float:
        """Return training seconds / (slots x wall seconds) of what this process has run."""
        trained = sum(e.train_seconds or 0.0 for e in self._dispatch.paid)
        return trained / (self._dispatch.slots * (time.monotonic() - self._began))

    @property
    def seconds(self) -> float:
        """Return how long this process has worked on the run."""
        return time.monotonic() - self._began

    @property
    def noise_floor(self) -> NoiseFloor:
        """Return the noise floor of the last rung."""
        return self._strategy.noise_floor

    def posterior(self) -> Mapping[str, GenePosterior]:
        """Return what is believed of every gene that has been told."""
        return self._strategy.posterior()

    def publish(self) -> None:
        """Publish the lineage now."""
        self._publisher.publish(self._posteriors, self._strategy.champion)

    def run(self) -> Confirmation | None:
        """Run to the end; None if somebody stopped it before."""
        self.score_base()
        return self.evolve()

    def evolve(self) -> Confirmation | None:
        """Run to the end once the base is scored; None if somebody stopped it before."""
        self._bear_and_tell()
        return None if self._stopping else self._confirm()

    def forecast(self) -> Forecast:
        """Return what the rest of the run will take, by what the base took."""
        paid = [e.wall_seconds for e in self.finished if e.rung == self._target.rungs[-1].name]
        births = self._limits.births - 1 + self._inbox.expected
        evaluations = round(EVALUATIONS_PER_BIRTH * births) + (self._overhead if births else 0)
        evaluations = min(evaluations, self._limits.evaluations or evaluations)
        seconds = (evaluations - self._dispatch.recorded) * sum(paid) / max(1, len(paid)) / self._dispatch.slots
        seeds, sd = self._limits.confirm_seeds, self.noise_floor.sd
        return Forecast(evaluations, max(0.0, seconds) / 3600, detectable(sd, seeds) if seeds > 1 else None)

    def score_base(self) -> None:
        """Score the base on every rung and seed, and the null genes on the last rung; tell the strategy."""
        self._breeder.know(self._nulls)
        self._lineage.record_genes(self._nulls, null=True)
        plan = self._base_plan()
        self._overhead += len(plan)
        if self._limits.evaluations is not None and self._overhead > self._limits.evaluations:
            raise TooFewEvaluations(self._limits.evaluations, self._overhead)
        first = [(Genotype(), rung.name, rung.seeds[0]) for rung in self._target.rungs]
        for part in (first, plan):  # a base that fails everywhere should not be paid for everywhere
            names = [self._dispatch.want(genotype, rung, seed, use_cache=False) for genotype, rung, seed in part]
            ended = self._await(names, "baseline")
            if ended is None:
                return
            if part is plan or all(e.score is None for e in ended):
                self._check_base(ended)
        self._strategy.observe([e.result for e in ended])

    def _base_plan(self) -> list[tuple[Genotype, str, int]]:
        """Return what the noise floor takes: the base everywhere, null genes on the last rung's own seeds."""
        last = self._target.rungs[-1]
        plan = [(Genotype(), rung.name, seed) for rung in self._target.rungs for seed in rung.seeds]
        plan += [(Genotype(), last.name, seed) for seed in self._strategy.settings.replicate_seeds]
        return plan + [(Genotype.of([gene.gene_id]), last.name, seed) for gene in self._nulls for seed in last.seeds]

    def _check_base(self, ended: Iterable[Evaluation]) -> None:
        """Raise OnlyFailures if there is a rung on which the base was never scored."""
        for rung in self._target.rungs:
            tries = [e for e in ended if e.rung == rung.name and not e.genotype.genes]
            if all(e.score is None for e in tries):
                raise OnlyFailures(self._target.name, rung.name, tries[-1].status.value, tries[-1].log_tail)

    def _bear_and_tell(self) -> None:
        """Ask, breed, climb and tell until the births or a budget are used up; then replicate a last challenger."""
        while not self._stopping:
            while self._dispatch.hungry and self._may_ask():
                self._start(self._plan())
            if not self._climbers:
                break
            self._collect("births")
            self._advance()
        if not self._stopping and (challenger := self._strategy.closing()):
            last, seeds = self._target.rungs[-1].name, self._strategy.settings.replicate_seeds
            ended = self._await([self._dispatch.want(challenger, last, seed) for seed in seeds], "replicate")
            self._strategy.close([e.result for e in ended or ()])

    def _confirm(self) -> Confirmation | None:
        """Score champion and base on fresh seeds and the lockbox split; None if stopped before it was done."""
        champion = self._strategy.champion()
        if not champion.genes:
            return Confirmation(champion, None, 0, 0)
        last = self._target.rungs[-1].name
        seeds = range(CONFIRM_SEED, CONFIRM_SEED + self._limits.confirm_seeds)
        arms = (champion, Genotype())
        names = [self._dispatch.want(arm, last, seed, LOCKBOX, use_cache=False) for seed in seeds for arm in arms]
        ended = self._await(names, "confirm")
        if ended is None:
            return None
        ours, theirs = ({e.seed: e.score for e in ended if e.genotype == arm and e.score is not None} for arm in arms)
        both = len(ours.keys() & theirs.keys())
        failures = sum(e.genotype == champion and e.score is None for e in ended)
        return Confirmation(
            champion, paired(ours, theirs) if both > 1 else None, failures, self._dispatch.uses(LOCKBOX)
        )

    # births

    def _may_ask(self) -> bool:
        birth = len(self._reserved)
        if self._stopping or birth - self._strategy.settings.lag >= len(self._spent):
            return False
        bred = birth - self._inbox.births_before(birth)
        wanted = bred < self._limits.births or self._inbox.has_for(birth)
        return wanted and self._in_time() and self._affordable(birth)

    def _plan(self) -> Mating:
        """Return the plan of the next birth: of a gene that waits, if there is one."""
        birth = len(self._reserved)
        gene = self._inbox.take(birth) if birth else None  # birth 0 is the base
        if gene is None:
            return self._strategy.ask()
        self._breeder.know([gene])
        return self._strategy.inject(gene)

    def _in_time(self) -> bool:
        hours = self._limits.hours
        return hours is None or time.monotonic() - self._began < 3600 * hours

    def _affordable(self, birth: int) -> bool:
        """Judge the evaluation budget by what birth `birth` may know, and so alike at any number of workers.

        Births up to birth - lag count as what they cost, later ones as the most they can cost. When that is too much,
        the answer is no until every birth has been told, and then it is by what all of them cost.
        """
        if self._limits.evaluations is None:
            return True
        seen = max(0, birth - self._strategy.settings.lag + 1) if self._climbers else birth
        committed = sum(self._spent[:seen]) + sum(self._reserved[seen:])
        return self._overhead + committed + self._strategy.largest_climb <= self._limits.evaluations

    def _start(self, mating: Mating) -> None:
        """Bear the child of a mating and send it up its climb."""
        brood = self._breeder.breed(mating)
        if brood is None:
            mating = self._strategy.deal_instead(mating.birth)
            brood = self._breeder.breed(mating)
        assert brood is not None, "genes that are dealt need no breeding"
        self._lineage.record_brood(brood, self._dispatch.tree_id(brood.child.genotype))
        self._lineage.record_conflicts(self._breeder.conflicts(brood))
        self._strategy.born(brood)
        self._reserved.append(sum(len(step.seeds) for step in mating.climb))
        self._climbers[mating.birth] = climber = _Climber(mating, brood.child)
        self._climb(climber)

    def _climb(self, climber: _Climber) -> bool:
        """Send a climber to its next step; return False if it has none left."""
        climber.step = next_step(climber.mating.climb, [e.result for e in climber.ended], self._target.metric.direction)
        if climber.step is None:
            return False
        genotype = climber.child.genotype
        climber.wanted = tuple(self._dispatch.want(genotype, climber.step.rung, s) for s in climber.step.seeds)
        return True

    def _advance(self) -> None:
        """Move every climber whose step has ended, and tell finished births in birth order."""
        for climber in self._climbers.values():
            while climber.step is not None and (ended := self._dispatch.results(climber.wanted)) is not None:
                climber.ended.extend(ended)
                self._climb(climber)
        while (first := self._climbers.get(len(self._spent))) is not None and first.step is None:
            self._strategy.tell(first.mating.birth, tuple(e.result for e in first.ended))
            self._spent.append(len(first.ended))
            del self._climbers[first.mating.birth]

    # waiting, publishing, watching

    def _await(self, names: list[str], phase: str) -> tuple[Evaluation, ...] | None:
        while (ended := self._dispatch.results(names)) is None and not self._stopping:
            self._collect(phase)
        return ended

    def _collect(self, phase: str) -> None:
        """Wait for results, record them, publish the lineage when it is time, and tell whoever watches."""
        if not self._dispatch.idle:
            self._dispatch.wait(TICK_S)
        self._publisher.maybe(self._posteriors, self._strategy.champion)
        self._watch(self._progress(phase))

    def _progress(self, phase: str) -> Progress:
        finished = self._dispatch.finished
        failures = sum(e.score is None for e in finished)
        floor, best = self._strategy.noise_floor.baseline, self._best()
        born = max(0, len(self._spent) - 1)  # without the base, which is birth 0
        births = self._limits.births - 1 + self._inbox.births_before(len(self._reserved))
        return Progress(phase, born, births, len(finished), failures, floor, *best)

    def _best(self) -> tuple[int, float]:
        """Return size and shrunken gain of the champion, worked out once for each told birth."""
        if self._best_at[0] != len(self._spent):
            champion, gain = self._strategy.champion(), self._strategy.champion_gain()
            self._best_at = (len(self._spent), len(champion.genes), gain.mean)
        return self._best_at[1:]

    def _posteriors(self) -> Iterator[Posterior]:
        rung = self._target.rungs[-1].name
        for gene, held in self._strategy.posterior().items():
            yield Posterior(rung, gene, held.mean, held.sd, held.p_positive, held.n, held.state.value)
