"""Compose: order cannot matter, removal is exact, a conflict is named with its place, requirements are kept."""

import bisect
import io
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from population.compose import (
    GenesConflict,
    RequirementMissing,
    compatible,
    compose,
    conflict,
    conflicts,
    syntax_error,
    unmet,
)
from population.genes import BaseTree, Category, Edit, Gene, Kind, Origin, gene_from_edits, gene_from_files
from population.tokens import spans


def read(module):
    with open(module.__file__, encoding="utf-8", newline="") as file:
        return file.read()


REAL = BaseTree({"io.py": read(io), "crlf.py": read(bisect).replace("\n", "\r\n"), "é.txt": "ü\tb\nlast"}, ("*.txt",))
GONE = ("é.txt", 0, len(REAL.files["é.txt"]), "", Kind.DELETE_FILE)
TOKENS = [(path, *span) for path in sorted(REAL.files) for span in spans(REAL.files[path], path)]
PIECES = ["0.5", "x", "", "é", "\r\n", "# note\n", " y = 2"]
SMALL = BaseTree({"a.py": "x = f(1, 2)\ny = 3\n"})


def made(base, *edits, title="t"):
    cut = [Edit(*edit) for edit in edits]
    return gene_from_edits(base, cut, title=title, hypothesis="", category=Category.OTHER, origin=Origin.HUMAN)


@st.composite
def one_gene(draw):
    places = draw(st.lists(st.integers(0, len(TOKENS) - 1), min_size=1, max_size=4, unique=True))
    edits = []
    for k in sorted(places):
        path, start, end = TOKENS[k]
        piece = draw(st.sampled_from(PIECES))
        edits.append((path, start, end, piece if piece != REAL.files[path][start:end] else "other"))
    if draw(st.integers(0, 3)) == 0:
        edits = [GONE, *(edit for edit in edits if edit[0] != GONE[0])]
    if draw(st.integers(0, 3)) == 0:
        edits.append(
            (draw(st.sampled_from(["new.txt", "newer.txt"])), 0, 0, draw(st.sampled_from(PIECES)), Kind.ADD_FILE)
        )
    return made(REAL, *edits)


@st.composite
def patch_sets(draw):
    genes = []
    for gene in draw(st.lists(one_gene(), min_size=1, max_size=5)):
        if compatible(gene, genes):
            genes.append(gene)
    return genes


@settings(max_examples=40, deadline=None)
@given(patch_sets(), st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(genes, draw):
    shuffled = draw.sample(genes, len(genes))
    assert compose(REAL, shuffled + genes) == compose(REAL, genes)


@settings(max_examples=40, deadline=None)
@given(patch_sets())
def test_removing_a_gene_and_adding_it_again_is_exact(genes):
    whole = compose(REAL, genes)
    for gene in genes:
        rest = [other for other in genes if other.gene_id != gene.gene_id]
        without = compose(REAL, rest)
        assert compose(REAL, [*rest, gene]) == whole
        if not set(gene.edits) <= {edit for other in rest for edit in other.edits}:
            assert without != whole
    assert compose(REAL, []) == REAL.files


@settings(max_examples=40, deadline=None)
@given(one_gene())
def test_a_gene_read_back_from_its_own_files_is_the_same_gene(gene):
    files = {**dict.fromkeys(REAL.files), **compose(REAL, [gene])}
    again = gene_from_files(REAL, files, title="again", hypothesis="", category=Category.OTHER, origin=Origin.LLM)
    assert (again.gene_id, again.edits) == (gene.gene_id, gene.edits)


@settings(max_examples=40, deadline=None)
@given(patch_sets())
def test_text_outside_the_spans_is_never_touched(genes):
    files = compose(REAL, genes)
    for path, text in REAL.files.items():
        edits = sorted({edit for gene in genes for edit in gene.edits if edit.path == path})
        if any(edit.kind is Kind.DELETE_FILE for edit in edits):
            assert path not in files
            continue
        at = 0
        for before, after in zip([None, *edits], [*edits, None], strict=True):
            kept = text[before.end if before else 0 : after.start if after else len(text)]
            assert files[path][at : at + len(kept)] == kept
            at += len(kept) + (len(after.replacement) if after else 0)
        assert at == len(files[path])


@settings(max_examples=40, deadline=None)
@given(st.lists(one_gene(), max_size=6))
def test_the_sweep_finds_exactly_the_pairs_that_conflict(genes):
    genes = list({gene.gene_id: gene for gene in genes}.values())
    expected = {
        tuple(sorted((a.gene_id, b.gene_id)))
        for a, b in combinations(genes, 2)
        if any(e != f and e.path == f.path and meet(e, f) for e in a.edits for f in b.edits)
    }
    assert {(clash.gene_a, clash.gene_b) for clash in conflicts(genes)} == expected


def meet(e, f):
    """Two edits of one file conflict, from the definition: half-open spans, closed where one is an insertion."""
    if e.start == e.end or f.start == f.end:
        return max(e.start, f.start) <= min(e.end, f.end)
    return max(e.start, f.start) < min(e.end, f.end)


def test_two_genes_on_one_line_that_touch_different_tokens_compose():
    first, second = made(SMALL, ("a.py", 6, 7, "9")), made(SMALL, ("a.py", 9, 10, "8"))
    assert compose(SMALL, [second, first]) == {"a.py": "x = f(9, 8)\ny = 3\n"}


def test_a_knob_keeps_its_meaning_when_a_similar_line_is_inserted_below():
    line = made(SMALL, ("a.py", 12, 12, "z = g(1, 2)\n"))
    knob = made(SMALL, ("a.py", 6, 7, "9"))
    assert compose(SMALL, [line, knob]) == {"a.py": "x = f(9, 2)\nz = g(1, 2)\ny = 3\n"}


def raw(name, *edits):
    return Gene(name, name, "", Category.OTHER, Origin.HUMAN, tuple(Edit("a.py", *edit) for edit in edits))


@pytest.mark.parametrize(
    ("first", "second", "clashes"),
    [
        ((0, 3, "a"), (2, 4, "b"), True),
        ((0, 3, "a"), (0, 3, "b"), True),
        ((0, 3, "a"), (0, 3, "a"), False),
        ((0, 3, "a"), (3, 4, "b"), False),
        ((0, 3, "a"), (1, 1, "b"), True),
        ((0, 3, "a"), (3, 3, "b"), True),
        ((0, 3, "a"), (0, 0, "b"), True),
        ((0, 3, "a"), (4, 4, "b"), False),
        ((3, 3, "a"), (3, 3, "b"), True),
        ((3, 3, "a"), (3, 3, "a"), False),
        ((0, 0, "a", Kind.ADD_FILE), (0, 0, "b", Kind.ADD_FILE), True),
        ((0, 0, "a", Kind.ADD_FILE), (0, 0, "a", Kind.ADD_FILE), False),
        ((0, 18, "", Kind.DELETE_FILE), (6, 7, "9"), True),
        ((0, 18, "", Kind.DELETE_FILE), (18, 18, "z"), True),
        ((0, 18, "", Kind.DELETE_FILE), (0, 18, ""), True),
        ((0, 18, "", Kind.DELETE_FILE), (0, 18, "", Kind.DELETE_FILE), False),
        ((0, 0, "", Kind.DELETE_FILE), (0, 0, "x"), True),
    ],
)
def test_spans_conflict_when_they_intersect_or_an_insertion_touches(first, second, clashes):
    a, b = raw("a", first), raw("b", second)
    assert (conflict(a, b) is not None) == (conflict(b, a) is not None) == clashes
    assert compatible(a, [b]) != clashes


def test_genes_that_share_an_edit_compose_and_conflict_only_elsewhere():
    a, b = raw("a", (0, 1, "z"), (4, 5, "g")), raw("b", (0, 1, "z"), (6, 7, "9"))
    assert compose(SMALL, [a, b]) == {"a.py": "z = g(9, 2)\ny = 3\n"}
    assert conflict(a, raw("c", (0, 1, "z"), (4, 5, "h"))).at == 4


def test_a_conflict_names_both_genes_and_the_place():
    a, b = made(SMALL, ("a.py", 16, 17, "4"), title="four"), made(SMALL, ("a.py", 16, 17, "5"), title="five")
    with pytest.raises(GenesConflict, match=r"four.*five|five.*four") as caught:
        compose(SMALL, [a, b])
    assert "a.py:2" in str(caught.value)
    assert {caught.value.clash.gene_a, caught.value.clash.gene_b} == {a.gene_id, b.gene_id}


def test_two_genes_that_add_one_file_with_different_text_are_named():
    base = BaseTree({}, ("*.py",))
    a, b = (made(base, ("n.py", 0, 0, text, Kind.ADD_FILE), title=text) for text in ("x = 1\n", "x = 2\n"))
    assert compose(base, [a, a]) == {"n.py": "x = 1\n"}
    with pytest.raises(GenesConflict, match=r"conflict at n\.py:1;"):
        compose(base, [a, b])


def test_a_gene_that_deletes_a_file_and_one_that_changes_it_are_named():
    gone = made(SMALL, ("a.py", 0, 18, "", Kind.DELETE_FILE), title="gone")
    knob = made(SMALL, ("a.py", 16, 17, "4"), title="four")
    assert compose(SMALL, [gone]) == {}
    with pytest.raises(GenesConflict, match=r"gone.*four|four.*gone"):
        compose(SMALL, [gone, knob])


def test_a_gene_requires_another_or_a_later_allele_of_it():
    old = raw("old", (0, 1, "z"))
    allele = replace(raw("allele", (0, 1, "w")), allele_of="old")
    latest = replace(raw("latest", (0, 1, "v")), allele_of="allele")
    needy = replace(raw("needy", (16, 17, "4")), requires=("old",))
    assert unmet([needy])
    assert not unmet([needy, old])
    assert not unmet([needy, allele])
    assert unmet([needy, latest])
    assert not unmet([needy, latest], pool={"allele": allele})
    with pytest.raises(RequirementMissing, match="requires gene old"):
        compose(SMALL, [needy])
    assert compose(SMALL, [needy, latest], pool={"allele": allele})["a.py"].startswith("v")


def test_alleles_that_return_to_where_they_came_from_do_not_go_round_for_ever():
    a = replace(raw("a", (0, 1, "z")), allele_of="b", requires=("c",))
    b = replace(raw("b", (0, 1, "w")), allele_of="a")
    assert unmet([a], pool={"b": b})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (1\n", "a.py:1: '(' was never closed"),
        ("\n  x = 1\n", "a.py:2: unexpected indent"),
        ("return 1\n", "a.py:1: 'return' outside function"),
        ("x = '\0'\n", "a.py:1: source code"),
        ("x = " + "(" * 500 + ")" * 500, "a.py:1: too many nested parentheses"),
    ],
)
def test_a_file_that_does_not_compile_is_named_with_its_line(text, message):
    assert syntax_error({"a.py": text, "b.txt": "x = ("}).startswith(message)


def test_a_file_that_compiles_has_no_syntax_error_even_with_an_invalid_escape():
    assert syntax_error({"a.py": "x = '\\d'\n"}) is None
