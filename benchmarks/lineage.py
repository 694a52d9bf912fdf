"""What the lineage store costs: a commit, a publication, the file, reading it back. Writes results/lineage.json."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import duckdb

from evolve.lineage import PUBLISHED, Lineage, read
from evolve.records import Posterior, Run
from fitness.evaluation import Evaluation, Point
from population.genes import BaseTree, Category, Edit, Gene, Origin
from population.individuals import Brood, Genotype, Individual, Operator, Status

EVALUATIONS = 1000
GENES = 100
REPEATS = 50
RESULT = Path(__file__).parent / "results" / "lineage.json"


def milliseconds(act: Callable[[int], object], repeats: int = REPEATS) -> dict[str, float]:
    """Return the median and the fastest of `repeats` calls: on a busy machine they differ."""
    took = []
    for k in range(repeats):
        began = time.perf_counter()
        act(k)
        took.append(1e3 * (time.perf_counter() - began))
    return {"median": round(median(took), 2), "fastest": round(min(took), 2)}


def evaluation(k: int) -> Evaluation:
    curve = tuple(Point(5 * i, 5120 * i, 0.31 * i, 2.5 + 8 / (i + 1 + k % 7)) for i in range(200))
    cost = {"train_seconds": 62.1, "wall_seconds": 65.0, "tokens": 1 << 20, "flops": 1e15, "n_params": 1 << 22}
    log = "step 00990 | loss 3.1 | dt 62 ms\n" * 20
    return Evaluation(
        *(f"e{k:08}", Genotype((f"g{k % GENES:03}",)), "full", k % 4, "val", 0, Status.OK, 1.1 + k * 1e-5),
        started_at=1.75e9 + k,
        log_tail=log,
        curve=curve,
        **cost,
    )


def posteriors(k: int) -> list[Posterior]:
    return [Posterior("full", f"g{i:03}", 0.01 * i, 0.01, 0.9, k, "core") for i in range(GENES)]


def filled(run_dir: Path) -> Lineage:
    base = BaseTree({"gpt.py": "width = 4  # a line\n" * 2000})
    lineage = Lineage.create(run_dir, Run("r", "nanochat", "val_bpb", "minimize", ("full",), {}, 0), base)
    for i in range(GENES):
        edits = (Edit("gpt.py", 20 * i, 20 * i + 5, "depth"),)
        gene = Gene(f"g{i:03}", "one", "why", Category.OTHER, Origin.KNOB, edits)
        child = Individual(f"i{i:03}", Genotype((gene.gene_id,)), Operator.KNOB, (f"i{max(0, i - 7):03}",), 0, i)
        lineage.record_brood(Brood(child, {gene.gene_id: gene}))
    for start in range(0, EVALUATIONS, 10):
        lineage.record_evaluations([evaluation(k) for k in range(start, start + 10)])
    return lineage


def measure(run_dir: Path) -> dict[str, object]:
    with filled(run_dir) as lineage:
        lineage.publish()
        size = (run_dir / PUBLISHED).stat().st_size
        new = [evaluation(EVALUATIONS + k) for k in range(REPEATS)]
        commit = milliseconds(lambda k: lineage.record_evaluations([new[k]]))
        refresh = milliseconds(lambda k: lineage.record_posteriors(posteriors(k)))
        publish = milliseconds(lambda k: (lineage.record_evaluations([evaluation(10**6 + k)]), lineage.publish()))
        resume = milliseconds(lambda _: (lineage.genes(), lineage.individuals(), lineage.evaluations()), 3)
    with read(run_dir) as reader:
        board = milliseconds(lambda _: reader.dicts("FROM leaderboard"), 5)
    return {
        "evaluations": EVALUATIONS,
        "curve_points": 200,
        "commit_ms": commit,
        "posteriors_ms": refresh,
        "commit_and_publish_ms": publish,
        "read_for_resume_ms": resume,
        "leaderboard_ms": board,
        "published_bytes": size,
        "duckdb": duckdb.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
