"""Breeding carries out a mating: it makes the child's genes. Local operators only; none of them asks a model."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable

from population.compose import compatible, compose, conflict, syntax_error
from population.genes import BaseTree, Gene
from population.individuals import Brood, Genotype, Individual, Mating, Operator
from population.knobs import Knob, knob_gene, moved_by, moves, number_text

DRAWS = 200  # a knob birth gives up after this many draws that gave nothing new


class Breeder:
    """Makes children over one base tree. It knows every gene of the run, so that no idea is tried twice."""

    def __init__(self, run_id: str, base: BaseTree, knobs: tuple[Knob, ...]) -> None:
        self._run_id = run_id
        self._base = base
        self._knobs = knobs
        self.genes: dict[str, Gene] = {}
        self._compared: dict[str, Gene] = {}

    def know(self, genes: Iterable[Gene]) -> None:
        """Add genes that were made elsewhere (null genes, a person's)."""
        self.genes.update({gene.gene_id: gene for gene in genes})

    def breed(self, mating: Mating) -> Brood | None:
        """Return the child of `mating`; None when a knob mating finds no gene that is new."""
        carried = tuple(self.genes[gene_id] for gene_id in mating.genes)
        if mating.operator is Operator.KNOB:
            moved = self._turn(carried, random.Random(mating.key))
            if moved is None:
                return None
            carried = moved
            self.know(carried)
        return Brood(self._individual(mating, carried), {gene.gene_id: gene for gene in carried})

    def conflicts(self, brood: Brood) -> list[tuple[str, str]]:
        """Return the pairs in which a gene that is new in this brood conflicts with one that was there before it."""
        new = [gene for gene in brood.genes.values() if gene.gene_id not in self._compared]
        self._compared.update({gene.gene_id: gene for gene in new})
        pairs = ((gene, other) for gene in new for other in self._compared.values() if gene is not other)
        return [(gene.gene_id, other.gene_id) for gene, other in pairs if conflict(gene, other)]

    def _individual(self, mating: Mating, carried: tuple[Gene, ...]) -> Individual:
        name = hashlib.sha256(f"{self._run_id} {mating.birth}".encode()).hexdigest()[:16]
        genotype = Genotype.of(gene.gene_id for gene in carried)
        return Individual(name, genotype, mating.operator, mating.parents, mating.generation, mating.birth)

    def _turn(self, parent: tuple[Gene, ...], draw: random.Random) -> tuple[Gene, ...] | None:
        """Return the parent's genes with one knob moved, such that the gene is new and composes with the rest."""
        for _ in range(DRAWS if self._knobs else 0):
            knob = draw.choice(self._knobs)
            current = next((gene for gene in parent if moved_by(gene, knob)), None)
            values = moves(knob, current)
            if not values:
                continue
            gene = knob_gene(self._base, knob, number_text(draw.choice(values)), current)
            rest = tuple(other for other in parent if other is not current)
            if gene.gene_id not in self.genes and self._viable(gene, rest):
                return (*rest, gene)
        return None

    def _viable(self, gene: Gene, rest: tuple[Gene, ...]) -> bool:
        return compatible(gene, rest) and syntax_error(compose(self._base, (*rest, gene))) is None
