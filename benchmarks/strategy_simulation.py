"""Simulate the strategy against greedy keep-or-discard on genes whose true effects are known.

An in-memory oracle scores a patch set as the sum of its genes' effects + the seed's block + gene-by-seed slopes + a
residual that belongs to (patch set, seed). Of the genes that breeding proposes 6 % are good, 44 % neutral, 40 %
harmful and 10 % crash; effects are exponential with mean 1, the residual has sd 1. A screen costs a quarter of an
evaluation and only finds crashes and wrecks. Everybody pays for every evaluation, baseline and replicates included.

    python benchmarks/strategy_simulation.py [--repeats 12] [--budgets 200 700]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from population.genes import Category, Edit, Gene, Origin
from population.individuals import Brood, Genotype, Individual, Mating, Operator, Result, Status
from population.strategy import RungInfo, Strategy, StrategySettings

RUNGS = (RungInfo("screen", (0,)), RungInfo("full", (0, 1, 2, 3)))
COST = {"screen": 0.25, "full": 1.0}
STREAM = 5_000_000  # simulated worlds count up from here; they share nothing with the bundled landscape's instances
NULL = "null"


@dataclass
class World:
    """The truth: an endless supply of genes with effects, and scores for patch sets."""

    number: int
    noise: float = 1.0
    slope: float = 0.3
    effects: dict[str, float | None] = field(default_factory=dict)  # None: crashes
    spent: float = 0.0
    slopes: dict[tuple[str, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.draw = random.Random(STREAM + self.number)
        self.effects[NULL] = 0.0

    def gene(self) -> Gene:
        """Return a new gene; its effect is known to the world only."""
        number = len(self.effects)
        name = f"gene{number:04d}"
        self.effects[name] = self._effect()
        edits = (Edit("a.py", 10 * number, 10 * number + 1, name),)
        return Gene(name, name, "", Category.OTHER, Origin.KNOB, edits)

    def _effect(self) -> float | None:
        kind, size = self.draw.random(), self.draw.expovariate(1.0)
        return size if kind < 0.06 else 0.0 if kind < 0.5 else -size if kind < 0.9 else None

    def gain(self, genes: tuple[str, ...]) -> float:
        """Return the true gain of a patch set."""
        return sum(self.effects[gene] or 0.0 for gene in genes)

    def evaluate(self, genes: tuple[str, ...], rung: str, seed: int) -> Result:
        """Score a patch set (lower is better) and charge for it."""
        self.spent += COST[rung]
        if any(self.effects[gene] is None for gene in genes):
            return Result(Genotype(genes), rung, seed, Status.CRASHED, None)
        own = random.Random(f"{self.number} {genes} {rung} {seed}")
        block = random.Random(f"{self.number} {rung} {seed}").gauss(0, 2)
        slopes = sum(self._slope(gene, seed) for gene in genes)
        gain = self.gain(genes) + slopes + block + own.gauss(0, self.noise)
        return Result(Genotype(genes), rung, seed, Status.OK, 100.0 - gain)

    def _slope(self, gene: str, seed: int) -> float:
        if not self.effects[gene]:
            return 0.0
        if (gene, seed) not in self.slopes:
            self.slopes[gene, seed] = random.Random(f"{self.number} {gene} {seed}").gauss(0, self.slope)
        return self.slopes[gene, seed]


def evolve(world: World, budget: float, settings: StrategySettings) -> tuple[float, Strategy]:
    """Run the strategy as the engine does, births told as late as its lag allows; return the champion's true gain."""
    strategy = Strategy(settings, RUNGS, "minimize", world.number)
    strategy.observe(baseline(world, settings))
    genes: dict[str, Gene] = {}
    waiting: deque[tuple[Mating, Genotype]] = deque()
    told = 0
    while world.spent + strategy.largest_climb <= budget:
        if len(waiting) == settings.lag:
            strategy.tell(told, climb(world, *waiting.popleft()))
            told += 1
        mating = strategy.ask()
        child = breed(world, mating, genes)
        strategy.born(Brood(child, {gene: genes[gene] for gene in child.genotype.genes}))
        waiting.append((mating, child.genotype))
    for mating, genotype in waiting:
        strategy.tell(mating.birth, climb(world, mating, genotype))
    return world.gain(strategy.champion().genes), strategy


def baseline(world: World, settings: StrategySettings) -> list[Result]:
    seeds = [(rung.name, seed) for rung in RUNGS for seed in rung.seeds]
    seeds += [("full", seed) for seed in settings.replicate_seeds]
    nulls = [world.evaluate((NULL,), "full", seed) for seed in RUNGS[-1].seeds]
    return [world.evaluate((), rung, seed) for rung, seed in seeds] + nulls


def breed(world: World, mating: Mating, genes: dict[str, Gene]) -> Individual:
    carried = list(mating.genes)
    if mating.operator is Operator.KNOB:
        gene = world.gene()
        genes[gene.gene_id] = gene
        carried.append(gene.gene_id)
    return Individual(
        str(mating.birth), Genotype.of(carried), mating.operator, mating.parents, mating.generation, mating.birth
    )


def climb(world: World, mating: Mating, genotype: Genotype) -> list[Result]:
    results: list[Result] = []
    for step in mating.climb:
        scores = [world.evaluate(genotype.genes, step.rung, seed) for seed in step.seeds]
        results += scores
        mean = statistics.fmean(r.score if r.score is not None else float("inf") for r in scores)
        if mean == float("inf") or (step.worst is not None and mean > step.worst):
            break
    return results


def greedy(world: World, budget: float, repeats: int) -> float:
    """Keep a gene if it scores better than the best so far, on the same seeds; return the true gain."""
    seeds = RUNGS[-1].seeds[:repeats]
    kept: tuple[str, ...] = ()
    best = statistics.fmean(world.evaluate((), "full", seed).score or 0.0 for seed in seeds)
    while world.spent + COST["screen"] + repeats <= budget:
        genes = tuple(sorted((*kept, world.gene().gene_id)))
        if world.evaluate(genes, "screen", 0).score is None:
            continue
        score = statistics.fmean(world.evaluate(genes, "full", seed).score or 0.0 for seed in seeds)
        if score < best:
            kept, best = genes, score
    return world.gain(kept)


def summary(gains: list[float]) -> dict[str, float]:
    return {"mean": round(statistics.fmean(gains), 2), "se": round(statistics.stdev(gains) / len(gains) ** 0.5, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--budgets", type=int, nargs="+", default=[200, 700])
    arguments = parser.parse_args()
    began, found = time.monotonic(), {}
    for budget in arguments.budgets:
        worlds = range(arguments.repeats)
        found[str(budget)] = {
            "strategy": summary([evolve(World(i), budget, StrategySettings())[0] for i in worlds]),
            "greedy, 1 repeat": summary([greedy(World(i), budget, 1) for i in worlds]),
            "greedy, 3 repeats": summary([greedy(World(i), budget, 3) for i in worlds]),
        }
    report = {"repeats": arguments.repeats, "true gain by budget of evaluations": found}
    report["seconds"] = round(time.monotonic() - began)
    path = Path(__file__).parent / "results" / "strategy_simulation.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
