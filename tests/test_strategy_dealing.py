"""Dealing: balanced halves, what clashes kept apart, what is required carried along."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from population.dealing import Relations, assemble, complement, deal
from population.genes import Category, Edit, Gene, Origin


def gene(name: str, start: int, end: int) -> Gene:
    return Gene(name, name, "", Category.OTHER, Origin.KNOB, (Edit("a.py", start, end, name),))


def relations(*genes: Gene) -> Relations:
    known = Relations()
    for each in genes:
        known.add(each)
    return known


def separate(n: int) -> list[Gene]:
    return [gene(f"g{i:02d}", 10 * i, 10 * i + 1) for i in range(n)]


def test_over_a_foldover_pair_every_gene_is_dealt_once():
    genes = separate(15)
    names, known = [g.gene_id for g in genes], relations(*genes)
    for key in range(30):
        first = deal(names, (), known, key)
        second = complement(first, names, (), known, key)
        assert Counter(first.genes + second.genes) == Counter(names)
        assert abs(len(first.genes) - len(second.genes)) == 1


def test_over_many_pairs_every_pair_of_genes_meets_about_equally_often():
    genes = separate(8)
    names, known = [g.gene_id for g in genes], relations(*genes)
    met = Counter(
        (a, b) for key in range(400) for d in [deal(names, (), known, key).genes] for a in d for b in d if a < b
    )
    assert len(met) == 28
    assert max(met.values()) < 1.5 * min(met.values())


def test_the_core_is_always_dealt():
    genes = separate(10)
    names, known = [g.gene_id for g in genes], relations(*genes)
    for key in range(20):
        first = deal(names[4:], names[:4], known, key)
        second = complement(first, names[4:], names[:4], known, key)
        assert set(names[:4]) <= set(first.genes) & set(second.genes)


spans = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8)), min_size=2, max_size=16)


@given(spans, st.integers(0, 1000))
def test_genes_that_overlap_are_never_dealt_together(where: list[tuple[int, int]], key: int):
    genes = [gene(f"g{i:02d}", start, start + size) for i, (start, size) in enumerate(where)]
    names, known = [g.gene_id for g in genes], relations(*genes)
    first = deal(names[3:], names[:3], known, key)
    second = complement(first, names[3:], names[:3], known, key)
    for child in (first, second):
        assert not any(known.clash(a, b) for a in child.genes for b in child.genes if a < b)


def test_alleles_of_one_locus_are_never_dealt_together_though_their_texts_do_not_meet():
    first, other = separate(2)
    allele = replace(gene("g09", 500, 501), allele_of="g00")
    later = replace(gene("g10", 600, 601), allele_of="g09")
    known = relations(first, other, allele, later)
    children = [deal(["g00", "g01", "g09", "g10"], (), known, key) for key in range(50)]
    assert all(len({"g00", "g09", "g10"} & set(child.genes)) <= 1 for child in children)
    assert {g for child in children for g in child.genes} == {"g00", "g01", "g09", "g10"}


def test_an_allele_under_test_takes_the_place_of_the_one_in_the_core():
    first, other = separate(2)
    allele = replace(gene("g09", 0, 1), allele_of="g00")
    known = relations(first, other, allele)
    children = {deal(["g09"], ["g00", "g01"], known, key).genes for key in range(20)}
    assert children == {("g00", "g01"), ("g01", "g09")}


def test_what_a_gene_requires_is_carried_along():
    first, second, third = separate(3)
    second, third = replace(second, requires=("g00",)), replace(third, requires=("g01",))
    known = relations(first, second, third)
    assert set(assemble(["g02"], known)) == {"g00", "g01", "g02"}
    assert not known.closed(["g02", "g01"])
    assert known.closed(["g00", "g01", "g02"])


def test_a_later_allele_satisfies_what_is_required():
    first, second = separate(2)
    allele = replace(gene("g09", 0, 1), allele_of="g00")
    known = relations(first, replace(second, requires=("g00",)), allele)
    assert assemble(["g09", "g01"], known) == ["g09", "g01"]


def test_a_gene_that_requires_an_unknown_one_is_left_out():
    first, second = separate(2)
    known = relations(first, replace(second, requires=("nobody",)))
    assert assemble(["g01", "g00"], known) == ["g00"]


def test_pairs_kept_apart_are_not_dealt_together():
    genes = separate(6)
    names, known = [g.gene_id for g in genes], relations(*genes)
    apart = {frozenset(("g00", "g01"))}
    assert not any({"g00", "g01"} <= set(deal(names, (), known, key, apart).genes) for key in range(60))
