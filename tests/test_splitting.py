"""A commit is split into what it consists of: pieces by token, grouped by what they define and use, comments apart."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import synthetic_commit as synthetic
from hypothesis import given
from hypothesis import strategies as st

from population.carving import Carved, carve, laid
from population.compose import compose, conflicts, syntax_error
from population.genes import BaseTree, Category, Gene, Origin, gene_from_files
from population.mentions import mentions
from population.merging import plan, settle
from population.splitting import split, together

BASE = BaseTree(synthetic.BEFORE, ("**/*",))


def carved(before: dict[str, str], after: dict[str, str]) -> Carved:
    base = BaseTree(before, ("**/*",))
    pieces = split(base, after)
    found = carve(base, after, pieces, together(pieces), "as imported")
    assert compose(base, (*found.genes, *found.comments)) == after
    return found


def titles(before: str, after: str, path: str = "a.py") -> list[str]:
    return [gene.title for gene in carved({path: before}, {path: after}).genes]


def known(change: synthetic.Change) -> Gene:
    files = synthetic.changed(synthetic.BEFORE, change)
    return gene_from_files(BASE, files, title="t", hypothesis="h", category=Category.OTHER, origin=Origin.IMPORT)


def test_every_known_change_of_the_synthetic_commit_is_one_gene() -> None:
    found = carved(synthetic.BEFORE, synthetic.after())
    assert len(synthetic.CHANGES) == 30
    assert {gene.gene_id for gene in found.genes} == {known(change).gene_id for change in synthetic.CHANGES.values()}
    assert [gene.gene_id for gene in found.comments] == [known(synthetic.COMMENT).gene_id]
    assert not conflicts(found.genes)


def test_each_gene_of_the_synthetic_commit_parses_alone() -> None:
    for gene in carved(synthetic.BEFORE, synthetic.after()).genes:
        assert syntax_error(compose(BASE, [gene])) is None


def test_titles_say_what_changed() -> None:
    said = {gene.title for gene in carved(synthetic.BEFORE, synthetic.after()).genes}
    assert {
        "wte init std 1.0 -> 0.8",
        "weight decay 0.1 -> 0.2",
        "make AdamW betas 0.9 -> 0.85",
        "dropout removed",
        "ratio added",
        "optimiser becomes adam",
        "hidden F.relu -> F.silu",
    } <= said


def test_a_file_that_is_renamed_and_its_imports_are_one_gene() -> None:
    text = "def f():\n    return 1\n\n\ndef g():\n    return 2\n"
    before = {"old.py": text, "main.py": "from old import f\n\nprint(f())\nx = 1\n"}
    after = {"new.py": text, "main.py": "from new import f\n\nprint(f())\nx = 2\n"}
    assert sorted(len(gene.edits) for gene in carved(before, after).genes) == [1, 3]


@pytest.mark.parametrize(
    ("before", "after", "n"),
    [
        ("f(0.9, 0.95)\n", "f(0.8, 0.99)\n", 2),
        ("f(a, b)\n", "f(a, x=1, b, y=2)\n", 2),
        ("x = a + b\n", "x = b + a\n", 1),
        ("x = a.square()\n", "x = a.mul(2)\n", 1),
        ("a()\nb()\n", "if x:\n    a()\n    b()\n", 1),
        ("A = 1\nB = 2\nC = 3\n", "C = 3\n", 2),
        ("if x:\n    a()\n    b()\nelse:\n    c()\nd()\n", "d()\n", 1),
        ("@once\ndef f():\n    pass\n\nx = 1\n", "x = 1\n", 1),
        ("def f(a):\n    b = 1\n    return a + b\n", "def f(a, b):\n    return a + b\n", 1),
        ("f(\n    a=1,\n    b=2,\n)\n", "f(\n    a=3,\n    b=4,\n)\n", 2),
        ("x = 1  # one\ny = 1\n", "x = 2  # two\ny = 1\n", 1),
    ],
)
def test_changes_are_apart_or_together(before: str, after: str, n: int) -> None:
    assert len(carved({"a.py": before}, {"a.py": after}).genes) == n


def test_a_flag_goes_with_its_uses_in_other_files() -> None:
    before = {"a.py": 'add("--soft-cap", default=1)\n', "b.py": "x = args.soft_cap\n", "run.sh": "train --soft-cap 3\n"}
    after = {"a.py": "", "b.py": "x = 1\n", "run.sh": "train\n"}
    found = carved(before, after).genes
    assert [gene.title for gene in found] == ["soft_cap removed"]
    assert {edit.path for edit in found[0].edits} == set(before)


def test_titles_end_with_a_word() -> None:
    (said,) = titles(
        "first = 1\n", "first = 1\nif first and second_of_all or third_of_all or fourth_of_all:\n    pass\n"
    )
    assert said == "a.py + if first and second_of_all or..."


def test_locals_of_two_functions_with_one_name_are_two_changes() -> None:
    before = "def f(x):\n    return x\n\n\ndef g(x):\n    return x\n"
    after = "def f(x):\n    y = 2\n    return x * y\n\n\ndef g(x):\n    y = 3\n    return x * y\n"
    assert titles(before, after) == ["y added", "y added"]


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("a.py", "x = 1\n", "x = 1  # why\n"),
        ("a.py", "# old\nx = 1\n", "x = 1\n"),
        ("a.py", 'def f():\n    """Old."""\n    return 1\n', 'def f():\n    """New."""\n    return 1\n'),
        ("a.py", "x = 1\n", "x = 1\n\n"),
        ("README.md", "old words\n", "new words\n"),
    ],
)
def test_what_changes_nothing_that_runs_is_set_aside(path: str, before: str, after: str) -> None:
    found = carved({path: before}, {path: after})
    assert not found.genes
    assert [gene.title for gene in found.comments] == [f"comments: {path}"]


def test_a_string_that_is_no_docstring_is_no_comment() -> None:
    assert titles("x = 'a'\n", "x = 'b'\n") == ["x 'a' -> 'b'"]


def test_a_name_is_found_where_it_is_bound_and_used() -> None:
    text = "import a.b as c\n\nclass K:\n    n: int = 1\n\n    def f(self, y):\n        return y + self.n\n"
    found = [(text[m.start : m.end], m.key, m.binds) for m in mentions("p.py", text)]
    assert ("n", ".n", True) in found
    assert ("n", ".n", False) in found
    assert ("y", "p.py:K.f.y", True) in found
    assert ("y", "p.py:K.f.y", False) in found
    assert ("a.b as c", "p.py:.c", True) in found


lines = st.lists(
    st.sampled_from(["a = 1", "a = 2", "b = a", "if a:", "    b = 3", "f(a, b)", "# note", ""]), max_size=12
)


@given(lines, lines)
def test_the_genes_of_any_change_make_it_exactly(before: list[str], after: list[str]) -> None:
    if before != after:
        carved({"a.py": "\n".join(before)}, {"a.py": "\n".join(after)})


def needs(acyclic: bool) -> st.SearchStrategy[list[set[int]]]:
    """Return what each piece needs, by number; without cycles, a piece needs only what is of lower rank."""
    some = st.permutations(range(9)).flatmap(
        lambda rank: st.tuples(
            *(
                st.sets(st.sampled_from([j for j in range(9) if not acyclic or rank[j] < rank[k]] or [k]), max_size=2)
                for k in range(9)
            )
        )
    )
    return some.map(list)


def settled(needed: list[set[int]]) -> tuple[frozenset[int], ...]:
    def passes(pieces: frozenset[int]) -> bool:
        return all(needed[piece] <= pieces for piece in pieces)

    found = settle([frozenset([k]) for k in range(len(needed))], lambda sets: {each: passes(each) for each in sets})
    assert sorted(piece for group in found for piece in group) == list(range(len(needed)))
    assert all(passes(group) for group in found)
    return found


@given(needs(acyclic=True))
def test_pieces_are_merged_with_what_they_need_and_nothing_else(needed: list[set[int]]) -> None:
    pairs = [{a, b} for a, others in enumerate(needed) for b in others]
    for group in settled(needed):
        reached = {min(group)}
        for _ in group:
            reached |= {piece for pair in pairs if pair & reached for piece in pair}
        assert reached == group


@given(needs(acyclic=False))
def test_pieces_that_need_each_other_are_merged_too(needed: list[set[int]]) -> None:
    settled(needed)


def test_the_search_asks_few_tests_and_the_nearest_first() -> None:
    asked: list[frozenset[int]] = []

    def test(sets: Sequence[frozenset[int]]) -> dict[frozenset[int], bool]:
        asked.extend(sets)
        return {each: not each & {20} or 21 in each for each in sets}

    found = settle([frozenset([k]) for k in range(40)], test)
    assert frozenset((20, 21)) in found
    assert len(found) == 39
    assert len(asked) == 40 + 4


def test_a_plan_without_outcomes_wants_every_group_alone() -> None:
    alone = (frozenset([0]), frozenset([1]))
    assert plan(alone, {}).wanted == alone


def test_pieces_alone_give_a_tree() -> None:
    pieces = split(BASE, synthetic.after())
    assert laid(BASE, pieces, frozenset(range(len(pieces)))) == synthetic.after()
    assert laid(BASE, pieces, frozenset()) == synthetic.BEFORE


def test_a_group_that_fails_even_with_everything_is_left_as_it_is() -> None:
    groups = [frozenset([k]) for k in range(4)]
    found = settle(groups, lambda sets: {each: 2 not in each for each in sets})
    assert sorted(piece for group in found for piece in group) == [0, 1, 2, 3]
