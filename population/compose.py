"""Compose: a set of genes -> the patched tree. All spans are laid on the base at once, so order cannot matter.

Mistake
  +- GenesConflict       two genes over the same text
  +- RequirementMissing  a gene without one that it requires
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from population.genes import BaseTree, Edit, Gene, lay, place
from population.mistakes import Mistake


@dataclass(frozen=True)
class Clash:
    """Two genes (ids, sorted) that cannot be in one patch set, and the first place of the base where they meet."""

    gene_a: str
    gene_b: str
    path: str
    at: int


class GenesConflict(Mistake):
    """Two genes of a patch set change the same text."""

    def __init__(self, base: BaseTree, clash: Clash, genes: Iterable[Gene]) -> None:
        titles = {gene.gene_id: gene.title for gene in genes}
        a, b = (f"{gene_id} ({titles[gene_id]})" for gene_id in (clash.gene_a, clash.gene_b))
        where = place(base, clash.path, clash.at)
        super().__init__(f"Genes {a} and {b} conflict at {where}; leave one of them out, or merge them into one gene.")
        self.clash = clash


class RequirementMissing(Mistake):
    """A gene is in a patch set without one that it requires."""

    def __init__(self, gene: Gene, required: str) -> None:
        super().__init__(
            f"Gene {gene.gene_id} ({gene.title}) requires gene {required} or a later allele of it; "
            "add that gene, or leave this one out."
        )


def compose(base: BaseTree, genes: Iterable[Gene], pool: Mapping[str, Gene] | None = None) -> dict[str, str]:
    """Return the whole editable tree with these genes, path -> text.

    `pool` (gene id -> gene) lets `requires` be satisfied by an allele of an allele that is not itself in the set.
    Raises GenesConflict and RequirementMissing.
    """
    genes = tuple(genes)
    for gene, required in unmet(genes, pool):
        raise RequirementMissing(gene, required)
    for clash in conflicts(genes)[:1]:
        raise GenesConflict(base, clash, genes)
    return lay(base, genes)


def conflict(a: Gene, b: Gene) -> Clash | None:
    """Return where two genes meet: spans intersect, or an insertion is in the other's closed span. Equal edits pass."""
    return next(iter(conflicts((a, b))), None)


def conflicts(genes: Iterable[Gene]) -> tuple[Clash, ...]:
    """Return every pair of genes that conflict, once, sorted by ids: a sweep over the sorted spans of each file."""
    found: dict[tuple[str, str], Clash] = {}
    active: list[tuple[Edit, str]] = []
    for edit, gene_id in sorted({(edit, gene.gene_id) for gene in genes for edit in gene.edits}):
        active = [(other, owner) for other, owner in active if other.path == edit.path and other.end >= edit.start]
        for other, owner in active:
            if owner != gene_id and _meet(other, edit):
                pair = (min(owner, gene_id), max(owner, gene_id))
                found.setdefault(pair, Clash(*pair, edit.path, edit.start))
        active.append((edit, gene_id))
    return tuple(found[pair] for pair in sorted(found))


def compatible(gene: Gene, genes: Iterable[Gene]) -> bool:
    """Say whether a gene conflicts with none of these."""
    return all(conflict(gene, other) is None for other in genes)


def unmet(genes: Sequence[Gene], pool: Mapping[str, Gene] | None = None) -> list[tuple[Gene, str]]:
    """Return each gene with an id that it requires and that these genes do not satisfy."""
    if not any(gene.requires for gene in genes):
        return []
    known = {**(pool or {}), **{gene.gene_id: gene for gene in genes}}
    present = {ancestor for gene in genes for ancestor in _allele_line(gene, known)}
    return [(gene, required) for gene in genes for required in gene.requires if required not in present]


def syntax_error(files: Mapping[str, str]) -> str | None:
    """Return `path:line: message` of the first .py file that does not compile, or None."""
    for path in sorted(files):
        if path.endswith(".py") and (message := _compile_error(path, files[path])):
            return message
    return None


def _meet(first: Edit, second: Edit) -> bool:
    """Say whether two edits of one file conflict, the first not starting after the second."""
    if first == second:
        return False
    inserts = first.start == first.end or second.start == second.end
    return second.start <= first.end if inserts else second.start < first.end


def _allele_line(gene: Gene, known: Mapping[str, Gene]) -> set[str]:
    """Return the ids of a gene and of what it is an allele of, back to the first."""
    line = {gene.gene_id}
    parent = gene.allele_of
    while parent is not None and parent not in line:
        line.add(parent)
        parent = known[parent].allele_of if parent in known else None
    return line


def _compile_error(path: str, text: str) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a candidate's invalid escapes are its own affair
            compile(text, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        return f"{path}:{error.lineno or 1}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes, nesting too deep
        return f"{path}:1: {error or type(error).__name__}"
    return None
