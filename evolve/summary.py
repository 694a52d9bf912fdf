"""What a run says at its end: noise floor, best patch set with its effect, what to try next. Only text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from evolve.engine import Confirmation, Forecast
from fitness.evaluation import Evaluation
from fitness.target import Target
from population.belief import GenePosterior
from population.contrasts import Contrast, NoiseFloor, Spread
from population.genes import BaseTree, Gene, render_diff
from population.individuals import Status


def tally(evaluations: Iterable[Evaluation], slots: int, seconds: float, share: float) -> list[str]:
    """Return how many evaluations ended how, and what this process spent: `share` of slots x seconds was training."""
    ended = list(evaluations)
    counts = {status: sum(e.status is status for e in ended) for status in Status}
    endings = ", ".join(f"{n} {status.value}" for status, n in counts.items() if n)
    cached = sum(e.source_evaluation_id is not None for e in ended)
    served = f", {cached} of them from the cache" if cached else ""
    return [
        f"evaluations   {len(ended)} ({endings}{served})",
        f"time          {seconds:.0f} s with {slots} workers, {share:.0%} of it training",
    ]


def forecast_line(forecast: Forecast, metric: str) -> str:
    """Return what the rest of the run will take."""
    effect = (
        "" if forecast.detectable is None else f", effects from about {forecast.detectable:.4f} {metric} detectable"
    )
    return f"forecast      about {forecast.evaluations} evaluations, {60 * forecast.hours:.0f} minutes, 0 USD{effect}"


def next_lines(run: str, best: str | None) -> list[str]:
    """Return the commands to try next."""
    look = [f"evolve genes {run}", f'evolve sql --run {run} "FROM leaderboard LIMIT 5"', f"evolve status {run} --json"]
    if best:
        look.append(f"evolve show {best} --run {run}")
    return ["next          " + look[0], *(f"              {command}" for command in look[1:])]


def noise_lines(floor: NoiseFloor, metric: str) -> list[str]:
    """Return the noise floor, each number with its n and its 95 % interval."""
    lines = [f"noise floor   {_spread('seed sd, the base over seeds', floor.baseline, metric)}"]
    lines.append(f"              {_spread('paired sd, null genes', floor.null, metric)}")
    return lines


def champion_lines(
    confirmation: Confirmation, genes: Mapping[str, Gene], posterior: Mapping[str, GenePosterior], target: Target
) -> list[str]:
    """Return the champion's genes with their posterior gain, its confirmed effect, and what that allows one to say."""
    carried = [genes[name] for name in confirmation.champion.genes]
    if not carried:
        return ["best          the base: no patch set was believed better, nothing beat the noise"]
    lines = [f"best          {len(carried)} gene{'s' * (len(carried) > 1)}"]
    for gene in sorted(carried, key=lambda gene: -posterior[gene.gene_id].mean):
        held = posterior[gene.gene_id]
        lines.append(
            f"              {gene.gene_id[:8]}  {gene.title}  (gain {held.mean:+.4f} +- {held.sd:.4f}, n={held.n})"
        )
    return [*lines, *_confirmed(confirmation, target)]


def _confirmed(confirmation: Confirmation, target: Target) -> list[str]:
    contrast = confirmation.contrast
    if confirmation.failures:
        return [f"verdict       not an improvement: {confirmation.failures} of its runs on fresh seeds failed"]
    if contrast is None:
        return ["verdict       open: fewer than two fresh seeds were scored, so there is no interval"]
    interval = f"95 % interval {contrast.ci_low:+.4f} to {contrast.ci_high:+.4f}"
    effect = f"{contrast.estimate:+.4f} {target.metric.name}, {interval}"
    has_lockbox = any("{split}" in word for word in target.judge)
    honesty = "" if target.judge else " (as the target itself reports its score)"
    lockbox = f" and the lockbox split ({confirmation.lockbox_uses} uses)" if has_lockbox else ""
    return [
        f"effect        {effect}",
        f"              best minus base on {contrast.n} fresh seeds{lockbox}",
        f"verdict       {verdict(contrast, target.metric.direction)}{honesty}",
    ]


def verdict(contrast: Contrast, direction: str) -> str:
    """Return what a confirmed contrast allows one to say, by its own interval."""
    low, high = (
        (contrast.ci_low, contrast.ci_high) if direction == "maximize" else (-contrast.ci_high, -contrast.ci_low)
    )
    if low > 0:
        return "an improvement: the interval on fresh seeds excludes zero"
    if high < 0:
        return "worse than the base on fresh seeds: the search was fooled, nothing beat the noise"
    return "nothing beat the noise: the interval on fresh seeds includes zero"


def diff_lines(confirmation: Confirmation, base: BaseTree, genes: Mapping[str, Gene]) -> list[str]:
    """Return the champion as a unified diff against the base."""
    return render_diff(base, [genes[name] for name in confirmation.champion.genes]).splitlines()


def _spread(what: str, spread: Spread | None, metric: str) -> str:
    if spread is None:
        return f"{what}: not measured"
    interval = f"95 % interval {spread.sd_low:.2g} to {spread.sd_high:.2g}"
    return f"{what}: {spread.sd:.2g} {metric} (n={spread.n}, {interval})"
