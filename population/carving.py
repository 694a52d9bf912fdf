"""Carving: pieces in groups -> genes that together make exactly the new tree, and what is set aside as comments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from population.compose import conflicts
from population.genes import BaseTree, Category, Edit, Gene, Origin, edited_files, gene_from_edits, lay
from population.merging import Pieces
from population.splitting import Piece
from population.titles import title


@dataclass(frozen=True)
class Carved:
    """The genes of a change, and what of it changes nothing that runs."""

    genes: tuple[Gene, ...]
    comments: tuple[Gene, ...]


def carve(
    base: BaseTree, files: Mapping[str, str], pieces: Sequence[Piece], groups: Iterable[Pieces], hypothesis: str
) -> Carved:
    """Return a gene for each group and one for all comments; laid together on the base they give `files` exactly.

    Groups are merged where their genes, each in its canonical form, would not.
    """
    comments = frozenset(k for k, piece in enumerate(pieces) if piece.is_comment)
    found = [*groups, *([comments] if comments else [])]
    genes = [_gene(base, pieces, group, hypothesis) for group in found]
    while (pair := _inexact(base, files, pieces, found, genes)) is not None:
        a, b = pair
        found = [*(group for k, group in enumerate(found) if k not in pair), found[a] | found[b]]
        genes = [_gene(base, pieces, group, hypothesis) for group in found]
    genes = _told_apart(genes)
    aside = [gene for gene, group in zip(genes, found, strict=True) if group <= comments]
    return Carved(tuple(gene for gene in genes if gene not in aside), tuple(aside))


def laid(base: BaseTree, pieces: Sequence[Piece], group: Pieces) -> dict[str, str]:
    """Return the tree with these pieces alone."""
    changed = edited_files(base, _edits(pieces, group))
    return {path: text for path, text in {**base.files, **changed}.items() if text is not None}


def _gene(base: BaseTree, pieces: Sequence[Piece], group: Pieces, hypothesis: str) -> Gene:
    chosen = [pieces[k] for k in sorted(group)]
    edits = [piece.edit for piece in chosen]
    return gene_from_edits(
        base,
        edits,
        title=_title(base, chosen),
        hypothesis=hypothesis,
        category=Category.OTHER,
        origin=Origin.IMPORT,
    )


def _title(base: BaseTree, chosen: Sequence[Piece]) -> str:
    edits = [piece.edit for piece in chosen]
    if all(piece.is_comment for piece in chosen):
        return f"comments: {', '.join(sorted({edit.path for edit in edits}))}"
    gone = list(dict.fromkeys(piece.gone for piece in chosen if piece.gone))
    come = list(dict.fromkeys(piece.come for piece in chosen if piece.come))
    return title(base.files, edits, gone, come)


def _told_apart(genes: Sequence[Gene]) -> list[Gene]:
    """Add the file names to titles that genes of different files share."""
    places = {(gene.title, _files(gene)) for gene in genes}
    counts = Counter(words for words, _ in places)
    return [replace(g, title=f"{g.title} in {_files(g)}") if counts[g.title] > 1 else g for g in genes]


def _files(gene: Gene) -> str:
    return ", ".join(sorted({edit.path for edit in gene.edits}))


def _inexact(
    base: BaseTree, files: Mapping[str, str], pieces: Sequence[Piece], groups: Sequence[Pieces], genes: Sequence[Gene]
) -> tuple[int, int] | None:
    """Return two groups to merge, or None if the genes compose and give the files."""
    number = {gene.gene_id: k for k, gene in enumerate(genes)}
    for clash in conflicts(genes):
        return number[clash.gene_a], number[clash.gene_b]
    if lay(base, genes) == files:
        return None
    slid = [k for k, gene in enumerate(genes) if set(gene.edits) != _edits(pieces, groups[k])]
    return _nearest(groups, slid)


def _nearest(groups: Sequence[Pieces], slid: Sequence[int]) -> tuple[int, int]:
    """Return the first of some groups and the one next to it."""
    k = slid[0]
    return k, min((j for j in range(len(groups)) if j != k), key=lambda j: _gap(groups[j], groups[k]))


def _gap(a: Pieces, b: Pieces) -> int:
    return min(abs(i - j) for i in a for j in b)


def _edits(pieces: Sequence[Piece], group: Pieces) -> set[Edit]:
    return {pieces[k].edit for k in group}
