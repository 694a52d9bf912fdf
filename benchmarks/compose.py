"""Measure composition: 20 genes on the bundled target's tree. Run as `python benchmarks/compose.py`."""

import json
import platform
import random
import statistics
import time
from pathlib import Path

from population.compose import compose, conflicts
from population.genes import BaseTree, Category, Origin, gene_from_edits, gene_from_files, render_diff
from population.knobs import find_knobs, knob_gene, move

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "compose.json"
GENES = 20
EDITS = 2
REPEATS = 500


def main():
    base = BaseTree({path.name: path.read_bytes().decode() for path in sorted((ROOT / "nanochat").glob("*.py"))})
    genes = draw_genes(base, random.Random(0))
    one = compose(base, genes[:1])
    described = {"title": "", "hypothesis": "", "category": Category.OTHER, "origin": Origin.KNOB}
    figures = {
        "files": len(base.files),
        "lines": sum(text.count("\n") for text in base.files.values()),
        "genes": len(genes),
        "edits": sum(len(gene.edits) for gene in genes),
        "compose_ms": milliseconds(lambda: compose(base, genes)),
        "conflicts_of_all_pairs_ms": milliseconds(lambda: conflicts(genes)),
        "render_diff_ms": milliseconds(lambda: render_diff(base, genes), 20),
        "gene_from_files_ms": milliseconds(lambda: gene_from_files(base, one, **described), 20),
        "find_knobs_ms": milliseconds(lambda: find_knobs(base), 5),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    print(RESULT.read_text(), end="")


def draw_genes(base, draw):
    """Return GENES genes that compose, of EDITS constants each, spread over the tree."""
    knobs = draw.sample(find_knobs(base), GENES * EDITS)
    return [draw_gene(base, knobs[k::GENES], draw) for k in range(GENES)]


def draw_gene(base, knobs, draw):
    edits = [edit for knob in knobs for edit in knob_gene(base, knob, move(knob, draw)).edits]
    return gene_from_edits(base, edits, title="", hypothesis="", category=Category.OTHER, origin=Origin.KNOB)


def milliseconds(call, repeats=REPEATS):
    """Return the median and the 90 % range of the duration of a call."""
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        durations.append(1000 * (time.perf_counter() - start))
    low, high = statistics.quantiles(durations, n=20)[::18]
    return {"median": round(statistics.median(durations), 4), "p5": round(low, 4), "p95": round(high, 4), "n": repeats}


if __name__ == "__main__":
    main()
