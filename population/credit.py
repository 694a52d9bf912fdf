"""Credit: what each gene is worth, learnt from every evaluation that carried it.

    y = block of the seed + sum over genes (effect + slope at this seed) + residual        (gain: positive is better)

Effects (around a mean of their own), slopes and residuals are normal; empirical Bayes finds their three scales. Blocks
are flat. What is not covered: pairs of genes that do not add up (they end in the residual).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

EFFECT_RATIO = (0.05, 1e3)  # bounds of sd(effect) / sd(noise)
SLOPE_RATIO = (0.01, 1e2)  # bounds of sd(slope) / sd(noise)
SHARED_MEAN = 1.0  # prior variance of the mean of all effects, in units of their variance: most ideas do harm
TYPICAL_SLOPE = 0.3  # of an effect; its log has a prior sd of 1, so that few evaluations cannot claim anything
EFFECT_DOUBT = 1.0  # prior sd of log(sd(effect) / sd(noise)) around zero
NOISE_WEIGHT = 4.0  # evaluations that the noise of the null genes counts for
TINY = 1e-24  # of the squared scores: a target without noise is no division by zero
COMPASS = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
SEARCH_STEPS = (1.0, 0.5, 0.25, 0.125)  # in log ratios


@dataclass(frozen=True)
class Observation:
    """One genotype at one seed: the gain, in the score's unit, positive better; repeats of it are averaged before."""

    genes: tuple[str, ...]
    seed: int
    gain: float


@dataclass(frozen=True)
class Scales:
    """Standard deviations in the score's unit: residual, gene effect, gene-by-seed slope."""

    noise: float
    effect: float
    slope: float

    @staticmethod
    def guess(noise: float) -> Scales:
        """Return where to start: effects as large as the noise."""
        return Scales(noise, noise, TYPICAL_SLOPE * noise)


@dataclass(frozen=True)
class Effect:
    """The posterior of one gene's gain, in the score's unit, and the number of evaluations that carried it."""

    mean: float
    sd: float
    n: int

    @property
    def p_positive(self) -> float:
        """Return P(gain > 0)."""
        return self.p_above(0.0)

    def p_above(self, threshold: float) -> float:
        """Return P(gain > threshold)."""
        return 0.5 * math.erfc((threshold - self.mean) / (self.sd * math.sqrt(2)))


@dataclass(frozen=True)
class Block:
    """The evaluations at one seed: incidence x (n, p) of p genes, gains y (n,)."""

    x: Array
    y: Array

    @cached_property
    def overlap(self) -> Array:
        """Return x x^T (n, n): how many genes two evaluations share."""
        return self.x @ self.x.T


@dataclass(frozen=True)
class Design:
    """All evaluations, by seed, over one list of genes."""

    genes: tuple[str, ...]
    blocks: tuple[Block, ...]

    @staticmethod
    def of(observations: Iterable[Observation]) -> Design:
        """Return the design of these observations."""
        rows: dict[int, list[Observation]] = defaultdict(list)
        for observation in observations:
            rows[observation.seed].append(observation)
        genes = tuple(sorted({gene for row in rows.values() for o in row for gene in o.genes}))
        index = {gene: j for j, gene in enumerate(genes)}
        return Design(genes, tuple(_block(rows[seed], index) for seed in sorted(rows)))

    @cached_property
    def freedom(self) -> int:
        """Return the degrees of freedom: evaluations less seeds."""
        return sum(len(block.y) - 1 for block in self.blocks)


@dataclass(frozen=True)
class Credit:
    """The posterior of all gene effects: mean (p,), covariance (p, p)."""

    scales: Scales
    genes: tuple[str, ...]
    mean: Array
    covariance: Array
    counts: Array

    @cached_property
    def _index(self) -> Mapping[str, int]:
        return {gene: j for j, gene in enumerate(self.genes)}

    @cached_property
    def _effects(self) -> Mapping[str, Effect]:
        rows = zip(self.mean, np.sqrt(np.diag(self.covariance)), self.counts, strict=True)
        return {gene: Effect(float(m), float(sd), int(n)) for gene, (m, sd, n) in zip(self.genes, rows, strict=True)}

    def effect(self, gene: str) -> Effect:
        """Return the posterior of one gene; of a gene never evaluated, the prior."""
        return self._effects.get(gene) or Effect(0.0, self.scales.effect, 0)

    def gain(self, genes: Iterable[str]) -> float:
        """Return the posterior mean gain of a genotype over the baseline."""
        return sum(self._effects[gene].mean for gene in genes if gene in self._effects)

    def predict(self, genes: Iterable[str]) -> Effect:
        """Return the denoised gain of a genotype over the baseline; `n` counts evaluations of its rarest gene."""
        return self.difference(genes, ())

    def difference(self, genes: Iterable[str], than: Iterable[str]) -> Effect:
        """Return the posterior of gain(genes) - gain(than): what they share cancels."""
        a, b = set(genes), set(than)
        weights = dict.fromkeys(a - b, 1.0) | dict.fromkeys(b - a, -1.0)
        known = sorted(gene for gene in weights if gene in self._index)
        j = [self._index[gene] for gene in known]
        w = np.array([weights[gene] for gene in known])
        fresh = (len(weights) - len(known)) * self.scales.effect**2
        variance = float(w @ self.covariance[np.ix_(j, j)] @ w) + fresh
        n = int(self.counts[j].min()) if known and len(known) == len(weights) else 0
        return Effect(float(w @ self.mean[j]), math.sqrt(max(variance, 1e-12 * self.scales.noise**2)), n)


def fit(design: Design, scales: Scales) -> Credit:
    """Return the posterior at these scales.

    Blocks are independent given the effects, so each seed's slopes and block are integrated out by themselves: an
    (n_s, n_s) factor per seed and one (p, p) factor. Robinson (1991), "That BLUP is a good thing".
    """
    solved = _solve(design, scales.effect / scales.noise, scales.slope / scales.noise)
    counts = sum((block.x.sum(axis=0) for block in design.blocks), np.zeros(len(design.genes)))
    return Credit(scales, design.genes, solved.mean, np.linalg.inv(solved.precision) * scales.noise**2, counts)


def estimate(design: Design, start: Scales, noise: float | None) -> Scales:
    """Return the scales of highest restricted marginal likelihood, searched from `start` within bounds.

    noise: the residual sd that null genes measured, in the score's unit, or None; it counts as NOISE_WEIGHT
    evaluations. The search is over two log ratios, the noise is profiled out. The likelihood is the one of
    Patterson and Thompson (1971), "Recovery of inter-block information when block sizes are unequal".
    """
    if not design.genes or design.freedom < 1:
        return start
    ratios = _descend(
        lambda ratios: _cost(design, ratios, noise), np.log([start.effect, start.slope]) - np.log(start.noise)
    )
    effect, slope = (float(ratio) for ratio in np.exp(ratios))
    residual = _profiled_noise(design, _solve(design, effect, slope), noise)
    return Scales(residual, effect * residual, slope * residual)


@dataclass(frozen=True)
class _Solved:
    """A fit in units of the noise: posterior mean and precision, and the pieces of the likelihood."""

    mean: Array
    precision: Array
    log_det: float
    squares: float


def _block(rows: Sequence[Observation], index: Mapping[str, int]) -> Block:
    x = np.zeros((len(rows), len(index)))
    places = [(i, index[gene]) for i, row in enumerate(rows) for gene in row.genes]
    if places:
        x[tuple(np.array(places).T)] = 1.0
    return Block(x, np.array([row.gain for row in rows]))


def _solve(design: Design, effect: float, slope: float) -> _Solved:
    p = len(design.genes)
    precision, target = (np.eye(p) - SHARED_MEAN / (1 + SHARED_MEAN * p)) / effect**2, np.zeros(p)
    log_det, squares = 2 * p * math.log(effect) + math.log1p(SHARED_MEAN * p), 0.0
    for block in design.blocks:
        information, score, block_log_det, block_squares = _integrate(block, slope)
        precision += information
        target += score
        log_det += block_log_det
        squares += block_squares
    mean = np.linalg.solve(precision, target)
    log_det += float(np.linalg.slogdet(precision)[1])
    return _Solved(mean, precision, log_det, max(squares - float(target @ mean), 0.0))


def _integrate(block: Block, slope: float) -> tuple[Array, Array, float, float]:
    """Return what one seed says of the effects, its slopes and its flat block integrated out."""
    n = len(block.y)
    factor = np.linalg.cholesky(np.eye(n) + slope**2 * block.overlap)
    white = np.linalg.solve(factor, np.column_stack([block.x, block.y, np.ones(n)]))
    x, y, one = white[:, :-2], white[:, -2], white[:, -1]
    weight = float(one @ one)
    x = x - np.outer(one, one @ x) / weight
    y = y - one * (float(one @ y) / weight)
    return x.T @ x, x.T @ y, 2 * float(np.log(np.diag(factor)).sum()) + math.log(weight), float(y @ y)


def _profiled_noise(design: Design, solved: _Solved, noise: float | None) -> float:
    known = 0.0 if noise is None else NOISE_WEIGHT
    squares = max(solved.squares, TINY * float(sum(np.abs(block.y).sum() for block in design.blocks)) ** 2)
    return math.sqrt((squares + known * (noise or 0.0) ** 2) / (design.freedom + known))


def _cost(design: Design, ratios: Array, noise: float | None) -> float:
    """Return minus the log posterior of two log ratios: restricted likelihood and a weak prior on both."""
    effect, slope = float(ratios[0]), float(ratios[1])
    solved = _solve(design, math.exp(effect), math.exp(slope))
    residual = _profiled_noise(design, solved, noise)
    freedom = design.freedom + (0.0 if noise is None else NOISE_WEIGHT)
    prior = (effect / EFFECT_DOUBT) ** 2 / 2 + (slope - effect - math.log(TYPICAL_SLOPE)) ** 2 / 2
    return solved.log_det / 2 + freedom * math.log(residual) + prior


def _descend(cost: Callable[[Array], float], start: Array) -> Array:
    """Return a minimum within bounds by compass search: step along an axis while that helps, then by smaller steps."""
    low, high = np.log([EFFECT_RATIO, SLOPE_RATIO]).T
    best = np.clip(start, low, high)
    value = cost(best)
    for step in SEARCH_STEPS:
        better = True
        while better:
            around = [np.clip(best + step * axis, low, high) for axis in COMPASS]
            costs = [cost(point) for point in around]
            nearest = int(np.argmin(costs))
            better = costs[nearest] < value - 1e-6
            if better:
                best, value = around[nearest], costs[nearest]
    return best
