"""Verifying pieces of a commit by running them: the first steps of the target's cheapest rung, each set alone.

Mistake
  +- CommitFails   all pieces together fail, so nothing can be said of each
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from evolve.errors import OnlyFailures
from evolve.hardware import usable_gpus
from evolve.settings import workers_for
from fitness.evaluation import Evaluation, Executor, Job
from fitness.pool import LocalPool
from fitness.prepare import prepare
from fitness.target import Rung, Target
from population.compose import syntax_error
from population.genes import tree_id
from population.individuals import Genotype, Status
from population.merging import Pieces
from population.mistakes import Mistake

SMOKE = 16  # the share of a rung's tokens that its first steps are: one in so many
TICK_S = 60.0

Tree = Mapping[str, str]


class CommitFails(Mistake):
    """All pieces together fail, so nothing can be said of each."""

    def __init__(self, how: str, log_tail: str) -> None:
        super().__init__(
            f"the commit as a whole ends as {how} in the first steps, so its pieces cannot be verified; mend it, or "
            f"split it with --no-verify. Its last lines:\n{log_tail.strip() or '(no output)'}"
        )


def smoke(rung: Rung) -> Rung:
    """Return the first steps of a rung: a share of its tokens where it counts them, else all of it, on one seed."""
    tokens, eval_tokens = (n and max(1, n // SMOKE) for n in (rung.tokens, rung.eval_tokens))
    return replace(rung, tokens=tokens, eval_tokens=eval_tokens, seeds=rung.seeds[:1])


def compiles(before: Tree, after: Tree, trees: Iterable[Tree]) -> list[bool]:
    """Say of each tree between two others whether what it changes parses; files that do not in the end are left out."""
    judged = [path for path, text in after.items() if text != before.get(path) and syntax_error({path: text}) is None]
    return [
        syntax_error({p: tree[p] for p in judged if p in tree and tree[p] not in (before.get(p), after[p])}) is None
        for tree in trees
    ]


class Smoke:
    """Runs trees on the smoke rung of an executor, each tree once."""

    def __init__(self, target: Target, executor: Executor) -> None:
        self._target = target
        self._rung = target.rungs[0]
        self._executor = executor

    def check(self, base: Tree, whole: Tree) -> None:
        """Raise OnlyFailures or CommitFails if the base or the whole commit does not pass."""
        before, after = self.run([base, whole])
        if before.status is not Status.OK:
            raise OnlyFailures(self._target.name, self._rung.name, before.status.value, before.log_tail)
        if after.status is not Status.OK:
            raise CommitFails(after.status.value, after.log_tail)

    def passes(self, trees: Sequence[Tree]) -> list[bool]:
        """Say of each tree whether it passes."""
        return [ended.status is Status.OK for ended in self.run(trees)]

    def run(self, trees: Sequence[Tree]) -> list[Evaluation]:
        """Return how each tree ended."""
        names = [tree_id(tree) for tree in trees]
        for name, tree in dict(zip(names, trees, strict=True)).items():
            self._executor.submit(Job(name, Genotype.of([name]), tree, "", self._rung.name, self._rung.seeds[0]))
        ended: dict[str, Evaluation] = {}
        while len(ended) < len(set(names)):
            ended |= {e.evaluation_id: e for e in self._executor.wait(TICK_S)}
        return [ended[name] for name in names]


@contextmanager
def smoke_test(target: Target, folder: Path, base: Path, caches: Path, say: Callable[[str], None]) -> Generator[Smoke]:
    """Open an executor for the first steps of a target whose base is a directory; `folder` takes what runs leave."""
    short = replace(target, rungs=(smoke(target.rungs[0]),))
    caches.mkdir(parents=True, exist_ok=True)
    data = prepare(short, base, caches / "data", say)
    gpus = usable_gpus(target.gpu_memory_gb)
    pool = LocalPool(short, folder, base, data, workers=workers_for(short), gpus=gpus, compiled=caches / "compiled")
    try:
        yield Smoke(short, pool)
    finally:
        pool.close()


def outcomes(
    sets: Sequence[Pieces], tree_of: Callable[[Pieces], Tree], test: Callable[[Sequence[Tree]], Sequence[bool]]
) -> dict[Pieces, bool]:
    """Return what a test says of sets of pieces."""
    return dict(zip(sets, test([tree_of(pieces) for pieces in sets]), strict=True))
