"""Time one refit of the credit model, and one search of its scales, at 600 evaluations of 150 genes.

python benchmarks/strategy_credit.py
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from population.credit import Design, Observation, Scales, estimate, fit

EVALUATIONS, GENES, SEEDS = 600, 150, 4


def observations() -> list[Observation]:
    """Return what a run would leave: half of 30 genes under test at any time, the pool moving on."""
    draw = random.Random(0)
    effects = [draw.gauss(0, 1) for _ in range(GENES)]
    rows: list[Observation] = []
    for i in range(EVALUATIONS):
        first = i * (GENES - 30) // (EVALUATIONS - 1)
        carried = [j for j in range(first, first + 30) if draw.random() < 0.5]
        gain = sum(effects[j] for j in carried) + i % SEEDS + draw.gauss(0, 1)
        rows.append(Observation(tuple(f"gene{j:03d}" for j in carried), i % SEEDS, gain))
    return rows


def milliseconds(work: Callable[[], object], times: int) -> float:
    """Return the median wall time of a call."""
    taken: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(taken), 1)


def main() -> None:
    rows, scales = observations(), Scales(1.0, 1.0, 0.3)
    report = {
        "evaluations": EVALUATIONS,
        "genes": len(Design.of(rows).genes),
        "refit, design included, ms": milliseconds(lambda: fit(Design.of(rows), scales), 21),
        "search of scales, ms": milliseconds(lambda: estimate(Design.of(rows), scales, None), 3),
    }
    path = Path(__file__).parent / "results" / "strategy_credit.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
