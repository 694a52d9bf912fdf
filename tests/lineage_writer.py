"""A process that records and publishes without end, to be watched or killed. Prints the seed of each batch."""

from __future__ import annotations

import sys
from pathlib import Path

from lineage_fixture import BASE, INDIVIDUALS, ONE, RUN, TWO, evaluation

from evolve.lineage import Lineage
from fitness.evaluation import Point

CURVE = tuple(Point(step, step, 0.5, 1.0) for step in range(50))


def main(run_dir: Path) -> None:
    with Lineage.create(run_dir, RUN, BASE) as lineage:
        lineage.record_individual(INDIVIDUALS[0])
        lineage.publish()
        for seed in range(100_000):
            lineage.record_evaluations([evaluation(g, seed, 1.0 + seed, curve=CURVE) for g in (ONE, TWO)])
            print(seed, flush=True)
            if seed % 3 == 0:
                lineage.publish()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
