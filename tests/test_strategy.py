"""The strategy: order is enforced, the lag is kept, everything follows from what was told."""

import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace

import pytest

from population.belief import State
from population.genes import Category, Edit, Gene, Origin
from population.individuals import Brood, Genotype, Individual, Mating, Operator, Result, Status
from population.strategy import OutOfTurn, RungInfo, SharedSeeds, Strategy, StrategySettings

RUNGS = (RungInfo("screen", (0,)), RungInfo("full", (0, 1, 2)))
SETTINGS = StrategySettings(lag=4, replicate_every=8)
Score = Callable[[tuple[str, ...], str, int], float | None]


def gene(name: str, at: int | None = None, **more: object) -> Gene:
    start = 10 * int(name[1:]) if at is None else at
    edits = (Edit("a.py", start, start + 1, name),)
    return replace(Gene(name, name, "", Category.OTHER, Origin.KNOB, edits), **more)


def effect(name: str) -> float:
    """Every fifth gene is good, the rest do nothing or harm."""
    return (2.0, 0.0, -1.0, 0.0, -1.0)[int(name[1:]) % 5]


def score(genes: tuple[str, ...], rung: str, seed: int) -> float | None:
    noise = random.Random(f"{genes} {rung} {seed}").gauss(0, 0.3)
    return 10.0 + seed - sum(effect(g) for g in genes) + noise


def result(genotype: Genotype, rung: str, seed: int, scored: float | None) -> Result:
    return Result(genotype, rung, seed, Status.CRASHED if scored is None else Status.OK, scored)


class Run:
    """A strategy with a breeder and an oracle around it; genes are g0, g1, ... in the order they are bred."""

    def __init__(self, oracle: Score = score, settings: StrategySettings = SETTINGS, seed: int = 0) -> None:
        self.oracle = oracle
        self.strategy = Strategy(settings, RUNGS, "minimize", seed)
        self.genes: dict[str, Gene] = {}
        self.matings: list[Mating] = []
        self.children: list[Individual] = []
        self.waiting: deque[Mating] = deque()
        base = Genotype()
        wanted = [("screen", 0), *(("full", seed) for seed in (0, 1, 2, *settings.replicate_seeds))]
        self.strategy.observe([result(base, rung, seed, oracle((), rung, seed)) for rung, seed in wanted])

    def breed(self, mating: Mating) -> Brood:
        names = list(mating.genes)
        if mating.operator is Operator.KNOB:
            names.append(f"g{len(self.genes)}")
            self.genes[names[-1]] = gene(names[-1])
        child = Individual(
            f"i{mating.birth}", Genotype.of(names), mating.operator, mating.parents, mating.generation, mating.birth
        )
        return Brood(child, {name: self.genes[name] for name in names})

    def birth(self) -> Mating:
        mating = self.strategy.ask()
        brood = self.breed(mating)
        self.strategy.born(brood)
        self.matings.append(mating)
        self.children.append(brood.child)
        self.waiting.append(mating)
        return mating

    def results(self, mating: Mating) -> list[Result]:
        genotype, found = self.children[mating.birth].genotype, list[Result]()
        for step in mating.climb:
            found += [result(genotype, step.rung, s, self.oracle(genotype.genes, step.rung, s)) for s in step.seeds]
            if any(r.score is None for r in found):
                break
        return found

    def tell(self) -> None:
        mating = self.waiting.popleft()
        self.strategy.tell(mating.birth, self.results(mating))

    def go(self, births: int) -> "Run":
        while len(self.matings) < births:
            if len(self.waiting) == self.strategy.settings.lag:
                self.tell()
            self.birth()
        return self

    def finish(self) -> "Run":
        while self.waiting:
            self.tell()
        return self


def test_birth_zero_is_the_baseline_and_costs_nothing():
    mating = Run().strategy.ask()
    assert (mating.operator, mating.genes, mating.parents, mating.climb) == (Operator.BASELINE, (), (), ())


def test_asking_again_returns_the_same_mating():
    run = Run().go(9)
    run.tell()
    assert run.strategy.ask() == run.strategy.ask()


def test_asking_further_ahead_than_the_lag_is_refused():
    run = Run().go(4)
    with pytest.raises(OutOfTurn, match=r"births up to 0 are told"):
        run.strategy.ask()


@pytest.mark.parametrize("birth", [0, 2, 3, 99])
def test_telling_out_of_birth_order_is_refused(birth: int):
    run = Run().go(3)
    run.tell()
    with pytest.raises(OutOfTurn):
        run.strategy.tell(birth, [])


def test_telling_the_results_of_another_genotype_is_refused():
    run = Run().go(3)
    run.tell()
    with pytest.raises(OutOfTurn, match="another genotype"):
        run.strategy.tell(1, [result(Genotype(("x",)), "full", 0, 1.0)])


def test_a_birth_out_of_order_is_refused():
    run = Run().go(3)
    with pytest.raises(OutOfTurn):
        run.strategy.born(run.breed(replace(run.strategy.ask(), birth=7)))


def test_the_baseline_is_observed_before_the_first_birth_or_not_at_all():
    run = Run().go(1)
    with pytest.raises(OutOfTurn):
        run.strategy.observe([])


def test_replicates_need_seeds_of_their_own():
    with pytest.raises(SharedSeeds, match=r"\[2\]"):
        Strategy(replace(SETTINGS, replicate_seeds=(2, 50)), RUNGS, "minimize", 0)


def test_a_result_told_later_than_the_lag_allows_never_changes_a_birth():
    changed = 20

    def other(genes: tuple[str, ...], rung: str, seed: int) -> float | None:
        return None if genes == surprised else score(genes, rung, seed)

    first = Run().go(60)
    surprised = first.children[changed].genotype.genes
    second = Run(other).go(60)
    seen = changed + SETTINGS.lag
    assert second.matings[:seen] == first.matings[:seen]
    assert second.matings[seen:] != first.matings[seen:]


def test_telling_early_or_as_late_as_allowed_gives_the_same_births():
    late, early = Run().go(50), Run()
    while len(early.matings) < 50:
        early.birth()
        early.finish()
    assert early.matings == late.matings


def test_two_strategies_told_the_same_are_the_same_and_another_seed_is_another_run():
    first, second = Run().go(60).finish(), Run().go(60).finish()
    assert first.matings == second.matings
    assert first.strategy.posterior() == second.strategy.posterior()
    assert Run(seed=1).go(60).matings != first.matings


def test_looking_at_the_strategy_changes_nothing():
    watched = Run()
    while len(watched.matings) < 50:
        watched.go(len(watched.matings) + 1)
        watched.strategy.posterior()
        watched.strategy.champion()
    assert watched.matings == Run().go(50).matings


def test_scores_of_the_opposite_direction_give_the_same_births():
    down, up = Run().go(50), Run(lambda *key: -(score(*key) or 0.0))
    up.strategy = Strategy(SETTINGS, RUNGS, "maximize", 0)
    wanted = [("screen", 0), *(("full", seed) for seed in (0, 1, 2, *SETTINGS.replicate_seeds))]
    up.strategy.observe([result(Genotype(), rung, seed, up.oracle((), rung, seed)) for rung, seed in wanted])
    up.go(50)
    assert [(m.operator, m.parents, m.genes) for m in up.matings] == [
        (m.operator, m.parents, m.genes) for m in down.matings
    ]
    worst = [(a.climb[0].worst, b.climb[0].worst) for a, b in zip(up.matings, down.matings, strict=True) if a.climb]
    assert all(a is None or a == -(b or 0.0) for a, b in worst)


def test_good_genes_are_found_and_bad_ones_retired():
    run = Run().go(140).finish()
    posterior = run.strategy.posterior()
    core = {g for g, p in posterior.items() if p.state is State.CORE}
    settled = [g for g in posterior if int(g[1:]) < 20]
    assert {g for g in settled if effect(g) > 0} <= core
    assert all(posterior[g].state is State.RETIRED for g in settled if effect(g) < 0)
    assert sum(effect(g) for g in run.strategy.champion().genes) > 4


def test_the_champion_was_replicated_on_seeds_that_did_not_choose_it():
    run = Run().go(140).finish()
    champion = run.strategy.champion()
    climbs = [m.climb for m, c in zip(run.matings, run.children, strict=True) if c.genotype == champion]
    assert champion.genes
    assert any(step.seeds == SETTINGS.replicate_seeds for climb in climbs for step in climb)


def test_without_good_genes_the_champion_is_the_baseline():
    def harm(genes: tuple[str, ...], rung: str, seed: int) -> float | None:
        return 10.0 + len(genes) + random.Random(f"{genes} {rung} {seed}").gauss(0, 0.3)

    run = Run(harm).go(60).finish()
    assert run.strategy.champion() == Genotype()
    assert run.strategy.champion_gain().mean == 0.0


def test_what_crashes_when_it_first_appears_is_failed_and_never_carried_again():
    def crashing(genes: tuple[str, ...], rung: str, seed: int) -> float | None:
        return None if any(int(g[1:]) % 3 == 0 for g in genes) else score(genes, rung, seed)

    run = Run(crashing).go(80).finish()
    posterior = run.strategy.posterior()
    assert {g for g, p in posterior.items() if p.state is State.WRECKED} == {
        g for g in posterior if int(g[1:]) % 3 == 0
    }
    assert all(int(g[1:]) % 3 for m in run.matings for g in m.genes)


def test_failures_never_become_parents():
    def crashing(genes: tuple[str, ...], rung: str, seed: int) -> float | None:
        return None if any(int(g[1:]) % 3 == 0 for g in genes) else score(genes, rung, seed)

    run = Run(crashing).go(80).finish()
    failed = {c.individual_id for c in run.children if any(int(g[1:]) % 3 == 0 for g in c.genotype.genes)}
    assert failed
    assert failed.isdisjoint(parent for m in run.matings for parent in m.parents)


def test_everything_crashing_leaves_the_baseline_as_only_parent():
    run = Run(lambda genes, rung, seed: None if genes else 10.0 + seed).go(40).finish()
    assert {parent for m in run.matings for parent in m.parents} == {"i0"}


def test_a_pair_that_crashes_only_together_is_kept_apart_in_the_end():
    def pair(genes: tuple[str, ...], rung: str, seed: int) -> float | None:
        return None if {"g0", "g5"} <= set(genes) else score(genes, rung, seed)

    run = Run(pair).go(120).finish()
    together = [m.birth for m in run.matings if {"g0", "g5"} <= set(m.genes)]
    assert len(together) < 6
    assert sum(effect(g) for g in run.strategy.champion().genes) > 2


def test_a_wreck_at_the_screen_goes_no_further_than_its_frozen_threshold():
    climb = next(m.climb for m in Run().go(4).matings if m.operator is Operator.KNOB)
    assert [step.rung for step in climb] == ["screen", "full"]
    assert climb[0].worst is not None
    assert climb[0].worst > 10 + 5
    assert climb[1].worst is None


def test_seeds_of_the_last_rung_take_turns():
    run = Run().go(100)
    last = Counter(m.climb[-1].seeds for m in run.matings if m.climb and len(m.climb[-1].seeds) == 1)
    assert set(last) == {(0,), (1,), (2,)}
    assert max(last.values()) < 2 * min(last.values())


def test_consecutive_deals_are_complements_on_one_seed():
    run = Run(lambda genes, rung, seed: 10.0 + seed).go(60)  # no gene is ever settled, so the pool only grows
    deals = [m for m in run.matings if m.operator is Operator.RECOMBINE and len(m.climb[0].seeds) == 1]
    assert len(deals) > 10
    for first, second in zip(deals[::2], deals[1::2], strict=False):
        assert first.climb == second.climb
        assert not set(first.genes) & set(second.genes)
        assert abs(len(first.genes) - len(second.genes)) <= 1


def test_a_breeder_without_ideas_gets_a_deal_instead_and_the_run_goes_on():
    run = Run().go(40)
    run.tell()
    birth = run.strategy.ask().birth
    mating = run.strategy.deal_instead(birth)
    assert mating.operator is Operator.RECOMBINE
    assert set(mating.genes) <= set(run.genes)
    brood = run.breed(mating)
    run.strategy.born(brood)
    assert brood.child.birth == birth
    run.tell()
    assert run.strategy.ask().birth == birth + 1


def test_a_deal_before_anything_is_known_is_the_baseline_again():
    run = Run().go(1)
    mating = run.strategy.deal_instead(1)
    assert (mating.genes, mating.parents) == ((), ("i0",))


def test_without_observations_a_run_still_goes_on():
    run = Run()
    run.strategy = Strategy(SETTINGS, RUNGS[1:], "minimize", 0)
    assert run.go(40).finish().strategy.noise_floor.baseline is None


def test_a_target_without_noise_is_no_division_by_zero():
    run = Run(lambda genes, rung, seed: 10.0 - sum(effect(g) for g in genes)).go(120).finish()
    assert sum(effect(g) for g in run.strategy.champion().genes) > 4
    assert not any(effect(g) < 0 for g in run.strategy.champion().genes)


def test_null_genes_count_as_the_base_and_are_never_dealt():
    run = Run()
    null = [result(Genotype(("null",)), "full", seed, 10.0 + seed + 0.1 * seed) for seed in (0, 1, 2)]
    run.strategy.observe(null)
    assert run.strategy.noise_floor.null is not None
    run.go(40).finish()
    assert "null" not in run.strategy.posterior()
    assert not any("null" in m.genes for m in run.matings)
