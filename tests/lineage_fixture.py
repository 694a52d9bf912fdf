"""A small recorded run: a base, four genes (one null), four individuals, evaluations whose statistics are known."""

from __future__ import annotations

from pathlib import Path

from evolve.lineage import Lineage
from evolve.records import Effect, LlmCall, Posterior, Run
from fitness.evaluation import Evaluation, Point
from population.genes import BaseTree, Category, Edit, Gene, Origin
from population.individuals import Brood, Genotype, Individual, Operator, Status

BASE = BaseTree({"knobs.py": "rate = 0.1\r\nwidth = 4\r\n", "note é.py": "# ünïcode\nx = 1"})
RUN = Run("r1", "landscape", "loss", "minimize", ("screen", "full"), {"seed": 7, "operator": "local"}, 7, "abc", "box")


def gene(name: str, *edits: Edit, **more: object) -> Gene:
    return Gene(name, f"title of {name}", "because", Category.SCHEDULE, Origin.KNOB, edits, **more)  # type: ignore[arg-type]


GENES = {
    "aa11": gene("aa11", Edit("knobs.py", 7, 10, "0.2")),
    "aa22": gene("aa22", Edit("knobs.py", 10, 10, " * 2"), Edit("note é.py", 2, 9, ""), requires=("bb33", "aa11")),
    "bb33": gene("bb33", Edit("knobs.py", 12, 21, "width = 8\r\ndepth = 2"), allele_of="aa11"),
    "null": gene("null", Edit("note é.py", 14, 15, "0 + 1")),
}
BASELINE = Genotype()
ONE = Genotype(("aa11",))
TWO = Genotype(("aa11", "bb33"))
NULL = Genotype(("null",))

INDIVIDUALS = [
    Individual("i0", BASELINE, Operator.BASELINE, (), 0, 0),
    Individual("i1", ONE, Operator.KNOB, ("i0",), 0, 1),
    Individual("i2", TWO, Operator.CROSS, ("i1", "i0"), 1, 2, island=1),
    Individual("i3", ONE, Operator.DROP, ("i2",), 1, 3),
]

NOISE = {0: 0.00, 1: 0.03, 2: -0.03, 3: 0.01}  # of each seed, the same for every genotype
GAINS = {BASELINE: 0.0, ONE: 0.2, TWO: 0.5}


def evaluation(genotype: Genotype, seed: int, score: float | None, **more: object) -> Evaluation:
    status = Status.CRASHED if score is None else Status.OK
    values: dict[str, object] = {"rung": "full", "split": "val", "replicate": 0, "wall_seconds": 2.0, **more}
    name = f"{genotype.genotype_id[:6]}-{values['rung']}-{seed}-{values['split']}-{values['replicate']}"
    return Evaluation(name, genotype, seed=seed, status=status, score=score, **values)  # type: ignore[arg-type]


def evaluations() -> list[Evaluation]:
    curve = tuple(Point(step, step * 64, step * 0.1, 2 / (step + 1)) for step in range(5))
    cost = {"train_seconds": 1.5, "tokens": 100, "flops": 1e20 / 3, "started_at": 1753170000.1234567, "curve": curve}
    scored = [evaluation(g, seed, 3 - gain + NOISE[seed], **cost) for g, gain in GAINS.items() for seed in NOISE]
    nulls = [evaluation(NULL, seed, 3 + NOISE[seed] + (-1) ** seed * 0.02) for seed in (0, 1)]
    return [
        *scored,
        *nulls,
        evaluation(BASELINE, 0, 4.0, rung="screen"),
        evaluation(TWO, 9, None, log_tail="Traceback\nboom \0"),
        evaluation(TWO, 4, 99.0, split="lockbox"),
        evaluation(TWO, 0, 2.7, replicate=1, source_evaluation_id="elsewhere", wall_seconds=0.0, tokens=100),
    ]


def record(run_dir: Path) -> Lineage:
    lineage = Lineage.create(run_dir, RUN, BASE, clock=lambda: 1753170000.0)
    lineage.record_genes([GENES["null"]], null=True)
    lineage.record_conflicts([("bb33", "aa22")])
    for individual in INDIVIDUALS:
        lineage.record_brood(Brood(individual, {name: GENES[name] for name in individual.genotype.genes}))
    lineage.record_genes([GENES["aa22"]])
    lineage.record_evaluations(evaluations())
    lineage.record_posteriors(
        [Posterior("full", "aa11", 0.2, 0.05, 0.99, 8, "core"), Posterior("full", "bb33", 0.3, 0.1, 0.97, 4, "testing")]
    )
    lineage.record_llm_calls([LlmCall("c1", "i2", "cross", "m", 1000, 200, 50, 5, 0.25, 3.0, "ok")])
    lineage.record_effects("a1", [Effect("in_stack", "aa11", None, -0.2, 0.01, -0.22, -0.18, 4, verdict="stacks")])
    lineage.set_champion(TWO)
    lineage.publish()
    return lineage
