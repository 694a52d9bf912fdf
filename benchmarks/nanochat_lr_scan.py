"""Scan the CPU preset's factors on learning rate, matrix learning rate and decay: do both half and double lose?

    python benchmarks/nanochat_lr_scan.py [--seeds 4] [--workers 2]

Every row differs from the preset in one factor. Scores are val_bpb at the full rung; `difference` is row minus preset,
paired by seed, with its 95 % t interval. The result goes to benchmarks/results/nanochat_lr_scan.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from nanochat_runs import FORK, RESULTS, ROOT, prepared, preset, score
from scipy import stats

FACTORS = ("--lr-scale", "--matrix-lr-scale", "--decay-scale")
STEPS = (0.5, 2.0)


@dataclass(frozen=True)
class Row:
    changed: str | None
    values: tuple[float, ...]  # in the order of FACTORS


def flag_value(flags: list[str], name: str) -> str:
    return flags[flags.index(name) + 1]


def with_flag(flags: list[str], name: str, value: float) -> list[str]:
    at = flags.index(name) + 1
    return [*flags[:at], f"{value:g}", *flags[at + 1 :]]


def preset_flags(rung: dict) -> list[str]:
    """Return the flags of a rung's command, without the seed."""
    flags = [part.format(python="", depth=rung["depth"], seed="") for part in rung["command"][3:]]
    at = flags.index("--seed")
    return flags[:at] + flags[at + 2 :]


def rows(flags: list[str]) -> list[Row]:
    """Return the preset and its neighbours."""
    chosen = tuple(float(flag_value(flags, name)) for name in FACTORS)
    moved = [
        Row(f"{name} x{step:g}", tuple(v * step if i == at else v for i, v in enumerate(chosen)))
        for at, name in enumerate(FACTORS)
        for step in STEPS
    ]
    return [Row(None, chosen), *moved]


def run(job: tuple[Row, int], flags: list[str], rung: dict, data: Path) -> float:
    row, seed = job
    for name, value in zip(FACTORS, row.values, strict=True):
        flags = with_flag(flags, name, value)
    bpb = score(flags, data, seed, rung["tokens"], rung["eval_tokens"])["val_bpb"]
    print(f"seed {seed}, {row.changed or 'preset'}: {bpb:.4f}", flush=True)
    return bpb


def paired(scores: np.ndarray, chosen: np.ndarray) -> dict:
    """Return mean difference and its 95 % t interval over common seeds."""
    difference = scores - chosen
    half = stats.t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / len(difference) ** 0.5
    mean = difference.mean()
    return {"difference": mean, "ci_low": mean - half, "ci_high": mean + half}


def report(table: list[Row], scores: np.ndarray) -> list[dict]:
    out = []
    for row, row_scores in zip(table, scores, strict=True):
        values = {name.strip("-").replace("-", "_"): value for name, value in zip(FACTORS, row.values, strict=True)}
        out.append({"changed": row.changed, **values, "scores": list(row_scores), "mean": row_scores.mean()})
        out[-1] |= paired(row_scores, scores[0]) if row.changed else {"sd": row_scores.std(ddof=1)}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    rung = preset()["full"]
    flags = preset_flags(rung)
    table = rows(flags)
    jobs = [(row, seed) for seed in range(args.seeds) for row in table]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(args.workers, mp_context=FORK) as pool:
        data = prepared(Path(folder) / "data", 1024)
        found = list(pool.map(partial(run, flags=flags, rung=rung, data=data), jobs))
    scores = np.array(found).reshape(args.seeds, len(table)).T  # (rows, seeds)
    result = {"rung": "full", "seeds": list(range(args.seeds)), "flags": flags, "rows": report(table, scores)}
    result["seconds"] = round(time.monotonic() - began, 1)
    (RESULTS / "nanochat_lr_scan.json").write_text(json.dumps(result, indent=2) + "\n")
    for row in result["rows"]:
        print(
            row["changed"] or "preset",
            round(row["mean"], 4),
            {k: round(row[k], 4) for k in row if k in ("difference", "ci_low", "ci_high", "sd")},
        )
    print(f"{result['seconds']} s, written to {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
