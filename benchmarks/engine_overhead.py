"""What the engine itself costs per evaluation: births asked, bred, recorded, told and published, training left out.

Training is replaced by the landscape's law in this process. Writes benchmarks/results/engine_overhead.json.
Run: python benchmarks/engine_overhead.py
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as the evolve command does

from landscape_run import ScriptedRun  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "engine_overhead.json"
BIRTHS = (121, 301)


def cost(births: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        run = ScriptedRun(Path(name), births=births)
        began, cpu = time.perf_counter(), time.process_time()
        run.engine.run()
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        evaluations = len(run.lineage.evaluations())
        run.lineage.close()
        began = time.perf_counter()
        again = ScriptedRun(Path(name), births=births)
        again.engine.run()
        replay = time.perf_counter() - began
    return {
        "births": births,
        "evaluations": evaluations,
        "wall_ms_per_evaluation": round(1e3 * wall / evaluations, 1),
        "cpu_ms_per_evaluation": round(1e3 * cpu / evaluations, 1),
        "resume_s": round(replay, 1),
    }


def main() -> None:
    result = [cost(births) for births in BIRTHS]
    print(json.dumps(result, indent=1))
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
