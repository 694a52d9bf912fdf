"""Patches: what people and models write is found on the base, made minimal, or refused with a precise sentence."""

import bisect
import re
import shutil
import subprocess
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from population.compose import compose
from population.genes import (
    BaseTree,
    Category,
    Edit,
    Kind,
    Origin,
    edited_files,
    gene_from_edits,
    gene_from_files,
    render_diff,
)
from population.mistakes import Mistake
from population.patches import locate, render_blocks
from population.tokens import spans

GPT = """\
class Block:
    def forward(self, x):
        x = self.norm(x)
        x = x + self.attend(x)
        return x

    def reset(self):
        scale = 0.02  # of the weights
        self.fill(scale)


class Head:
    def forward(self, x):
        x = self.norm(x)
        return self.out(x)

    def reset(self):
        scale = 0.01
        self.fill(scale)
"""
OPTIM = "lr = 0.02\nbeta = 0.95\n\nwarmup = 10\n"
BASE = BaseTree(
    {
        "nanochat/gpt.py": GPT,
        "nanochat/optim.py": OPTIM,
        "crlf.py": "a = 1\r\n\r\nb = 2\r\n",
        "end.txt": "one\ntwo",
        "empty.txt": "",
        "names/a b.txt": "x\n",
    },
    ("**/*",),
)
HEADER = "--- a/nanochat/gpt.py\n+++ b/nanochat/gpt.py\n"


def changed(text, base=BASE):
    """The files that a patch changes, as it leaves them."""
    return edited_files(base, locate(base, text))


def block(path, old, new):
    return f"{path}\n<<<<<<< SEARCH\n{old}=======\n{new}>>>>>>> REPLACE\n"


def gene(base, edits):
    return gene_from_edits(base, edits, title="t", hypothesis="", category=Category.OTHER, origin=Origin.HUMAN)


# diffs

SCALE = """\
@@ -7,3 +7,3 @@ class Block:
     def reset(self):
-        scale = 0.02  # of the weights
+        scale = 0.03  # of the weights
         self.fill(scale)
"""
SCALED = {"nanochat/gpt.py": GPT.replace("0.02", "0.03")}
GIT = "diff --git a/nanochat/gpt.py b/nanochat/gpt.py\nindex 83db48f..bf269f4 100644\n"
MAIL = "From 83db48f Mon Sep 17 00:00:00 2001\nSubject: [PATCH] scale\n\n---\n nanochat/gpt.py | 2 +-\n\n"
SLOPPY = {
    "as git writes it": GIT + HEADER + SCALE,
    "without index lines": HEADER + SCALE,
    "counts too large": HEADER + SCALE.replace("-7,3 +7,3", "-7,40 +7,41"),
    "counts too small": HEADER + SCALE.replace("-7,3 +7,3", "-7,1 +7,1"),
    "moved context": HEADER + SCALE.replace("-7,3 +7,3", "-107,4 +90,4"),
    "no numbers": HEADER + SCALE.replace("@@ -7,3 +7,3 @@ class Block:", "@@ ... @@"),
    "a bare @@": HEADER + SCALE.replace("@@ -7,3 +7,3 @@ class Block:", "@@"),
    "no prefixes": "--- nanochat/gpt.py\n+++ nanochat/gpt.py\n" + SCALE,
    "mnemonic prefixes": "--- i/nanochat/gpt.py\n+++ w/nanochat/gpt.py\n" + SCALE,
    "dates": "--- a/nanochat/gpt.py\t2026-01-01 10:00\n+++ b/nanochat/gpt.py\t2026-01-02 10:00\n" + SCALE,
    "an original beside it": "--- nanochat/gpt.py.orig\n+++ nanochat/gpt.py\n" + SCALE,
    "a copy beside it": "--- nanochat/gpt.py\n+++ nanochat/gpt_new.py\n" + SCALE,
    "blank context without its space": HEADER + SCALE.replace("-7,3", "-6,4").replace("Block:\n", "Block:\n\n"),
    "no last newline": (HEADER + SCALE).rstrip(),
    "blank lines after it": HEADER + SCALE + "\n\n\n",
    "in a fence, with prose": f"Here you are:\n```diff\n{HEADER}{SCALE}```\nIt helps.\n",
    "trailing spaces on context": HEADER + SCALE.replace("def reset(self):", "def reset(self):   "),
    "carriage returns": (GIT + HEADER + SCALE).replace("\n", "\r\n"),
    "a mail": MAIL + GIT + HEADER + SCALE + "-- \n2.39.5\n\n",
    "a hunk without context": f"{HEADER}@@ -8 +8 @@\n-        scale = 0.02  # of the weights\n"
    "+        scale = 0.03  # of the weights\n",
}


@pytest.mark.parametrize("text", SLOPPY.values(), ids=SLOPPY)
def test_a_sloppy_diff_is_found_and_made_minimal(text):
    (edit,) = gene(BASE, locate(BASE, text)).edits
    assert (GPT[edit.start : edit.end], edit.replacement) == ("0.02", "0.03")
    assert changed(text) == SCALED


def test_the_line_number_settles_which_of_equal_places_is_meant():
    hunk = "     def forward(self, x):\n-        x = self.norm(x)\n+        x = norm(x)\n"
    assert changed(f"{HEADER}@@ -13,2 +13,2 @@\n{hunk}")["nanochat/gpt.py"].count("self.norm") == 1
    with pytest.raises(Mistake, match=r"occur 2 times, expected 1: nanochat/gpt.py:2, nanochat/gpt.py:13;"):
        locate(BASE, f"{HEADER}@@ -12,2 +12,2 @@\n{hunk}")


def test_several_hunks_and_files_are_all_counted_in_the_base():
    text = f"""{HEADER}@@ -5 +5,2 @@
-        return x
+        x = x * 2
+        return x
@@ -17,2 +18,2 @@
     def reset(self):
-        scale = 0.01
+        scale = 0.0
--- a/nanochat/optim.py
+++ b/nanochat/optim.py
@@ -1,2 +1 @@
-lr = 0.02
 beta = 0.95
"""
    assert changed(text) == {
        "nanochat/gpt.py": GPT.replace("        return x\n", "        x = x * 2\n        return x\n").replace(
            "0.01", "0.0"
        ),
        "nanochat/optim.py": OPTIM.removeprefix("lr = 0.02\n"),
    }


def test_a_file_with_carriage_returns_keeps_them_under_a_patch_without():
    text = "--- a/crlf.py\n+++ b/crlf.py\n@@ -1,3 +1,4 @@\n a = 1\n\n-b = 2\n+b = 3\n+c = 4\n"
    assert changed(text) == {"crlf.py": "a = 1\r\n\r\nb = 3\r\nc = 4\r\n"}
    assert changed(block("crlf.py", "b = 2\n", "b = 3\nc = 4\n")) == {"crlf.py": "a = 1\r\n\r\nb = 3\r\nc = 4\r\n"}


def test_a_patch_that_changes_only_newlines_is_taken_at_its_word():
    text = "--- a/crlf.py\n+++ b/crlf.py\n@@ -1 +1 @@\n-a = 1\r\n+a = 1\n"
    assert changed(text) == {"crlf.py": "a = 1\n\r\nb = 2\r\n"}


@pytest.mark.parametrize(
    ("hunk", "after"),
    [
        ("-two\n\\ No newline at end of file\n+three\n\\ No newline at end of file\n", "one\nthree"),
        ("-two\n\\ No newline at end of file\n+three\n", "one\nthree\n"),
        ("-two\n+three\n", "one\nthree"),
        (" two\n+three\n", "one\ntwo\nthree"),
        ("-two\n", "one\n"),
        ("-one \n-two\n\\ No newline at end of file\n+one\n+three\n", "one\nthree\n"),
    ],
)
def test_the_end_of_a_file_keeps_its_newline_or_the_lack_of_one_unless_the_patch_says_so(hunk, after):
    assert changed(f"--- a/end.txt\n+++ b/end.txt\n@@ -2 +2 @@\n{hunk}") == {"end.txt": after}


def test_a_removed_line_that_looks_like_a_header_is_a_line():
    base = BaseTree({"q.sql": "-- a\n-- b\nselect\n"})
    text = "--- q.sql\n+++ q.sql\n@@ -1,3 +1,3 @@\n--- a\n+++ c\n -- b\n-select\n+-- d\n"
    assert changed(text, base) == {"q.sql": "++ c\n-- b\n-- d\n"}


def test_lines_are_inserted_by_number_where_a_diff_has_no_context():
    text = "--- a/nanochat/optim.py\n+++ b/nanochat/optim.py\n@@ -2,0 +3 @@\n+gamma = 1\n"
    assert changed(text) == {"nanochat/optim.py": OPTIM.replace("0.95\n", "0.95\ngamma = 1\n")}


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("--- /dev/null\n+++ b/new.py\n@@ -0,0 +1,2 @@\n+a\n+b\n", {"new.py": "a\nb\n"}),
        ("--- a/new.py\n+++ b/new.py\n@@ -0,0 +1 @@\n+a\n\\ No newline at end of file\n", {"new.py": "a"}),
        ("diff --git a/new.py b/new.py\nnew file mode 100644\nindex 0000000..e69de29\n", {"new.py": ""}),
        ("diff --git a/empty.txt b/empty.txt\ndeleted file mode 100644\nindex e69de29..0000000\n", {"empty.txt": None}),
        (
            "--- a/end.txt\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-one\n-two\n\\ No newline at end of file\n",
            {"end.txt": None},
        ),
        ("--- a/end.txt\n+++ /dev/null\n", {"end.txt": None}),
        (
            "diff --git a/end.txt b/a/far.txt\nsimilarity index 100%\nrename from end.txt\nrename to a/far.txt\n",
            {"end.txt": None, "a/far.txt": "one\ntwo"},
        ),
        (
            "diff --git a/end.txt b/far.txt\nsimilarity index 50%\nrename from end.txt\nrename to far.txt\n"
            "--- a/end.txt\n+++ b/far.txt\n@@ -1,2 +1,2 @@\n-one\n+1\n two\n\\ No newline at end of file\n",
            {"end.txt": None, "far.txt": "1\ntwo"},
        ),
        ('diff --git "a/\\303\\274\\t.py" "b/\\303\\274\\t.py"\nnew file mode 100644\n', {"ü\t.py": ""}),
        ("--- a/empty.txt\n+++ b/empty.txt\n@@ -0,0 +1 @@\n+x\n", {"empty.txt": "x\n"}),
        ("--- a/names/a b.txt\t\n+++ b/names/a b.txt\t\n@@ -1 +1 @@\n-x\n+y\n", {"names/a b.txt": "y\n"}),
        (block("new.py", "", "a\n"), {"new.py": "a\n"}),
        (block("new.py", "", ""), {"new.py": ""}),
        (block("a/new.py", "", ""), {"a/new.py": ""}),
        (block("empty.txt", "", "x\n"), {"empty.txt": "x\n"}),
        ("end.txt\n<<<<<<< DELETE\n", {"end.txt": None}),
    ],
)
def test_files_are_added_deleted_renamed_and_filled(text, files):
    assert changed(text) == files


# blocks


def test_blocks_are_found_by_whole_lines_and_share_the_path_above_the_first():
    text = """I would change two things.

**`nanochat/optim.py`**
```python
<<<<<<< SEARCH
lr = 0.02
beta = 0.95
=======
lr = 0.03
beta = 0.95
>>>>>>> REPLACE
```

<<<<<<< SEARCH
warmup = 10
=======
warmup = 20
>>>>>>> REPLACE
""" + block("nanochat/gpt.py", "        scale = 0.01\n", "        scale = 0.0\n")
    assert changed(text) == {
        "nanochat/optim.py": "lr = 0.03\nbeta = 0.95\n\nwarmup = 20\n",
        "nanochat/gpt.py": GPT.replace("0.01", "0.0"),
    }


def test_a_block_may_be_a_fragment_of_a_line_that_begins_and_ends_where_tokens_do():
    assert changed(block("nanochat/gpt.py", "scale = 0.02\n", "scale = 0.5\n")) == {
        "nanochat/gpt.py": GPT.replace("0.02", "0.5")
    }
    with pytest.raises(Mistake, match=r"occur 2 times, expected 1: nanochat/gpt.py:8, nanochat/gpt.py:18"):
        locate(BASE, block("nanochat/gpt.py", "scale =\n", "size =\n"))
    with pytest.raises(Mistake, match=r"not in nanochat/gpt\.py"):
        locate(BASE, block("nanochat/gpt.py", "ale = 0.02\n", "ale = 0.5\n"))


def test_fences_may_be_longer_for_text_that_holds_fences():
    base = BaseTree({"doc.md": "Title\n=======\n"})
    text = "doc.md\n<<<<<<<< SEARCH\nTitle\n=======\n========\nName\n=======\n>>>>>>>> REPLACE\n"
    assert changed(text, base) == {"doc.md": "Name\n=======\n"}


def test_two_blocks_may_touch_one_line_and_share_context():
    text = block("x.py", "f(1, 2)\ny\n", "f(9, 2)\ny\n") + block("x.py", "f(1, 2)\ny\n", "f(1, 8)\ny\n")
    assert changed(text, BaseTree({"x.py": "f(1, 2)\ny\n"})) == {"x.py": "f(9, 8)\ny\n"}


# mistakes

NEAR = (
    r"The lines of block 1 \(line 2 of the patch\) are not in nanochat/gpt.py: nearest is nanochat/gpt.py:8, where "
    r"line 8 is '        scale = 0.02  # of the weights' and the patch has '        scale = 0.2  # of the weights'. "
    r"Copy them from the unpatched file."
)
D = "--- a/end.txt\n+++ b/end.txt\n"
MALFORMED = [
    ("", "neither a search/replace block"),
    ("Please raise the learning rate.\n", "neither a search/replace block"),
    ("-lr = 0.02\n+lr = 0.03\n", "neither a search/replace block"),
    ("<<<<<<< SEARCH\none\n=======\n1\n>>>>>>> REPLACE\n", "line 1 of the patch names no file"),
    ("<<<<<<< DELETE\n", "line 1 of the patch names no file"),
    ("end.txt\n<<<<<<< SEARCH\none\n", "Line 2 of the patch opens a block without '======='"),
    ("end.txt\n<<<<<<< SEARCH\none\n=======\n1\n", "opens a block without '>>>>>>> REPLACE'"),
    ("end.txt\n<<<<<<< SEARCH\none\n>>>>>>> REPLACE\n", "Line 4 .* is '>>>>>>> REPLACE' where '=======' was due"),
    ("end.txt\n<<<<<<< SEARCH\none\n=======\n=======\n>>>>>>> REPLACE\n", "Line 5 .* where '>>>>>>> REPLACE' was due"),
    ("e\n<<<<<<< SEARCH\n<<<<<<< SEARCH\n=======\n>>>>>>> REPLACE\n", "Line 3 .* is '<<<<<<< SEARCH' where '======='"),
    (block("end.txt", "one\n", "1\n") + ">>>>>>> REPLACE\n", "Line 7 .* closes a block that was not opened"),
    (block("gone.txt", "one\n", "1\n"), "gone.txt is not in the base, but block 1"),
    (block("../up.txt", "", "1\n"), r"\.\./up.txt is not an editable file of the base"),
    (block("/etc/passwd", "one\n", "1\n"), "/etc/passwd is not an editable file"),
    (block("end.txt", "one\n", "one\n"), "the same before and after; leave it out"),
    (block("end.txt", "", "zero\n"), "Nothing says where in end.txt"),
    (block("end.txt", "three\n", "3\n"), "The lines of block 1 .* no line there is like one of them"),
    (block("nanochat/gpt.py", "        scale = 0.2  # of the weights\n        self.fill(scale)\n", ""), NEAR),
    (block("end.txt", "warmup = 10\n", "x\n"), "the same lines are at nanochat/optim.py:4"),
    (
        block("nanochat/optim.py", "lr = 0.02\nwarmup = 10\n", "x\n"),
        r"line 2, 'beta = 0.95', is missing from the patch",
    ),
    (
        block("nanochat/optim.py", "lr = 0.02\nlr2 = 1\nbeta = 0.95\n", ""),
        "the patch has 'lr2 = 1', which is not there",
    ),
    (
        block("nanochat/gpt.py", "        self.fill(scale)\n", ""),
        "occur 2 times.*gpt.py:9, nanochat/gpt.py:19; add lines",
    ),
    (block("end.txt", "one\n", "1\n") + block("end.txt", "one\n", "2\n"), "overlap at end.txt:1"),
    (block("new.py", "", "1\n") + block("new.py", "", "2\n"), "overlap at new.py:1"),
    ("gone.txt\n<<<<<<< DELETE\n", "gone.txt is not an editable file of the base"),
    ("@@ -1 +1 @@\n-one\n+1\n", "The hunk at line 1 of the patch belongs to no file"),
    ("--- a/end.txt\n@@ -1 +1 @@\n-one\n+1\n", r"'--- a/end.txt', but a file is named by two lines"),
    ("+++ b/end.txt\n@@ -1 +1 @@\n-one\n+1\n", r"'\+\+\+ b/end.txt', but a file is named by two lines"),
    ("--- /dev/null\n+++ /dev/null\n@@ -1 +1 @@\n-one\n+1\n", "named by two lines"),
    (D + "@@ -1 +1 @@\n-one\n+1\nso it is better\n", "Line 6 of the patch is 'so it is better', within a hunk"),
    (D, "names b/end.txt but has no hunk"),
    (D + "-one\n+1\n", "names b/end.txt but has no hunk"),
    (D + "@@ -1,2 +1,2 @@\n one\n two\n", "the same before and after"),
    (D + "@@ -1 +1 @@\n+zero\n", "Nothing says where in end.txt"),
    (D + "@@ -9,0 +9 @@\n+zero\n", "Nothing says where in end.txt"),
    (D + "@@ -2,0 +3 @@\n+three\n", "Nothing says where in end.txt"),
    ("--- /dev/null\n+++ b/end.txt\n@@ -0,0 +1 @@\n+x\n", "end.txt cannot be added"),
    ("--- /dev/null\n+++ b/new.py\n@@ -1 +1,2 @@\n one\n+x\n", "looks for old lines in it: 'one'"),
    (
        "--- a/end.txt\n+++ /dev/null\n@@ -1 +0,0 @@\n-one\n",
        "deletes end.txt, but the lines of hunk 1 .* not the whole",
    ),
    ("diff --git a/end.txt b/end.txt\nold mode 100644\nnew mode 100755\n", "'old mode 100644', is no change of text"),
    ("diff --git a/x.png b/x.png\nBinary files a/x.png and b/x.png differ\n", "is no change of text"),
    ("diff --git a/end.txt b/n\nsimilarity index 100%\ncopy from end.txt\ncopy to n\n", "'copy from end.txt'"),
    ("diff --cc end.txt\n--- a/end.txt\n+++ b/end.txt\n@@@ -1,1 -1,1 +1,1 @@@\n", "'@@@ .*is no change of text"),
    ("diff --git a/gone b/n\nrename from gone\nrename to n\n", "gone is not an editable file"),
    ("diff --git a/end.txt b/empty.txt\nrename from end.txt\nrename to empty.txt\n", "empty.txt cannot be added"),
]


@pytest.mark.parametrize(("text", "words"), MALFORMED)
def test_a_patch_that_cannot_be_is_refused_in_a_full_sentence(text, words):
    before = dict(BASE.files)
    with pytest.raises(Mistake, match=words) as caught:
        gene(BASE, locate(BASE, text))
    assert str(caught.value).endswith(".")
    assert dict(BASE.files) == before


LINES = sorted(
    {line for text in (*SLOPPY.values(), *(text for text, _ in MALFORMED)) for line in text.splitlines(True)}
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(LINES), max_size=12), st.text(max_size=3), st.integers(0, 200))
def test_whatever_is_written_becomes_edits_of_the_base_or_a_sentence(lines, dirt, at):
    text = "".join(lines)
    with suppress(Mistake):
        gene(BASE, locate(BASE, text[:at] + dirt + text[at:]))


def test_a_file_that_no_glob_allows_is_not_added():
    base = BaseTree(BASE.files, ("nanochat/*.py", "data/**/*.txt"))
    assert changed(block("nanochat/new.py", "", "x\n"), base) == {"nanochat/new.py": "x\n"}
    assert changed(block("data/a/b/c.txt", "", ""), base) == {"data/a/b/c.txt": ""}
    assert changed(block("data/c.txt", "", ""), base) == {"data/c.txt": ""}
    for path in ("nanochat/sub/new.py", "new.py", "nanochat/new.txt", "nanochat/../data/x.txt", "data//x.txt"):
        with pytest.raises(Mistake, match="may add files that match: nanochat/"):
            locate(base, block(path, "", "x\n"))


# round trips


def source(module):
    with open(module.__file__, encoding="utf-8", newline="") as file:
        return file.read()


REAL = BaseTree(
    {
        "textwrap.py": source(textwrap),
        "crlf.py": source(bisect).replace("\n", "\r\n"),
        "names/ü b.txt": "ü\tb\nlast",
        "empty.txt": "",
        "twice.txt": "x\n\n\nx\n\n\nx\n=======\nx\n\n",
    },
    ("**/*",),
)
TOKENS = [(path, *span) for path, text in REAL.files.items() for span in spans(text, path)]
PIECES = ["0.5", "x", "", "é", "\r\n", "# note\n", " y = 2", "\n<<<<<<< SEARCH\n", "\n======= (no final newline)\n"]
WHOLE = ["", "a", "a\n", "\n", "a\r\nb", "-- \n", "\u2028\n"]


@st.composite
def genes(draw):
    """A gene of a few random token edits, with files added, deleted and filled."""
    places = draw(st.lists(st.sampled_from(TOKENS), min_size=1, max_size=5, unique=True))
    files = edited_files(REAL, draw_edits(draw, places))
    files |= draw(
        st.dictionaries(st.sampled_from(["new.py", "a/b c", '"q"', " s "]), st.sampled_from(WHOLE), max_size=2)
    )
    files |= draw(st.sampled_from([{}, {"crlf.py": None}, {"empty.txt": None}, {"empty.txt": "x"}]))
    return gene_from_files(REAL, files, title="t", hypothesis="", category=Category.OTHER, origin=Origin.HUMAN)


def draw_edits(draw, places):
    for path, start, end in places:
        piece = draw(st.sampled_from(PIECES))
        yield Edit(path, start, end, piece if piece != REAL.files[path][start:end] else "other")


@settings(max_examples=60, deadline=None)
@given(genes())
def test_a_gene_located_from_what_is_rendered_of_it_is_the_same_gene(made):
    for text in (render_blocks(REAL, made), render_diff(REAL, [made])):
        again = gene(REAL, locate(REAL, text))
        assert (again.gene_id, again.edits) == (made.gene_id, made.edits)


@settings(max_examples=30, deadline=None)
@given(genes())
def test_files_added_and_deleted_compose_and_come_back(made):
    files = compose(REAL, [made])
    assert {edit.path for edit in made.edits if edit.kind is Kind.DELETE_FILE} == REAL.files.keys() - files.keys()
    assert {edit.path for edit in made.edits if edit.kind is Kind.ADD_FILE} == files.keys() - REAL.files.keys()
    again = {**dict.fromkeys(REAL.files), **files}
    described = {"title": "t", "hypothesis": "", "category": Category.OTHER, "origin": Origin.IMPORT}
    assert gene_from_files(REAL, again, **described).gene_id == made.gene_id


def test_blocks_are_as_short_as_they_can_be_found():
    text = render_blocks(BASE, gene(BASE, locate(BASE, SLOPPY["no numbers"])))
    old, new = (f"        scale = {number}  # of the weights\n" for number in ("0.02", "0.03"))
    assert text == block("nanochat/gpt.py", old, new)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@settings(max_examples=12, deadline=None)
@given(made=genes())
def test_git_writes_the_same_files_from_the_rendered_diff(tmp_path_factory, made):
    folder = tmp_path_factory.mktemp("tree")
    for path, text in REAL.files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(text.encode())
    patch = render_diff(REAL, [made]).encode()
    command = ["git", "apply", "--whitespace=nowarn", "-"]
    done = subprocess.run(command, input=patch, cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    written = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert written == {path: text.encode() for path, text in compose(REAL, [made]).items()}


def test_the_examples_of_the_manual_are_patches():
    manual = (Path(__file__).parent.parent / "docs" / "patches.md").read_text()
    optim, *examples = re.findall(r"^```\w*\n(.*?)^```$", manual, re.MULTILINE | re.DOTALL)
    base = BaseTree({"optim.py": optim}, ("optim.py", "schedules/*.py"))
    assert [changed(example, base) for example in examples] == [
        {"optim.py": optim.replace("100", "200")},
        {"schedules/cosine.py": "WIDTH = 0.5\n"},
        {"optim.py": optim.replace("0.95", "0.99")},
    ]
