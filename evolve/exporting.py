"""Exporting: the genes of a run as git commits, one each, on a new branch or as files for `git am`.

Mistake
  +- OneTarget         neither a branch in a repository nor a folder for patches, or both
  +- NothingToExport   a run without a champion and without genes of people
  +- NotTheBase        a repository that does not hold the base of the run
  +- PatchesThere      a folder that holds patches already
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolve.git import Repository
from evolve.lineage import Reader, read
from evolve.messages import message
from evolve.run_directory import RunDirectory
from evolve.views import find_gene
from population.compose import compose
from population.genes import BaseTree, Gene, lay
from population.mistakes import Mistake

CHAMPION = "SELECT gene_id FROM runs JOIN genotype_genes ON champion = genotype_id ORDER BY gene_id"
BY_PEOPLE = "SELECT gene_id FROM genes WHERE origin IN ('import', 'human') ORDER BY genes.rowid"
RUN = "SELECT run_id, metric, direction, git_commit, rungs[-1] AS rung FROM runs"
MEASURED = """
SELECT gene_a AS gene_id, estimate, ci_low, ci_high, n FROM effects WHERE kind = 'in_stack'
QUALIFY analysis_at = max(analysis_at) OVER (PARTITION BY gene_a)
"""
BELIEVED = "SELECT p.gene_id, mean, sd, n FROM gene_posteriors AS p JOIN runs ON p.rung = rungs[-1]"
EVIDENCE = """
SELECT gene_id, list(evaluation_id ORDER BY evaluation_id) AS ids
FROM genotype_genes JOIN evaluations USING (genotype_id) JOIN runs USING (run_id)
WHERE evaluations.status = 'ok' AND rung = rungs[-1] GROUP BY gene_id
"""


class OneTarget(Mistake):
    """Neither a branch nor patches, or both."""

    def __init__(self) -> None:
        super().__init__("say where to: either --branch NAME with --repo DIR, or --patches DIR")


class NothingToExport(Mistake):
    """A run without a champion and without genes of people."""

    def __init__(self, run: Path) -> None:
        super().__init__(
            f"{run} has no champion yet, and no gene that was imported or injected, so there is nothing to export; "
            "name genes with --genes, or resume the run"
        )


class NotTheBase(Mistake):
    """A repository that does not hold the base of the run."""

    def __init__(self, repo: Path, commit: str, path: str) -> None:
        super().__init__(
            f"commit {commit[:12]} of {repo} does not hold the base of the run: {path} is another there; check out the "
            "commit that the run began with, or export with --patches"
        )


class PatchesThere(Mistake):
    """A folder that holds patches already."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} holds patches already, and `git am` would take them too; give --patches another")


@dataclass(frozen=True)
class Stack:
    """Genes in the order of their commits, each with its message."""

    base: BaseTree
    genes: tuple[Gene, ...]
    messages: tuple[str, ...]
    began_at: str | None  # the commit that the run says it began with


@dataclass(frozen=True)
class Exported:
    """A commit that was written."""

    gene_id: str
    title: str
    commit: str


@dataclass(frozen=True)
class Export:
    """What an export wrote: commits on a branch, or files."""

    branch: str | None
    commits: tuple[Exported, ...]
    patches: tuple[Path, ...]

    def as_json(self) -> dict[str, Any]:
        """Return this as programs read it."""
        commits = [{"gene_id": c.gene_id, "title": c.title, "commit": c.commit} for c in self.commits]
        return {"branch": self.branch, "commits": commits, "patches": [str(path) for path in self.patches]}

    def lines(self) -> list[str]:
        """Return this as people read it."""
        head = f"branch        {self.branch}, {len(self.commits)} commits" if self.branch else "patches"
        commits = [f"              {c.commit[:12]}  {c.title}" for c in self.commits if self.branch]
        return [head, *commits, *(f"              {path}" for path in self.patches)]


def export(
    run: RunDirectory, branch: str | None, repo: Path | None, patches: Path | None, wanted: Sequence[str] = ()
) -> Export:
    """Write the genes of a run, a branch in a repository or files for `git am`."""
    if (branch is None) == (patches is None) or (branch is None) != (repo is None):
        raise OneTarget
    stack = stack_of(run.path, wanted)
    if patches is not None:
        commits, files = export_patches(stack, patches)
        return Export(None, tuple(commits), tuple(files))
    assert branch is not None
    assert repo is not None
    return Export(branch, tuple(export_branch(stack, repo, branch)), ())


def stack_of(run_dir: Path, wanted: Sequence[str] = ()) -> Stack:
    """Return the wanted genes of a run, or its champion's, or else those of people, in order and with messages."""
    with read(run_dir) as reader:
        known = reader.genes()
        chosen = [known[gene_id] for gene_id in _chosen(reader, run_dir, wanted)]
        compose(reader.base, chosen, known)
        (run,) = reader.dicts(RUN)
        said = {row["gene_id"]: row for row in reader.dicts(BELIEVED)}
        measured = {row["gene_id"]: row for row in reader.dicts(MEASURED)}
        evidence = {row["gene_id"]: row["ids"] for row in reader.dicts(EVIDENCE)}
        sign = 1 if run["direction"] == "maximize" else -1
        gains = {gene_id: row["mean"] for gene_id, row in said.items()}
        gains |= {gene_id: sign * row["estimate"] for gene_id, row in measured.items() if row["estimate"] is not None}
        genes = in_order(chosen, gains, known)
        messages = tuple(
            message(gene, run, measured.get(gene.gene_id), said.get(gene.gene_id), evidence.get(gene.gene_id, []))
            for gene in genes
        )
        return Stack(reader.base, tuple(genes), messages, run["git_commit"])


def in_order(genes: Iterable[Gene], gains: Mapping[str, float], known: Mapping[str, Gene]) -> list[Gene]:
    """Return genes so that what a gene requires comes before it, and else the larger gain first; unknown gains last."""
    waiting = sorted(genes, key=lambda gene: -gains.get(gene.gene_id, float("-inf")))
    ordered: list[Gene] = []
    while waiting:
        ready = next(g for g in waiting if not any(_provides(other, g, known) for other in waiting if other is not g))
        ordered.append(ready)
        waiting.remove(ready)
    return ordered


def export_branch(stack: Stack, repo: Path, branch: str) -> list[Exported]:
    """Write a stack as commits on a new branch of a repository; nothing else there changes."""
    repository = Repository.open(repo)
    repository.check_new_branch(branch)
    root, commit = _start(stack, repository)
    written = _write(stack, root, commit)
    repository.create_branch(branch, written[-1].commit)
    return written


def export_patches(stack: Stack, folder: Path) -> tuple[list[Exported], list[Path]]:
    """Write a stack as files for `git am`, numbered in order; the commits are those that they would be at the base."""
    if folder.is_dir() and any(folder.glob("*.patch")):
        raise PatchesThere(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        repository = Repository.scratch(Path(scratch))
        contents = {path: text.encode() for path, text in stack.base.files.items()}
        start = repository.write_commit(None, contents, "The base of the run.\n")
        written = _write(stack, repository, start)
        return written, repository.format_patches(start, written[-1].commit, folder.absolute())


def _chosen(reader: Reader, run_dir: Path, wanted: Sequence[str]) -> list[str]:
    if wanted:
        return [find_gene(reader, name) for name in dict.fromkeys(wanted)]
    for question in (CHAMPION, BY_PEOPLE):
        if rows := reader.dicts(question):
            return [row["gene_id"] for row in rows]
    raise NothingToExport(run_dir)


def _provides(other: Gene, gene: Gene, known: Mapping[str, Gene]) -> bool:
    """Say whether a gene is, or is a later allele of, one that another requires."""
    line: Gene | None = other
    while line is not None and line.gene_id not in gene.requires:
        line = known.get(line.allele_of) if line.allele_of else None
    return line is not None


def _start(stack: Stack, repository: Repository) -> tuple[Repository, str]:
    """Return a commit that holds the base, and the repository seen from the directory where it does."""
    texts = stack.base.files
    blobs = dict(zip(texts, repository.blob_ids([text.encode() for text in texts.values()]), strict=True))
    began = repository.known(stack.began_at) if stack.began_at else None
    head = repository.commit("HEAD").commit_id
    for commit in filter(None, (began, head)):
        for root in _roots(repository, commit, blobs):
            if not _others(root, commit, blobs):
                return root, commit
    raise NotTheBase(repository.path, head, _others(repository, head, blobs)[0])


def _others(root: Repository, commit: str, blobs: Mapping[str, str]) -> list[str]:
    """Return the files of the base that a commit does not hold as they are."""
    entries = root.entries(commit)
    return [path for path, blob in blobs.items() if path not in entries or entries[path].blob != blob]


def _roots(repository: Repository, commit: str, blobs: Mapping[str, str]) -> Iterator[Repository]:
    """Yield the repository as seen from where it is and from each directory that has the base's first file."""
    yield repository
    path, blob = next(iter(blobs.items()))
    for name, entry in repository.entries(commit).items():
        if entry.blob == blob and name.endswith(f"/{path}"):
            yield repository.below(name.removesuffix(path))


def _write(stack: Stack, repository: Repository, start: str) -> list[Exported]:
    """Store a commit for each gene, one on the other."""
    written: list[Exported] = []
    for k, (gene, words) in enumerate(zip(stack.genes, stack.messages, strict=True), 1):
        files = lay(stack.base, stack.genes[:k])
        changes = {path: files[path].encode() if path in files else None for path in {e.path for e in gene.edits}}
        start = repository.write_commit(start, changes, words)
        written.append(Exported(gene.gene_id, gene.title, start))
    return written
