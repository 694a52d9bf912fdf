"""Genes: tokens tile, the diff is exact and settles on one answer, and a gene is its edits and nothing else."""

import ast
import io
import shutil
import string
import subprocess
import tokenize
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from population.diff import diff, patched
from population.genes import (
    BaseTree,
    Category,
    ChangesNothing,
    Edit,
    EditOutsideFile,
    EditsOverlap,
    FileExists,
    Kind,
    NotText,
    Origin,
    UnknownPath,
    gene_from_edits,
    gene_from_files,
    lines_changed,
    render_diff,
)
from population.paths import fits, in_quotes, quoted, unquoted
from population.tokens import spans, tokens

SOURCES = [ast, io, shutil, string, tokenize]
WORDS = [
    "a",
    "bb",
    "lr",
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\r",
    "=",
    "(",
    ")",
    "0.02",
    "'x'",
    '"""',
    "#",
    "é",
    "\u2028",
    "\\",
]
texts = st.lists(st.sampled_from(WORDS), max_size=30).map("".join)


def source(module):
    with open(module.__file__, encoding="utf-8", newline="") as file:
        return file.read()


def gene(base, *edits, title="t", **kw):
    settings = {"hypothesis": "", "category": Category.OTHER, "origin": Origin.HUMAN, **kw}
    return gene_from_edits(base, [Edit(*edit) for edit in edits], title=title, **settings)


def python_spans(text):
    """The spans that the tokenizer of the standard library finds."""
    starts = [0]
    for line in io.StringIO(text, newline=""):
        starts.append(starts[-1] + len(line))
    depth = 0
    for token in tokenize.generate_tokens(io.StringIO(text, newline="").readline):
        name = tokenize.tok_name[token.type]
        depth += name == "FSTRING_START"
        if depth == 0 and token.string and name not in ("INDENT", "DEDENT"):
            start, end = (starts[row - 1] + column for row, column in (token.start, token.end))
            if start < len(text):
                yield start, end
        depth -= name == "FSTRING_END"


@pytest.mark.parametrize("module", SOURCES, ids=lambda module: module.__name__)
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_python_tokens_are_those_of_the_standard_tokenizer(module, newline):
    text = source(module).replace("\n", newline)
    assert set(python_spans(text)) <= set(spans(text, "x.py"))


@given(texts, st.sampled_from(["x.py", "x.md"]))
def test_tokens_tile_any_text(text, path):
    (cut,) = tokens(path, text)
    assert "".join(cut) == text
    assert all(cut)


def test_a_file_that_does_not_tokenise_is_cut_into_words():
    assert tokens("x.py", "x = 'a b\n") == (["x", " ", "=", " ", "'", "a", " ", "b", "\n"],)
    assert tokens("x.py", "x = 'a b'\n") == (["x", " ", "=", " ", "'a b'", "\n"],)


def test_tokens_cover_prefixes_numbers_comments_and_continued_lines():
    text = "rb'''a\nb''' 1_0.5e-3j//=0xFf \\\n# é 'x\n->"
    assert tokens("x.py", text)[0] == [
        *("rb'''a\nb'''", " ", "1_0.5e-3j", "//=", "0xFf", " ", "\\\n", "# é 'x", "\n", "->"),
    ]


@given(texts, texts, st.sampled_from(["x.py", "x.md"]))
def test_the_diff_turns_old_into_new_whatever_they_are(old, new, path):
    changes = diff(old, new, path)
    assert patched(old, changes) == new
    assert all(a.end < b.start for a, b in pairwise(changes))
    assert diff(old, new, path) == changes


@given(texts, texts)
def test_every_change_lies_on_token_borders_of_the_old_text(old, new):
    (cut, _) = tokens("x.py", old, new)
    borders = {0}
    for token in cut:
        borders.add(max(borders) + len(token))
    assert all({change.start, change.end} <= borders for change in diff(old, new, "x.py"))


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("lr = 0.02\n", "lr = 0.03\n", [(5, 9, "0.03")]),
        ("a a a", "a a a a", [(0, 0, "a ")]),
        ("x\nx\n", "x\nx\nx\n", [(0, 0, "x\n")]),
        ("a b c", "a c", [(1, 3, "")]),
        ("f(1, 2)", "f(3, 4)", [(2, 3, "3"), (5, 6, "4")]),
        ("a", "a\n", [(1, 1, "\n")]),
        ("x = 'a b'\n", "x = 'a c'\n", [(4, 9, "'a c'")]),
    ],
)
def test_the_diff_is_minimal_leftmost_and_by_tokens(old, new, changes):
    assert list(diff(old, new, "x.py")) == changes


def test_an_inserted_line_does_not_borrow_tokens_of_the_line_above():
    old, new = "x = f(1)\nz = 3\n", "x = f(1)\ny = g(1)\nz = 3\n"
    assert list(diff(old, new, "x.py")) == [(9, 9, "y = g(1)\n")]


def test_a_text_rewritten_from_end_to_end_is_replaced_in_reasonable_time():
    old = "\n".join(f"a{k} = b{k}" for k in range(4000))
    new = "\n".join(f"c{k} / d{k}" for k in range(4000))
    assert patched(old, diff(old, new, "x.py")) == new


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(SOURCES), st.data())
def test_the_canonical_edits_of_one_token_change_nothing_else_in_a_real_file(module, data):
    base = BaseTree({"x.py": source(module)})
    text = base.files["x.py"]
    start, end = data.draw(st.sampled_from(spans(text, "x.py")))
    replacement = data.draw(st.sampled_from(["0.5", "# note", "", "é", "\n", "x\r\n\ty"]))
    if replacement == text[start:end]:
        return
    made = gene(base, ("x.py", start, end, replacement))
    changed = patched(text, ((edit.start, edit.end, edit.replacement) for edit in made.edits))
    assert changed == text[:start] + replacement + text[end:]


BASE = BaseTree({"a.py": "lr = 0.02\nbeta = 0.95\n", "b.txt": "one two\nthree"}, ("*.py",))


def test_the_same_idea_found_twice_is_one_gene():
    by_token = gene(BASE, ("a.py", 5, 9, "0.03"), title="raise lr")
    by_line = gene(BASE, ("a.py", 0, 10, "lr = 0.03\n"), title="another", origin=Origin.LLM, requires=("x",))
    by_file = gene_from_files(
        BASE,
        {**BASE.files, "a.py": "lr = 0.03\nbeta = 0.95\n"},
        title="third",
        hypothesis="h",
        category=Category.OPTIMISER,
        origin=Origin.IMPORT,
    )
    assert by_token.edits == by_line.edits == by_file.edits == (Edit("a.py", 5, 9, "0.03"),)
    assert by_token.gene_id == by_line.gene_id == by_file.gene_id


def test_a_gene_id_depends_on_edit_path_and_base_file_and_on_no_other_file():
    here = BaseTree({"a.py": "x = 1\n", "b.py": "x = 1\n", "c.py": "1"})
    elsewhere = BaseTree({"a.py": "x = 1\n", "b.py": "x = 1\ny = 2\n", "c.py": "2"})
    first = gene(here, ("a.py", 4, 5, "2"))
    assert first.gene_id == gene(elsewhere, ("a.py", 4, 5, "2")).gene_id
    others = [gene(here, ("b.py", 4, 5, "2")), gene(here, ("a.py", 4, 5, "3")), gene(elsewhere, ("b.py", 4, 5, "2"))]
    assert len({first.gene_id, *(other.gene_id for other in others)}) == 4


@pytest.mark.parametrize(
    ("edits", "mistake", "words"),
    [
        ([("c.py", 0, 1, "x")], UnknownPath, "c.py is not an editable file"),
        ([("a.py", 20, 99, "x")], EditOutsideFile, "the file has 22"),
        ([("a.py", 5, 3, "x")], EditOutsideFile, "5 to 3"),
        ([("a.py", 0, 12, "x"), ("a.py", 11, 14, "y")], EditsOverlap, "a.py:2"),
        ([("a.py", 3, 3, "x"), ("a.py", 3, 3, "y")], EditsOverlap, "a.py:1"),
        ([("a.py", 5, 9, "0.02")], ChangesNothing, "'t' leaves every file"),
        ([], ChangesNothing, "must change something"),
        ([("a.py", 5, 9, "\ud800")], NotText, "a.py"),
        ([("a.py", 0, 0, "x", Kind.ADD_FILE)], FileExists, "the base has it already"),
        ([("n/c.py", 0, 0, "x", Kind.ADD_FILE)], UnknownPath, r"may change only: a.py, b.txt, and may add .*: \*.py"),
        ([("../c.py", 0, 0, "x", Kind.ADD_FILE)], UnknownPath, "not an editable file"),
        ([("c.py", 0, 1, "x", Kind.ADD_FILE)], EditOutsideFile, "the file has 0"),
        ([("c.py", 0, 0, "", Kind.DELETE_FILE)], UnknownPath, "c.py"),
        ([("a.py", 0, 9, "", Kind.DELETE_FILE)], EditOutsideFile, "goes from 0 to its length"),
        ([("a.py", 0, 0, "x"), ("a.py", 0, 22, "", Kind.DELETE_FILE)], EditsOverlap, "a.py:1"),
        ([("c.py", 0, 0, "x", Kind.ADD_FILE), ("c.py", 0, 0, "y", Kind.ADD_FILE)], EditsOverlap, "c.py:1"),
        ([("c.py", 0, 0, "\udfff", Kind.ADD_FILE)], NotText, "c.py"),
    ],
)
def test_an_edit_that_cannot_be_is_refused_in_one_sentence(edits, mistake, words):
    with pytest.raises(mistake, match=words):
        gene(BASE, *edits)


def test_the_ids_of_genes_do_not_change_with_the_code():
    spans = gene(BASE, ("a.py", 5, 9, "0.03"), ("b.txt", 13, 13, "\nfour\n"))
    assert (BASE.base_id, spans.gene_id) == ("67bfb868ec3cde6b", "de3aa73d593f914f")
    files = gene(BASE, ("b.txt", 0, 13, "", Kind.DELETE_FILE), ("c.py", 0, 0, "x", Kind.ADD_FILE))
    assert files.gene_id == "545df3ddd1694b38"


def test_an_added_empty_file_and_an_emptied_or_deleted_one_are_different_genes():
    base = BaseTree({"a.py": "x", "e.py": ""}, ("*.py",))
    made = [
        gene(base, ("a.py", 0, 1, "")),
        gene(base, ("a.py", 0, 1, "", Kind.DELETE_FILE)),
        gene(base, ("e.py", 0, 0, "", Kind.DELETE_FILE)),
        gene(base, ("n.py", 0, 0, "", Kind.ADD_FILE)),
    ]
    assert len({one.gene_id for one in made}) == 4
    assert [lines_changed(base, one) for one in made] == [(0, 1), (0, 1), (0, 0), (0, 0)]


def test_lines_are_counted_as_a_unified_diff_shows_them():
    made = gene(BASE, ("a.py", 5, 9, "0.03"), ("b.txt", 13, 13, "\nfour\n"))
    assert lines_changed(BASE, made) == (3, 2)


UNUSUAL = {
    "crlf.py": ("a = 1\r\nb = 2\r\n", "a = 1\r\nb = 3\r\n"),
    "end.py": ("a = 1\nb = 2", "a = 1\nb = 3"),
    "gains_end.py": ("a = 1", "a = 1\n"),
    "loses_end.py": ("a = 1\n", "a = 1"),
    "empty.py": ("", "a = 1\n"),
    "emptied.py": ("a = 1\n", ""),
    "with space.py": ("a\n", "b\n"),
    "sub/ünï.py": ("é = 1\n\tx\x0cy\u2028z\n", "é = 2\n\tx\x0cy\u2028w\n"),
    "old_mac.py": ("a\rb\n", "a\rc\n"),
    "same.py": ("a\n", "a\n"),
}


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_applies_the_rendered_diff(tmp_path: Path):
    base = BaseTree({path: old for path, (old, _) in UNUSUAL.items()})
    made = gene_from_files(
        base,
        {path: new for path, (_, new) in UNUSUAL.items()},
        title="t",
        hypothesis="",
        category=Category.OTHER,
        origin=Origin.HUMAN,
    )
    for path, text in base.files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(text.encode())
    patch = render_diff(base, [made]).encode()
    command = ["git", "apply", "--whitespace=nowarn", "-"]
    done = subprocess.run(command, input=patch, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    for path, (_, new) in UNUSUAL.items():
        assert (tmp_path / path).exists(), path
        assert (tmp_path / path).read_bytes() == new.encode(), path


def test_the_diff_of_no_genes_is_empty():
    assert render_diff(BASE, []) == ""


@pytest.mark.parametrize(
    ("path", "globs", "allowed"),
    [
        ("a.py", ["*.py"], True),
        ("n/a.py", ["*.py"], False),
        ("n/a.py", ["x.py", "n/*.py"], True),
        ("n/a.py", ["**/*.py"], True),
        ("a.py", ["**/*.py"], True),
        ("n/m/a.py", ["n/**/a.[pq]y"], True),
        ("n/a.txt", ["n/*.py"], False),
        ("../a.py", ["**/*.py"], False),
        ("n/../a.py", ["**/*.py"], False),
        ("/a.py", ["**/*.py"], False),
        ("n//a.py", ["**/*.py"], False),
        ("n/./a.py", ["**/*.py"], False),
        ("a\0.py", ["*.py"], False),
        ("a\ud800.py", ["*.py"], False),
        ("", ["*", "**"], False),
    ],
)
def test_a_file_may_be_added_where_a_glob_allows_it_and_nowhere_else(path, globs, allowed):
    assert fits(path, globs) == allowed


@pytest.mark.parametrize("name", ["a b", "a\tb\n", 'a"b', "a\\b", "ü\x7f", "'"])
def test_a_name_is_read_back_as_it_was_quoted(name):
    assert unquoted(quoted(name)) == name
    assert unquoted(in_quotes(name)) == name
