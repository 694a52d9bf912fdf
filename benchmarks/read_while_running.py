"""Read the lineage from a second process, hundreds of times, while a run writes it: nobody waits for anybody.

Runs the landscape twice, alone and with a reader that never pauses. Writes benchmarks/results/read_while_running.json.
Run: python benchmarks/read_while_running.py
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from evolve.lineage import NoLineage
from evolve.query import run_query

RESULT = Path(__file__).parent / "results" / "read_while_running.json"
QUERIES = (
    "SELECT count(*) AS n FROM evaluations",
    "FROM leaderboard LIMIT 5",
    "SELECT gene_id, mean, n FROM gene_stats ORDER BY mean DESC LIMIT 10",
    "FROM budget",
)


def start(folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "no-cache")}
    words = ["run", "--target", "landscape", "--generations", "40", "--run-dir", "r", "--workers", "1"]
    command = [sys.executable, "-m", "evolve", *words]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)


def read_until_over(engine: subprocess.Popen[bytes], run: Path) -> tuple[list[float], int]:
    """Return the seconds that each answered read took, and how many were not answered once a lineage was there."""
    took: list[float] = []
    refused = 0
    while engine.poll() is None:
        began = time.perf_counter()
        try:
            run_query(run, QUERIES[len(took) % len(QUERIES)], "json")
        except NoLineage:
            refused += bool(took)
            time.sleep(0.05)
            continue
        took.append(time.perf_counter() - began)
        time.sleep(0.02)
    return took, refused


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        alone, watched = Path(name) / "alone", Path(name) / "watched"
        alone.mkdir()
        watched.mkdir()
        began = time.perf_counter()
        assert start(alone).wait() == 0
        alone_s = time.perf_counter() - began
        began = time.perf_counter()
        engine = start(watched)
        took, refused = read_until_over(engine, watched / "r")
        watched_s = time.perf_counter() - began
        assert engine.returncode == 0
    result = {
        "reads": len(took),
        "reads_refused": refused,
        "read_median_ms": round(1e3 * statistics.median(took), 1),
        "read_longest_ms": round(1e3 * max(took), 1),
        "run_alone_s": round(alone_s, 1),
        "run_watched_s": round(watched_s, 1),
        "watched_over_alone": round(watched_s / alone_s, 2),
    }
    print(json.dumps(result, indent=1))
    assert len(took) > 300
    assert not refused
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
