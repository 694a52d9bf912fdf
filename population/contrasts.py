"""Contrasts and spreads: what two genotypes differ by, and how far scores wander when nothing has changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from population.mistakes import Mistake

MILD = 0.2  # paired sd of mild edits / sd over seeds: 0.003 / 0.016 bpb at depth 2, 3.5e-5 / 2.3e-4 at depth 12


class TooFewScores(Mistake):
    """Raised when an interval is asked of fewer scores than it takes."""

    def __init__(self, have: int, need: int, what: str) -> None:
        super().__init__(f"{have} {what}, but an interval takes at least {need}: run more seeds")


@dataclass(frozen=True)
class Contrast:
    """A difference in the score's unit, with a t interval over n seeds; `p_value` is two-sided against zero."""

    estimate: float
    se: float
    ci_low: float
    ci_high: float
    n: int
    df: int
    p_value: float


@dataclass(frozen=True)
class Spread:
    """How far n scores wander: their mean and sd in the score's unit, with a chi-square interval of the sd."""

    mean: float
    sd: float
    n: int
    sd_low: float
    sd_high: float


@dataclass(frozen=True)
class NoiseFloor:
    """The noise of one rung: the baseline over seeds, and the paired difference of trees that follow the same law."""

    baseline: Spread | None  # None: fewer than two seeds scored
    null: Spread | None  # None: no null gene scored at a seed of the baseline

    @property
    def sd(self) -> float:
        """Return the sd to expect of a paired difference; without null genes, the baseline's over seeds.

        Some null genes hardly disturb a run, so that theirs can be far too small for any real edit: it counts as at
        least MILD times the baseline's, which is what mild edits of a real training run were measured at.
        """
        if self.null is None:
            return self.baseline.sd if self.baseline else 0.0
        return max(self.null.sd, MILD * self.baseline.sd) if self.baseline else self.null.sd


def paired(a: Mapping[int, float], b: Mapping[int, float], confidence: float = 0.95) -> Contrast:
    """Return mean(a - b) over the seeds both have, with Student's t on (common seeds - 1) degrees of freedom.

    a, b: seed -> score, in one unit; seeds that only one of them has are left out, because a seed is a block.
    Raises TooFewScores below two common seeds. Student (1908), "The probable error of a mean".
    """
    seeds = sorted(a.keys() & b.keys())
    if len(seeds) < 2:
        raise TooFewScores(len(seeds), 2, "common seeds")
    differences = np.array([a[seed] - b[seed] for seed in seeds])  # (n,)
    estimate, df = float(differences.mean()), len(seeds) - 1
    se = float(differences.std(ddof=1)) / math.sqrt(len(seeds))
    half = float(special.stdtrit(df, 0.5 + confidence / 2)) * se
    return Contrast(estimate, se, estimate - half, estimate + half, len(seeds), df, _p_value(estimate, se, df))


def _p_value(estimate: float, se: float, df: int) -> float:
    if se == 0:
        return 1.0 if estimate == 0 else 0.0
    return float(2 * special.stdtr(df, -abs(estimate) / se))


def detectable(sd: float, n: int, power: float = 0.8, confidence: float = 0.95) -> float:
    """Return the effect that a paired contrast over n seeds finds with this power, in the unit of `sd`.

    sd: of one paired difference. (t_{confidence} + t_{power}) * sd / sqrt(n) with n - 1 degrees of freedom, an
    approximation to the noncentral t that is a little large for few seeds. Raises TooFewScores below two seeds.
    Cohen (1988), "Statistical Power Analysis", chapter 2.
    """
    if n < 2:
        raise TooFewScores(n, 2, "seeds")
    quantiles = float(special.stdtrit(n - 1, 0.5 + confidence / 2)) + float(special.stdtrit(n - 1, power))
    return quantiles * sd / math.sqrt(n)


def spread(scores: Sequence[float], confidence: float = 0.95) -> Spread:
    """Return mean and sd of independent scores (n,), in their unit, with the chi-square interval of the sd.

    Raises TooFewScores below two scores. Assumes normal scores; Cochran (1934) for the law of the variance.
    """
    if len(scores) < 2:
        raise TooFewScores(len(scores), 2, "scores")
    df = len(scores) - 1
    sd = float(np.std(scores, ddof=1))
    low, high = _sd_interval(sd, df, confidence)
    return Spread(float(np.mean(scores)), sd, len(scores), low, high)


def _sd_interval(sd: float, df: int, confidence: float) -> tuple[float, float]:
    tails = np.array([0.5 + confidence / 2, 0.5 - confidence / 2])
    low, high = sd * np.sqrt(df / (2 * special.gammaincinv(df / 2, tails)))
    return float(low), float(high)


def noise_floor(
    baseline: Mapping[int, float], nulls: Sequence[Mapping[int, float]], confidence: float = 0.95
) -> NoiseFloor:
    """Return the two noises of one rung, in the score's unit.

    baseline: seed -> score of the base; nulls: the same for each null gene, left out if it changed no score at all (its
    edit was rounded away, so that it says nothing of rounding). The paired sd is sqrt(2) times the
    pooled sd within seeds, over the base and its null genes alike: differences from one base share its accident,
    so that counting them as independent would promise too much. df = sum over seeds of (trees scored - 1).
    """
    over_seeds = spread(list(baseline.values()), confidence) if len(baseline) > 1 else None
    moved = [null for null in nulls if any(baseline.get(seed, score) != score for seed, score in null.items())]
    return NoiseFloor(over_seeds, _null_spread(baseline, moved, confidence))


def _null_spread(
    baseline: Mapping[int, float], nulls: Sequence[Mapping[int, float]], confidence: float
) -> Spread | None:
    differences = [null[seed] - baseline[seed] for null in nulls for seed in null if seed in baseline]
    if not differences:
        return None
    groups = [np.array([score] + [null[seed] for null in nulls if seed in null]) for seed, score in baseline.items()]
    df = sum(len(group) - 1 for group in groups)
    squares = sum(float(np.square(group - group.mean()).sum()) for group in groups)
    sd = math.sqrt(2 * squares / df)
    low, high = _sd_interval(sd, df, confidence)
    return Spread(float(np.mean(differences)), sd, len(differences), low, high)
