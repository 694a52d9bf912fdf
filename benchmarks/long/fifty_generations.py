"""The main job, once and for real: `evolve run --generations 50` on the CPU preset, and what it did.

    python benchmarks/long/fifty_generations.py [RUN]

With RUN, a run directory, it is only summed up. Writes benchmarks/results/fifty_generations.json.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from evolve.query import run_query

RESULT = Path(__file__).parent.parent / "results" / "fifty_generations.json"
BOTH = """
WITH fresh AS (
    SELECT n_genes, seed, score FROM evaluations JOIN genotypes USING (genotype_id) WHERE split = 'lockbox'
)
SELECT best.n_genes, best.seed, best.score AS best, base.score AS base
FROM fresh AS best JOIN fresh AS base USING (seed)
WHERE best.n_genes > 0 AND base.n_genes = 0 ORDER BY best.seed
"""
# Time in which nothing ran does not count: the pauses of a run that was stopped and resumed.
WALL = """
WITH spans AS (
    SELECT started_unix AS began, started_unix + wall_seconds AS ended FROM evaluations WHERE wall_seconds > 0
),
gaps AS (SELECT began - max(ended) OVER (ORDER BY began ROWS UNBOUNDED PRECEDING EXCLUDE CURRENT ROW) AS gap FROM spans)
SELECT (SELECT max(ended) - min(began) FROM spans) AS seconds_in_all,
    (SELECT coalesce(sum(gap), 0) FROM gaps WHERE gap > 60) AS seconds_paused
"""
QUESTIONS = {
    "run": "SELECT run_id, status, champion, config->>'$.seed' AS seed, git_commit, machine FROM runs",
    "births": "SELECT operator, count(*) AS n FROM individuals GROUP BY ALL ORDER BY ALL",
    "evaluations": "SELECT rung, split, status, count(*) AS n, count(source_evaluation_id) AS cached,"
    " median(wall_seconds) AS median_wall_s, median(train_seconds) AS median_train_s"
    " FROM evaluations GROUP BY ALL ORDER BY ALL",
    "statuses_by_operator": "SELECT operator, status, count(DISTINCT evaluation_id) AS n FROM individuals"
    " JOIN evaluations USING (genotype_id) GROUP BY ALL ORDER BY ALL",
    "noise_floor": "SELECT rung, kind, n, sd FROM noise_floor ORDER BY ALL",
    "training": "SELECT sum(train_seconds) AS train_s, sum(wall_seconds) AS evaluation_s FROM evaluations",
    "wall": WALL,
    "genes": "SELECT state, count(*) AS n FROM gene_stats GROUP BY ALL ORDER BY ALL",
    "champion_genes": "SELECT title, mean, sd, p_positive, n FROM gene_stats"
    " WHERE gene_id IN (SELECT gene_id FROM genotype_genes JOIN runs ON genotype_id = champion) ORDER BY mean DESC",
    "fresh_seeds": BOTH,
}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        run = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(name) / "run"
        if len(sys.argv) == 1:
            command = [sys.executable, "-m", "evolve", "run", "--generations", "50", "--preset", "cpu"]
            subprocess.run([*command, "--run-dir", str(run)], check=True)
        result = {name: json.loads(run_query(run, sql, "json")) for name, sql in QUESTIONS.items()}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
