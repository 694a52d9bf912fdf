"""What a newcomer does: clone into an empty folder, type `make run`; how long installing and running take.

    python benchmarks/long/fresh_clone.py

The commit that is checked out is cloned. Caches of scores and data are empty, pip's cache is as it is.
Writes benchmarks/results/fresh_clone.json and prints what `make run` printed.
"""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
RESULT = ROOT / "benchmarks" / "results" / "fresh_clone.json"


def timed(folder: Path, *command: str) -> tuple[float, str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder.parent / "cache")}
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return round(time.perf_counter() - began, 1), done.stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        clone = Path(name) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        install_s, _ = timed(clone, "make", ".venv/.installed")
        run_s, said = timed(clone, "make", "run")
    print(said)
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    times = {"install_s": install_s, "run_s": run_s, "whole_s": round(install_s + run_s, 1)}
    result = {"commit": asked.stdout.strip(), **times, "said": said.splitlines()}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(times)


if __name__ == "__main__":
    main()
