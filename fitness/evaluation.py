"""The values that cross fitness: a Job goes in, an Evaluation comes out, an Executor is in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from population.individuals import Genotype, Result, Status


@dataclass(frozen=True)
class Job:
    """One evaluation to be run: a patched tree on a rung with a seed. `files` is the whole patched editable tree."""

    evaluation_id: str
    genotype: Genotype
    files: Mapping[str, str]
    patch: str  # unified diff against the base, for people
    rung: str
    seed: int
    split: str = "val"
    replicate: int = 0
    use_cache: bool = True


@dataclass(frozen=True)
class Point:
    """One point of a training curve."""

    step: int
    tokens: int | None
    seconds: float | None
    train_loss: float


@dataclass(frozen=True)
class Evaluation:
    """One genotype, one rung, one seed, one outcome: the columns of the lineage's table of that name."""

    evaluation_id: str
    genotype: Genotype
    rung: str
    seed: int
    split: str
    replicate: int
    status: Status
    score: float | None = None
    depth: int | None = None
    train_seconds: float | None = None
    wall_seconds: float = 0.0
    tokens: int | None = None
    flops: float | None = None
    peak_memory_bytes: int | None = None
    n_params: int | None = None
    device: str = "cpu"
    kernel: str | None = None  # of attention, as the candidate says
    sandbox: str = "none"
    integrity: str = "self_reported"  # or "judged"
    source_evaluation_id: str | None = None  # set on a cache hit
    started_at: float = 0.0  # unix seconds
    log_tail: str = ""
    curve: tuple[Point, ...] = ()  # at most 200 points

    @property
    def result(self) -> Result:
        """Return the part of this that the population is told."""
        return Result(self.genotype, self.rung, self.seed, self.status, self.score, self.split, self.replicate)


class Executor(Protocol):
    """Runs jobs in parallel. One thread owns it; it never raises for what a candidate does."""

    @property
    def slots(self) -> int:
        """How many jobs run at once."""
        ...

    def submit(self, job: Job) -> None:
        """Queue a job; jobs start in the order they were submitted."""
        ...

    def wait(self, timeout_s: float) -> Sequence[Evaluation]:
        """Return evaluations that ended since the last call, waiting at most timeout_s for the first."""
        ...

    def close(self) -> None:
        """Kill what runs and free everything. Idempotent; what was running is never reported."""
        ...
