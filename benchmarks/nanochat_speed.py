"""Measure the CPU preset: training tokens per second on one thread, launch to first batch, judge, feeder.

    python benchmarks/nanochat_speed.py [--repeats 3]

Medians over evaluations of the full rung, alone and with a second one on the other core. Children are forked from a
process that has imported torch, as in an evolution. The result goes to benchmarks/results/nanochat_speed.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

from nanochat_lr_scan import preset_flags
from nanochat_runs import FORK, RESULTS, ROOT, prepared, preset, score


def evaluation(seed: int, rung: dict, data: Path) -> dict[str, float]:
    """Return the seconds of one evaluation's parts."""
    found = score(preset_flags(rung), data, seed, rung["tokens"], rung["eval_tokens"])
    points = [event for event in found["events"] if "step" in event]
    first, last = points[0], points[-1]
    return {
        "tokens_per_s": (last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"]),
        "launch_s": found["train_s"] - found["fed"]["train_seconds"],
        "train_s": found["train_s"],
        "judge_s": found["judge_s"],
        "evaluation_s": found["train_s"] + found["judge_s"],
        "peak_memory_mb": found["events"][-1]["peak_memory_bytes"] / 2**20,
    }


def side_by_side(workers: int, repeats: int, rung: dict, data: Path) -> dict[str, float]:
    with ProcessPoolExecutor(workers, mp_context=FORK) as pool:
        found = list(pool.map(partial(evaluation, rung=rung, data=data), range(workers * repeats)))
    return {name: round(median(one[name] for one in found), 3) for name in found[0]}


FEEDER_CODE = """
import sys, time
sys.path.insert(0, sys.argv[1])
from nanochat.dataloader import LocalFeed
feed = LocalFeed(sys.argv[2], 0)
feed.next(4, 128)
began = time.perf_counter()
for _ in range(2000):
    feed.next(4, 128)
print((time.perf_counter() - began) / 2)
"""


def feeder_ms(data: Path) -> float:
    """Return milliseconds in which the feeder packs one batch of the preset."""
    command = [sys.executable, "-c", FEEDER_CODE, str(ROOT), str(data)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def prepare_s(folder: Path) -> float:
    began = time.monotonic()
    prepared(folder, 1024)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    rung = preset()["full"]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        result = {
            "load_average_before": os.getloadavg()[0],
            "cpus": os.cpu_count(),
            "prepare_s": round(prepare_s(data), 2),
            "feeder_ms_per_batch": round(feeder_ms(data), 3),
            "alone": side_by_side(1, args.repeats, rung, data),
            "two_side_by_side": side_by_side(2, args.repeats, rung, data),
        }
    (RESULTS / "nanochat_speed.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
