"""Rows of the lineage that no other package owns: runs, posteriors, calls to a language model, measured effects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """What a run directory is a run of."""

    run_id: str
    target: str
    metric: str
    direction: str  # "minimize" or "maximize"
    rungs: tuple[str, ...]  # cheapest first; the last one counts
    config: Mapping[str, object]  # all settings, resolved; must be JSON
    seed: int
    git_commit: str | None = None
    machine: str | None = None
    status: str = "running"


@dataclass(frozen=True)
class Posterior:
    """What all evaluations on a rung say about one gene. `mean` and `sd` are of its gain: positive is better."""

    rung: str
    gene_id: str
    mean: float
    sd: float
    p_positive: float
    n: int
    state: str


@dataclass(frozen=True)
class LlmCall:
    """One call to a language model, failed ones included."""

    call_id: str
    individual_id: str | None
    purpose: str
    model: str
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    usd: float
    seconds: float
    status: str
    error: str | None = None


@dataclass(frozen=True)
class Effect:
    """One estimate of an analysis, in the unit of the score."""

    kind: str
    gene_a: str | None
    gene_b: str | None
    estimate: float | None
    se: float | None
    ci_low: float | None
    ci_high: float | None
    n: int | None
    p_value: float | None = None
    q_value: float | None = None
    verdict: str | None = None
    depth: int | None = None
    rung: str | None = None
    design: str | None = None
