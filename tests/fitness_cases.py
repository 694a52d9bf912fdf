"""What the tests of scoring share: the tiny target, jobs with a patched recipe, and one way to run them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from fitness.evaluate import Bench, Outcome, evaluate
from fitness.evaluation import Job
from fitness.launch import ForkServer
from fitness.target import Metric, Rung, Target
from fitness.workspace import read_base, snapshot
from population.individuals import Genotype

ROOT = Path(__file__).parent / "targets"
RECIPE = "tiny/recipe.py"
RUNG = Rung("screen", ("{python}", "-m", "tiny.train", "{seed}"), timeout_s=20, seeds=(0, 1), tokens=8, eval_tokens=3)
TINY = Target(
    name="tiny",
    root=ROOT,
    editable=(RECIPE,),
    frozen=("tiny/*.py",),
    metric=Metric("loss", "minimize"),
    rungs=(RUNG,),
    feeder=("{python}", "-m", "tiny.feeder", "{seed}", "{tokens}"),
    server=("{python}", "-m", "tiny.serve"),
    judge=("{python}", "-m", "tiny.judge", "{eval_tokens}"),
)
# the same files, but the command reports its own score
ALONE = replace(TINY, feeder=(), server=(), judge=(), metric=Metric("loss", "minimize", file="result.json"))


def with_rung(target: Target, **changes: object) -> Target:
    """Return the target with a changed rung."""
    return replace(target, rungs=(replace(target.rungs[0], **changes),))  # type: ignore[arg-type]


def running(code: str) -> tuple[Target, dict[str, str]]:
    """Return a target whose command runs `code`, which reports a score in result.json if it gets that far."""
    target = with_rung(ALONE, command=("{python}", RECIPE))
    return target, {RECIPE: code}


def job(files: Mapping[str, str] | None = None, name: str = "e1", seed: int = 0, use_cache: bool = True) -> Job:
    """Return a job with these files over the base."""
    base = read_base(ROOT, TINY.editable).files
    return Job(name, Genotype(), {**base, **(files or {})}, "the patch\n", "screen", seed, use_cache=use_cache)


def bench(target: Target, run_dir: Path) -> Bench:
    """Return a bench in this run directory."""
    base = snapshot(target, run_dir / "base")
    return Bench(target, run_dir, base, read_base(base, target.editable).files, None)


def score(server: ForkServer, run_dir: Path, target: Target, files: Mapping[str, str] | None = None) -> Outcome:
    """Run one evaluation to its end."""
    return evaluate(job(files), bench(target, run_dir), server)


def edited(old: str, new: str) -> dict[str, str]:
    """Return the recipe with one replacement."""
    text = (ROOT / RECIPE).read_text()
    assert text.count(old) == 1
    return {RECIPE: text.replace(old, new)}


def eventually(condition: Callable[[], bool], timeout_s: float = 2.0) -> bool:
    """Return whether a condition comes true in time."""
    limit = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(0.02)
    return True


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
