"""Importing: a commit becomes genes that each work alone and together make it exactly; they wait in a run directory.

Mistake
  +- NoGene   a commit with the trailer of a gene that cannot be one
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolve.changes import new_modes, read_change
from evolve.git import Commit, Repository
from evolve.grounds import Ground, ground, ground_of_run
from evolve.inbox import offer
from evolve.messages import TRAILER
from evolve.run_directory import RunDirectory
from evolve.session import establish
from evolve.verifying import Tree, compiles, outcomes, smoke_test
from population.carving import Carved, carve, laid
from population.compose import conflicts
from population.genes import Category, Gene, Origin, gene_from_edits, lay
from population.merging import Pieces, settle
from population.mistakes import Mistake
from population.paths import fits
from population.splitting import is_comment, split, together
from population.transplant import transplant


class NoGene(Mistake):
    """A commit with the trailer of a gene that cannot be one."""

    def __init__(self, commit: Commit, why: Mistake) -> None:
        super().__init__(f"commit {commit.commit_id[:12]} ({commit.subject}) cannot be a gene of the base: {why}")


Say = Callable[[str], None]


@dataclass(frozen=True)
class Imported:
    """What an import found, and the run where it waits."""

    run: RunDirectory
    genes: tuple[Gene, ...]
    conflicts: tuple[tuple[str, str], ...]
    set_aside: tuple[Mapping[str, Any], ...]  # gene_id (None for what is no gene) and title
    exact: bool  # genes and comments together make every file as the commit has it
    verified: bool  # each gene passed the first steps of a run alone
    runs: bool  # the run's target says how to score the genes

    def as_json(self) -> dict[str, Any]:
        """Return this as programs read it."""
        return {
            "run": str(self.run.path),
            "genes": [{"gene_id": gene.gene_id, "title": gene.title} for gene in self.genes],
            "conflicts": [list(pair) for pair in self.conflicts],
            "set_aside": list(self.set_aside),
            "exact": self.exact,
            "verified": self.verified,
        }

    def lines(self) -> list[str]:
        """Return this as people read it."""
        aside = [f"              {row['title']}" for row in self.set_aside]
        bare = f"evolve export {self.run.shown}, or import again with --target, which says how to score the genes"
        return [
            f"run           {self.run.shown}",
            f"genes         {len(self.genes)}, {'each ran alone' if self.verified else 'not run'}",
            *(f"              {gene.gene_id[:8]}  {gene.title}" for gene in self.genes),
            *(f"conflict      {a[:8]} and {b[:8]}" for a, b in self.conflicts),
            *([f"set aside     {len(aside)}", *aside] if aside else []),
            f"exact         {'yes' if self.exact else 'no'}: together they make the files of the commit"
            f"{'' if self.exact else ' but for what is named above'}",
            f"next          {f'evolve resume {self.run.shown}' if self.runs else bare}",
        ]


def import_commit(
    repo: Path, revision: str, target: str | None, run_dir: Path | None, verify: bool, caches: Path, say: Say
) -> Imported:
    """Split what a commit or BASE..TIP changes into genes that wait in a run, a new one unless run_dir holds one.

    Commits of a range that carry the trailer Evolve-Gene are one gene each, and then the others are set aside.
    """
    change = read_change(Repository.open(repo), revision)
    old = RunDirectory(run_dir.absolute()) if run_dir and (run_dir / "run.toml").is_file() else None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        land = ground_of_run(change, old) if old else ground(change, folder / "base", target)
        named = [commit for commit in change.commits if TRAILER in commit.trailers]
        verified = verify and bool(land.run.target.rungs) and not named
        if verify and not verified:
            say(_unverified(named))
        found = _by_commit(land, named) if named else _by_splitting(land, folder if verified else None, caches, say)
        run = old or _establish(land, run_dir, found)
    for gene_id, birth in offer(run, found.genes).items():
        say(f"already       in the run as {gene_id} (birth {birth}), and not born again")
    aside, exact, runs = _set_aside(land, found, named), _is_exact(land, found), bool(land.run.target.rungs)
    return Imported(run, found.genes, _pairs(found), aside, exact, verified, runs)


def _unverified(named: Sequence[Commit]) -> str:
    why = f"they carry the trailer {TRAILER}" if named else "no --target is named that could run them"
    return f"verified      nothing was run: {why}"


# splitting


def _by_splitting(land: Ground, scratch: Path | None, caches: Path, say: Say) -> Carved:
    """Split a change; with a scratch folder, each gene is also run alone."""
    pieces = split(land.base, land.files)

    def tree(group: Pieces) -> dict[str, str]:
        return laid(land.base, pieces, group)

    def parse(trees: Sequence[Tree]) -> list[bool]:
        return compiles(land.base.files, land.files, trees)

    groups = settle(together(pieces), lambda sets: outcomes(sets, tree, parse))
    if scratch and groups:
        groups = _settled_by_running(land, groups, tree, scratch, caches, say)
    subject = f"Imported from commit {land.change.tip.commit_id[:12]}: {land.change.tip.subject}"
    return carve(land.base, land.files, pieces, groups, subject)


def _settled_by_running(
    land: Ground,
    groups: Sequence[Pieces],
    tree: Callable[[Pieces], dict[str, str]],
    scratch: Path,
    caches: Path,
    say: Say,
) -> tuple[Pieces, ...]:
    with smoke_test(land.run.target, scratch / "smoke", land.folder, caches, say) as smoke:
        smoke.check(land.base.files, tree(frozenset[int]().union(*groups)))

        def test(sets: Sequence[Pieces]) -> dict[Pieces, bool]:
            say(f"running       {len(sets)} sets of changes, each alone")
            return outcomes(sets, tree, smoke.passes)

        return settle(groups, test)


# commits that are genes already


def _by_commit(land: Ground, named: Sequence[Commit]) -> Carved:
    """Return the gene of each commit, located on the base."""
    genes = [_gene_of(land, commit) for commit in named]
    aside = tuple(gene for gene in genes if _is_comment(land, gene))
    return Carved(tuple(gene for gene in dict.fromkeys(genes) if gene not in aside), aside)


def _gene_of(land: Ground, commit: Commit) -> Gene:
    change, editable = land.change, land.run.target.editable
    sides = [change.repository.entries(name) for name in (commit.parents[0], commit.commit_id)]
    touched = {path for path in sides[0].keys() | sides[1].keys() if sides[0].get(path) != sides[1].get(path)}
    before, after = (change.texts(side, (path for path in touched if fits(path, editable))) for side in sides)
    try:
        return gene_from_edits(
            land.base,
            transplant(land.base, before, after),
            title=commit.subject,
            hypothesis=f"Imported from commit {commit.commit_id[:12]}: {commit.subject}",
            category=Category.OTHER,
            origin=Origin.IMPORT,
        )
    except Mistake as mistake:
        raise NoGene(commit, mistake) from mistake


def _is_comment(land: Ground, gene: Gene) -> bool:
    return all(is_comment(land.base.files.get(edit.path, ""), edit) for edit in gene.edits)


# what came of it


def _establish(land: Ground, run_dir: Path | None, found: Carved) -> RunDirectory:
    """Make a run directory whose lineage knows the genes."""
    with establish(run_dir, land.run, land.folder) as (run, lineage):
        lineage.record_genes((*found.genes, *found.comments))
        lineage.record_conflicts(_pairs(found))
        lineage.set_status("stopped")
    return run


def _pairs(found: Carved) -> tuple[tuple[str, str], ...]:
    return tuple((clash.gene_a, clash.gene_b) for clash in conflicts((*found.genes, *found.comments)))


def _set_aside(land: Ground, found: Carved, named: Sequence[Commit]) -> tuple[dict[str, Any], ...]:
    """Return what is bred by nobody: comments, files that no gene can hold, commits without a gene among such with."""
    comments = [{"gene_id": gene.gene_id, "title": gene.title} for gene in found.comments]
    modes = new_modes(land.change)
    outside = {path: f"{path}: not an editable text file" for path in land.outside}
    files = [{"gene_id": None, "title": title} for _, title in sorted({**outside, **modes}.items())]
    others = [c for c in land.change.commits if named and c not in named]
    commits = [{"gene_id": None, "title": f"commit {c.commit_id[:12]}, no gene: {c.subject}"} for c in others]
    return (*comments, *files, *commits)


def _is_exact(land: Ground, found: Carved) -> bool:
    genes = (*found.genes, *found.comments)
    held = not land.outside and not new_modes(land.change)
    return held and not conflicts(genes) and lay(land.base, genes) == land.files
