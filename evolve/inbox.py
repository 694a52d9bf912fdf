"""The inbox of a run: genes that wait to be born, one file each, written whole and taken in the order they came.

A gene may arrive at any moment, so when it did is part of what the run is: as soon as a birth takes a gene, its file is
renamed to `taken/BIRTH-GENE.json`, before anything else happens. A run that is resumed finds it there and gives it to
the same birth again; births that have been recorded without a gene never take one. A file that holds no gene of the run
is set aside in `refused/`, and the run goes on without it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evolve.lineage import read
from evolve.run_directory import RunDirectory
from population.genes import BaseTree, Category, Edit, Gene, Kind, Origin, gene_from_edits
from population.mistakes import Mistake

TAKEN = "taken"
REFUSED = "refused"
BORN = "SELECT gene_id, min(birth) AS birth FROM individuals JOIN genotype_genes USING (genotype_id) GROUP BY gene_id"


class NotAGene(Mistake):
    """A file in the inbox that holds no gene of this run."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} is no gene of this run: {why}; remove it, and use `evolve inject` to put one there")


def put(inbox: Path, genes: Iterable[Gene]) -> None:
    """Let genes wait, in this order; one that waits already keeps its place."""
    inbox.mkdir(exist_ok=True)
    waiting = {_gene_id(path) for path in waiting_files(inbox)}
    now = time.time_ns()
    for k, gene in enumerate(gene for gene in genes if gene.gene_id not in waiting):
        beside = inbox / f".{gene.gene_id}.{os.getpid()}.tmp"
        beside.write_text(json.dumps(asdict(gene), indent=1), encoding="utf-8")
        beside.replace(inbox / f"{now + k:020d}-{gene.gene_id}.json")


def offer(run: RunDirectory, genes: Sequence[Gene]) -> dict[str, int]:
    """Let genes wait but for those that the run has borne; return gene_id -> first birth of these."""
    born = _births(run)
    put(run.inbox, [gene for gene in genes if gene.gene_id not in born])
    return {gene.gene_id: born[gene.gene_id] for gene in genes if gene.gene_id in born}


def _births(run: RunDirectory) -> dict[str, int]:
    """Return gene_id -> first birth of every gene that was born, or that a birth has taken."""
    taken = {_gene_id(path): _birth(path) for path in (run.inbox / TAKEN).glob("*.json")}
    with read(run.path) as reader:
        return taken | {row["gene_id"]: row["birth"] for row in reader.dicts(BORN)}


def waiting_files(inbox: Path) -> list[Path]:
    """Return the files of the genes that wait, in order of arrival."""
    return sorted(path for path in inbox.glob("*.json") if not path.name.startswith("."))


class Inbox:
    """Hands waiting genes to births. `recorded` births have happened: they get what they got before."""

    def __init__(self, folder: Path, base: BaseTree, recorded: int, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._base = base
        self._recorded = recorded
        self._say = say
        self._taken = {_birth(path): path for path in (folder / TAKEN).glob("*.json")}

    @property
    def expected(self) -> int:
        """Return how many births have taken a gene, or will."""
        return len(self._taken) + self.waiting

    @property
    def waiting(self) -> int:
        """Return how many genes wait."""
        return len(waiting_files(self._folder))

    def births_before(self, birth: int) -> int:
        """Return how many of the first births took a gene."""
        return sum(taken < birth for taken in self._taken)

    def has_for(self, birth: int) -> bool:
        """Return whether a birth would take a gene now."""
        return birth in self._taken or (birth >= self._recorded and self._next() is not None)

    def take(self, birth: int) -> Gene | None:
        """Return the gene that a birth takes, if any; asking again gives it again."""
        if not self.has_for(birth):
            return None
        if birth not in self._taken:
            arrived = waiting_files(self._folder)[0]
            (self._folder / TAKEN).mkdir(exist_ok=True)
            self._taken[birth] = arrived.rename(self._folder / TAKEN / f"{birth:06d}-{_gene_id(arrived)}.json")
        return _read(self._taken[birth], self._base)

    def _next(self) -> Gene | None:
        """Return the gene that waits first; files before it that hold none are set aside."""
        for path in waiting_files(self._folder):
            try:
                return _read(path, self._base)
            except NotAGene as mistake:
                (self._folder / REFUSED).mkdir(exist_ok=True)
                path.rename(self._folder / REFUSED / path.name)
                self._say(f"set aside     {mistake}")
        return None


def _birth(path: Path) -> int:
    return int(path.name.split("-")[0])


def _gene_id(path: Path) -> str:
    return path.stem.split("-")[-1]


def _read(path: Path, base: BaseTree) -> Gene:
    """Return the gene in a file, made anew on this base."""
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        edits = [Edit(e["path"], e["start"], e["end"], e["replacement"], Kind(e["kind"])) for e in raw["edits"]]
        gene = gene_from_edits(
            base,
            edits,
            title=str(raw["title"]),
            hypothesis=str(raw["hypothesis"]),
            category=Category(raw["category"]),
            origin=Origin(raw["origin"]),
            allele_of=raw["allele_of"],
            requires=tuple(raw["requires"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotAGene(path, f"{type(error).__name__}: {error}") from error
    except Mistake as mistake:
        raise NotAGene(path, str(mistake)) from mistake
    if gene.gene_id != raw["gene_id"]:
        raise NotAGene(path, f"its edits make the gene {gene.gene_id}, as if the base were another")
    return gene
