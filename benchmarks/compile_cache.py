"""What sharing compiled code saves: seconds to the first step cold, from a private copy, and for patched models.

    python benchmarks/compile_cache.py [--cold 2] [--warm 3]

Evaluations as an evolution runs them, of the CPU preset's model with `--compile on` and a budget of one step; seconds
are the feeder's, from the first request for tokens to the end of the training. The result goes to
benchmarks/results/compile_cache.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from evolve.target_files import load_target
from fitness.compile_cache import CompileCache
from fitness.evaluation import Job
from fitness.pool import LocalPool
from fitness.prepare import prepare
from fitness.target import Target
from fitness.workspace import read_base, snapshot
from population.individuals import Genotype

RESULT = Path(__file__).parent / "results" / "compile_cache.json"
GPT, TRAIN = "nanochat/gpt.py", "nanochat/base_train.py"
PATCHES = {  # name -> file, text, replacement
    "constant_of_the_model": (GPT, "LOGIT_SOFTCAP = 20.0", "LOGIT_SOFTCAP = 15.0"),
    "constant_of_the_schedule": (TRAIN, "MUON_MOMENTUM_START = 0.85", "MUON_MOMENTUM_START = 0.8"),
}
STEP_TOKENS = 512


def short_target(compiles: bool) -> Target:
    """Return the CPU preset with one step, compiled or eager."""
    target = load_target("nanochat", "cpu")
    rung = replace(target.rungs[0], name="one", tokens=STEP_TOKENS, eval_tokens=STEP_TOKENS, timeout_s=600)
    command = (*rung.command, "--compile", "on" if compiles else "off")
    return replace(target, rungs=(replace(rung, command=command, compiles=compiles, memory_gb=None),))


class Bench:
    """Evaluates in a folder of its own, with a shared folder of compiled code of its own."""

    def __init__(self, folder: Path, data_folder: Path, compiles: bool = True) -> None:
        target = short_target(compiles)
        base = snapshot(target, folder / "base")
        self.compiled = folder / "compiled"
        self.base = dict(read_base(base, target.editable).files)
        data = prepare(target, base, data_folder)
        self.pool = LocalPool(target, folder, base, data, compiled=self.compiled)
        self.count = 0

    def first_step_s(self, files: Mapping[str, str] | None = None) -> float:
        """Run one evaluation; return its seconds of training."""
        self.count += 1
        self.pool.submit(Job(f"e{self.count}", Genotype(), files or self.base, "", "one", 0))
        (found,) = self.pool.wait(600)
        assert found.score is not None, found.log_tail
        return found.train_seconds or 0.0

    def patched(self, path: str, old: str, new: str) -> dict[str, str]:
        assert self.base[path].count(old) == 1
        return {**self.base, path: self.base[path].replace(old, new)}


def figures(seconds: list[float]) -> dict[str, float | int]:
    return {
        "n": len(seconds),
        "median_s": round(median(seconds), 2),
        "min_s": round(min(seconds), 2),
        "max_s": round(max(seconds), 2),
    }


def copy_cost(compiled: Path, scratch: Path, times: int = 20) -> dict[str, float | int]:
    """Return what a private copy costs and what it holds."""
    (shared,) = compiled.iterdir()
    files, taken = [path for path in shared.rglob("*") if path.is_file()], []
    for i in range(times):
        began = time.perf_counter()
        CompileCache(compiled).copy(shared.name, scratch / str(i))
        taken.append(1000 * (time.perf_counter() - began))
    return {
        "median_ms": round(median(taken), 1),
        "files": len(files),
        "megabytes": round(sum(path.stat().st_size for path in files) / 1e6, 2),
    }


def measure(folder: Path, cold: int, warm: int) -> dict[str, object]:
    colds: list[float] = []
    for i in range(cold):
        bench = Bench(folder / f"cold{i}", folder / "data")
        colds.append(bench.first_step_s())
        if i < cold - 1:
            bench.pool.close()
    found: dict[str, object] = {"cold": figures(colds)}
    found["warm_base"] = figures([bench.first_step_s() for _ in range(warm)])
    for name, patch in PATCHES.items():
        files = bench.patched(*patch)
        found[f"warm_{name}"] = figures([bench.first_step_s(files) for _ in range(warm)])
    bench.pool.close()
    found["copy"] = copy_cost(bench.compiled, folder / "copies")
    eager = Bench(folder / "eager", folder / "data", compiles=False)
    found["eager"] = figures([eager.first_step_s() for _ in range(warm)])
    eager.pool.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cold", type=int, default=2)
    parser.add_argument("--warm", type=int, default=3)
    args = parser.parse_args()
    machine = {"cores": os.cpu_count(), "load_average_before": round(os.getloadavg()[0], 1), "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as folder:
        result = {"machine": machine, **measure(Path(folder), args.cold, args.warm)}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
