"""The ladder: a climb and the results so far -> the step to run next. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from population.individuals import Result, Status, Step


def next_step(climb: Sequence[Step], results: Iterable[Result], direction: str) -> Step | None:
    """Return the first step that lacks results, with only the seeds it lacks; None when the climb is over.

    All seeds of a step run in parallel, so ask again only when every one of them has ended. `results` are those of one
    genotype on one split. A climb is over at its top, and at the first step that may not be passed.
    """
    known = {(result.rung, result.seed): result for result in results}
    for step in climb:
        missing = tuple(seed for seed in step.seeds if (step.rung, seed) not in known)
        if missing:
            return replace(step, seeds=missing)
        if not passes(step, [known[step.rung, seed] for seed in step.seeds], direction):
            return None
    return None


def passes(step: Step, results: Sequence[Result], direction: str) -> bool:
    """Return whether these results of a whole step allow the next one: all ok, and a mean not worse than `worst`."""
    scores = [result.score for result in results if result.status is Status.OK and result.score is not None]
    if len(scores) < len(results):
        return False
    if step.worst is None or not scores:
        return True
    mean = sum(scores) / len(scores)
    return mean <= step.worst if direction == "minimize" else mean >= step.worst
