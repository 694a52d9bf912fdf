"""kill -9 the engine at 20 random moments, resume each time, and compare with a run that was left alone.

Writes benchmarks/results/kill_and_resume.json. Run: python benchmarks/kill_and_resume.py [--kills 20] [--seed 0]
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb

RESULT = Path(__file__).parent / "results" / "kill_and_resume.json"
GENERATIONS = 40
TOLD = """
SELECT child.birth, child.operator, child.generation, child.genotype_id, list_sort(list(parent.birth))
FROM individuals AS child LEFT JOIN parents USING (individual_id)
LEFT JOIN individuals AS parent ON parent.individual_id = parents.parent_id
GROUP BY ALL ORDER BY child.birth
"""
SCORED = "SELECT genotype_id, rung, seed, split, status, score FROM evaluations ORDER BY ALL"


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "no-cache")}
    command = [sys.executable, "-m", "evolve", *words]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)


def begin(folder: Path) -> subprocess.Popen[bytes]:
    return start(folder, "run", "--target", "landscape", "--generations", str(GENERATIONS), "--run-dir", "r")


def recorded(folder: Path) -> dict[str, float | None]:
    """Return what the engine's own database holds after a kill: id -> score. Opening it is the integrity check."""
    with duckdb.connect(folder / "r" / "engine.duckdb") as connection:
        return dict(connection.execute("SELECT evaluation_id, score FROM evaluations").fetchall())


def told(folder: Path) -> list[list[tuple[object, ...]]]:
    with duckdb.connect(folder / "r" / "lineage.duckdb", read_only=True) as connection:
        return [connection.execute(sql).fetchall() for sql in (TOLD, SCORED)]


def kill_at(engine: subprocess.Popen[bytes], after_s: float) -> bool:
    """Return whether the engine was still running after that long, and so was killed."""
    try:
        engine.wait(timeout=after_s)
    except subprocess.TimeoutExpired:
        engine.send_signal(signal.SIGKILL)
        engine.wait()
        return True
    return False


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        alone, killed = Path(name) / "alone", Path(name) / "killed"
        alone.mkdir()
        killed.mkdir()
        began = time.perf_counter()
        assert begin(alone).wait() == 0
        whole_s = time.perf_counter() - began
        kills, lost, held = [], 0, {}
        engine = begin(killed)
        while len(kills) < given.kills:
            moment = draw.uniform(0.5, 2 * whole_s / given.kills)
            if not kill_at(engine, moment):
                break
            before, held = held, recorded(killed) if (killed / "r" / "run.toml").exists() else {}
            lost += sum(held.get(key, "gone") != score for key, score in before.items())
            kills.append({"after_s": round(moment, 3), "evaluations_recorded": len(held)})
            engine = start(killed, "resume", "r") if held else begin(killed)
        assert engine.wait() == 0
        left, right = told(alone), told(killed)
    result = {
        "kills": kills,
        "recorded_evaluations_lost_or_changed": lost,
        "individuals": len(left[0]),
        "evaluations": len(left[1]),
        "same_individuals": left[0] == right[0],
        "same_evaluations": left[1] == right[1],
        "uninterrupted_s": round(whole_s, 1),
    }
    print(json.dumps({**result, "kills": len(kills)}, indent=2))
    assert not lost
    assert left == right
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
