"""Dealing: the core plus about half of the genes under test, in complementary pairs, what clashes kept apart."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence

from population.compose import conflict
from population.genes import Gene
from population.individuals import Genotype


class Relations:
    """Which genes may be carried together. Grows as genes are born; never forgets one."""

    def __init__(self) -> None:
        self._genes: dict[str, Gene] = {}
        self._clashes: dict[tuple[str, str], bool] = {}

    def __contains__(self, gene_id: str) -> bool:
        return gene_id in self._genes

    def add(self, gene: Gene) -> None:
        """Learn a gene."""
        self._genes[gene.gene_id] = gene

    def with_gene(self, gene: Gene) -> Relations:
        """Return these relations and one gene more; here nothing is learnt."""
        more = Relations()
        more._genes = {**self._genes, gene.gene_id: gene}
        more._clashes = dict(self._clashes)
        return more

    def locus(self, gene_id: str) -> str:
        """Return the oldest known ancestor allele of a gene: itself, if it is nobody's allele."""
        gene = self._genes.get(gene_id)
        while gene is not None and gene.allele_of is not None:
            gene_id, gene = gene.allele_of, self._genes.get(gene.allele_of)
        return gene_id

    def clash(self, a: str, b: str) -> bool:
        """Return whether two genes overlap in the text or are alleles of one locus."""
        pair = (a, b) if a < b else (b, a)
        if pair not in self._clashes:
            self._clashes[pair] = self._clash(*pair)
        return self._clashes[pair]

    def _clash(self, a: str, b: str) -> bool:
        return self.locus(a) == self.locus(b) or conflict(self._genes[a], self._genes[b]) is not None

    def closure(self, gene_id: str, carried: Collection[str]) -> list[str]:
        """Return the gene and what it requires beyond `carried`; a later allele of a required gene satisfies."""
        wanted, found = [gene_id], list[str]()
        while wanted:
            name = wanted.pop()
            if not any(self._is_later_allele(other, name) for other in (*carried, *found)):
                found.append(name)
                wanted.extend(self._genes[name].requires if name in self._genes else ())
        return found

    def closed(self, carried: Collection[str]) -> bool:
        """Return whether everything that these genes require is among them."""
        return all(len(self.closure(gene, [g for g in carried if g != gene])) == 1 for gene in carried)

    def _is_later_allele(self, gene_id: str, of: str) -> bool:
        name: str | None = gene_id
        while name is not None and name != of:
            name = self._genes[name].allele_of if name in self._genes else None
        return name is not None


def assemble(
    order: Iterable[str], relations: Relations, apart: Collection[frozenset[str]] = (), limit: int = 10**9
) -> list[str]:
    """Return genes taken in `order`, each with what it requires, skipping whatever may not join those taken before.

    `apart`: pairs that are kept apart although their texts do not clash. Takes from `order` until `limit` are carried.
    """
    carried: list[str] = []
    for gene in order:
        if len(carried) >= limit:
            break
        group = relations.closure(gene, carried)
        if _joins(group, carried, relations, apart):
            carried.extend(group)
    return carried


def _joins(
    group: Sequence[str], carried: Sequence[str], relations: Relations, apart: Collection[frozenset[str]]
) -> bool:
    pairs = [(a, b) for i, a in enumerate(group) for b in (*carried, *group[:i])]
    return all(a in relations for a in group) and not any(
        relations.clash(a, b) or frozenset((a, b)) in apart for a, b in pairs
    )


def deal(
    tests: Sequence[str], core: Sequence[str], relations: Relations, key: int, apart: Collection[frozenset[str]] = ()
) -> Genotype:
    """Return the core plus a random half of the genes under test; a core gene yields to a test that clashes with it."""
    draw = random.Random(key)
    order = sorted(tests)
    draw.shuffle(order)
    half = (len(order) + draw.randrange(2)) // 2
    return _with_core(assemble(order, relations, apart, half), core, relations, apart)


def complement(
    first: Genotype,
    tests: Sequence[str],
    core: Sequence[str],
    relations: Relations,
    key: int,
    apart: Collection[frozenset[str]] = (),
) -> Genotype:
    """Return the core plus the genes under test that `first` left out: the other half of a foldover pair."""
    order = sorted(set(tests) - set(first.genes))
    random.Random(key).shuffle(order)
    return _with_core(assemble(order, relations, apart), core, relations, apart)


def _with_core(
    tests: Sequence[str], core: Sequence[str], relations: Relations, apart: Collection[frozenset[str]]
) -> Genotype:
    return Genotype.of(assemble([*tests, *core], relations, apart))
