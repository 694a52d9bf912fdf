"""Dispatch: which evaluations are wanted, which are recorded, which are running. Recorded before anybody sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from evolve.lineage import Lineage
from fitness.evaluation import Evaluation, Executor, Job
from population.compose import compose
from population.genes import BaseTree, Gene, render_diff, tree_id
from population.individuals import Genotype


class Dispatch:
    """Turns 'this genotype on that rung with this seed' into exactly one recorded evaluation.

    An evaluation's id is a hash of what it is, so wanting the same one twice costs nothing, and after a kill the
    evaluations that were in flight are run again under their old ids.
    """

    def __init__(
        self, run_id: str, base: BaseTree, genes: Mapping[str, Gene], executor: Executor, lineage: Lineage
    ) -> None:
        self._run_id = run_id
        self._base = base
        self._genes = genes
        self._executor = executor
        self._lineage = lineage
        self._recorded: dict[str, Evaluation] = dict(lineage.evaluations())
        self._running: set[str] = set()
        self._seen: set[str] = set()
        self._paid: list[Evaluation] = []

    @property
    def hungry(self) -> bool:
        """Return whether the executor would soon be idle: at most two jobs wait behind those that run."""
        return len(self._running) < self._executor.slots + 2

    @property
    def slots(self) -> int:
        """Return how many evaluations run at once."""
        return self._executor.slots

    @property
    def idle(self) -> bool:
        """Return whether nothing is running."""
        return not self._running

    @property
    def paid(self) -> list[Evaluation]:
        """Return the evaluations that were run by this process."""
        return self._paid

    @property
    def recorded(self) -> int:
        """Return how many evaluations of the run are recorded."""
        return len(self._recorded)

    def uses(self, split: str) -> int:
        """Return how many recorded evaluations looked at a split."""
        return sum(evaluation.split == split for evaluation in self._recorded.values())

    def tree_id(self, genotype: Genotype) -> str:
        """Return the hash of a genotype's patched tree."""
        return tree_id(compose(self._base, [self._genes[gene_id] for gene_id in genotype.genes]))

    @property
    def finished(self) -> list[Evaluation]:
        """Return every evaluation of the run that was wanted since this process began and has ended."""
        return [self._recorded[name] for name in self._seen if name in self._recorded]

    def want(self, genotype: Genotype, rung: str, seed: int, split: str = "val", use_cache: bool = True) -> str:
        """Return the id of this evaluation; submit it unless it is recorded or running."""
        name = evaluation_id(self._run_id, genotype, rung, seed, split)
        self._seen.add(name)
        if name not in self._recorded and name not in self._running:
            self._running.add(name)
            self._executor.submit(self._job(name, genotype, rung, seed, split, use_cache))
        return name

    def results(self, names: Iterable[str]) -> tuple[Evaluation, ...] | None:
        """Return these evaluations in the order given, or None while one of them is still running."""
        ended = [self._recorded.get(name) for name in names]
        found = tuple(evaluation for evaluation in ended if evaluation is not None)
        return found if len(found) == len(ended) else None

    def wait(self, timeout_s: float) -> int:
        """Record whatever ends within timeout_s; return how many that were."""
        ended = list(self._executor.wait(timeout_s))
        if ended:
            self._lineage.record_evaluations(ended)
        self._paid.extend(ended)
        for evaluation in ended:
            self._recorded[evaluation.evaluation_id] = evaluation
            self._running.discard(evaluation.evaluation_id)
        return len(ended)

    def _job(self, name: str, genotype: Genotype, rung: str, seed: int, split: str, use_cache: bool) -> Job:
        genes = [self._genes[gene_id] for gene_id in genotype.genes]
        files = compose(self._base, genes)
        return Job(name, genotype, files, render_diff(self._base, genes), rung, seed, split, use_cache=use_cache)


def evaluation_id(run_id: str, genotype: Genotype, rung: str, seed: int, split: str) -> str:
    """Return 16 hex digits that name this evaluation within its run."""
    return hashlib.sha256(f"{run_id} {genotype.genotype_id} {rung} {seed} {split}".encode()).hexdigest()[:16]
