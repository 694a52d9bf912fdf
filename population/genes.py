"""Genes and the base tree they are anchored to: an edit is a span of one base file, a gene is one idea.

A file that is added or deleted is one edit of its own kind; a renamed file is one deleted and one added.

What can be wrong with a patch, each a user's mistake:

    Mistake
      +- UnknownPath         an edit of a file that no gene may touch
      +- FileExists          a file to be added that the base has already
      +- EditOutsideFile     a span that the base file does not have
      +- EditsOverlap        two edits of one gene over the same text
      +- ChangesNothing      a patch after which every file is as before
      +- NotText             half of a surrogate pair, which no file can hold
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import pairwise

from population.diff import diff, patched
from population.mistakes import Mistake
from population.paths import fits, quoted


class Category(StrEnum):
    """What part of the recipe a gene touches."""

    ARCHITECTURE = "architecture"
    ATTENTION = "attention"
    INITIALISATION = "initialisation"
    OPTIMISER = "optimiser"
    SCHEDULE = "schedule"
    REGULARISATION = "regularisation"
    SYSTEMS = "systems"
    OTHER = "other"


class Origin(StrEnum):
    """Who wrote a gene."""

    LLM = "llm"
    KNOB = "knob"
    HUMAN = "human"
    IMPORT = "import"
    MERGE = "merge"


@dataclass(frozen=True)
class BaseTree:
    """The unpatched editable text of the target: path -> text, newlines untouched. Genes may add what a glob allows."""

    files: Mapping[str, str]
    addable: tuple[str, ...] = field(default=(), compare=False)  # globs

    @cached_property
    def base_id(self) -> str:
        """Return 16 hex digits: a hash of every path and text."""
        return tree_id(self.files)

    def under(self, edit: Edit) -> str:
        """Return the text that an edit is a span of: its base file, or nothing where a file is added."""
        return "" if edit.kind is Kind.ADD_FILE else self.files[edit.path]


class Kind(StrEnum):
    """What an edit does."""

    SPAN = "span"  # changes the text of a file
    ADD_FILE = "add_file"
    DELETE_FILE = "delete_file"


@dataclass(frozen=True, slots=True, order=True)
class Edit:
    """Replace characters [start, end) of base file `path` by `replacement`. start == end inserts.

    An added file is the span [0, 0) of a path that the base does not have; a deleted one is the span of all its text.
    So added and deleted files meet other edits by the same rule as spans do.
    """

    path: str
    start: int
    end: int
    replacement: str
    kind: Kind = Kind.SPAN


@dataclass(frozen=True)
class Gene:
    """One idea: canonical edits that only make sense together. `gene_id` hashes edits, path and base file, no more."""

    gene_id: str
    title: str
    hypothesis: str
    category: Category
    origin: Origin
    edits: tuple[Edit, ...]
    allele_of: str | None = None
    requires: tuple[str, ...] = ()


def tree_id(files: Mapping[str, str]) -> str:
    """Return 16 hex digits that identify these paths and texts."""
    digest = hashlib.sha256()
    for path in sorted(files):
        text = files[path].encode()
        digest.update(f"{path}\0{len(text)}\0".encode() + text)
    return digest.hexdigest()[:16]


class UnknownPath(Mistake):
    """An edit of a file that is not in the base tree, and that no glob allows to add."""

    def __init__(self, path: str, base: BaseTree) -> None:
        known = ", ".join(sorted(base.files))
        more = f", and may add files that match: {', '.join(base.addable)}" if base.addable else ""
        super().__init__(f"{path} is not an editable file of the base; genes may change only: {known}{more}.")


class FileExists(Mistake):
    """A file to be added that the base has already."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} cannot be added, because the base has it already; change the text that it has there.")


class EditOutsideFile(Mistake):
    """A span that the base file does not have."""

    def __init__(self, edit: Edit, length: int) -> None:
        super().__init__(
            f"The edit of {edit.path} replaces characters {edit.start} to {edit.end}, but the file has {length}; "
            "give 0 <= start <= end <= length, counted in the unpatched file (an added file has 0, and a deleted file "
            "goes from 0 to its length)."
        )


class EditsOverlap(Mistake):
    """Two edits of one gene over the same text, or two insertions at one point."""

    def __init__(self, place: str) -> None:
        super().__init__(f"Two edits of one gene overlap at {place}; join them into one edit.")


class ChangesNothing(Mistake):
    """A patch after which every file is as before."""

    def __init__(self, title: str) -> None:
        super().__init__(f"The patch '{title}' leaves every file as it was; a gene must change something.")


class NotText(Mistake):
    """A replacement that no UTF-8 file can hold."""

    def __init__(self, path: str) -> None:
        super().__init__(f"The new text of {path} holds half a surrogate pair, which UTF-8 cannot write; remove it.")


def gene_from_edits(
    base: BaseTree,
    edits: Iterable[Edit],
    *,
    title: str,
    hypothesis: str,
    category: Category,
    origin: Origin,
    allele_of: str | None = None,
    requires: tuple[str, ...] = (),
) -> Gene:
    """Return the gene that these edits of the base make, in any order and of any granularity.

    Raises UnknownPath, FileExists, EditOutsideFile, EditsOverlap, ChangesNothing, NotText.
    """
    return gene_from_files(
        base,
        edited_files(base, edits),
        title=title,
        hypothesis=hypothesis,
        category=category,
        origin=origin,
        allele_of=allele_of,
        requires=requires,
    )


def gene_from_files(
    base: BaseTree,
    files: Mapping[str, str | None],
    *,
    title: str,
    hypothesis: str,
    category: Category,
    origin: Origin,
    allele_of: str | None = None,
    requires: tuple[str, ...] = (),
) -> Gene:
    """Return the gene that turns the base into these files; None deletes one, and one that is not named stays as it is.

    Raises UnknownPath, ChangesNothing, NotText.
    """
    edits = _canonical(base, files)
    if not edits:
        raise ChangesNothing(title)
    gene_id = _gene_id(base, edits)
    return Gene(gene_id, title, hypothesis, category, origin, edits, allele_of, tuple(sorted(set(requires))))


def edited_files(base: BaseTree, edits: Iterable[Edit]) -> dict[str, str | None]:
    """Return the files that edits of one gene touch, as they leave them; None is a deleted one.

    Raises UnknownPath, FileExists, EditOutsideFile, EditsOverlap.
    """
    return {path: _edited(base.under(found[0]), found) for path, found in _checked(base, edits).items()}


def lay(base: BaseTree, genes: Iterable[Gene]) -> dict[str, str]:
    """Return the tree with all spans laid on the base at once. `compose` is this, checked: here conflicts go unseen."""
    files = dict(base.files)
    for path, edits in _by_path({edit for gene in genes for edit in gene.edits}).items():
        text = _edited(base.under(edits[0]), sorted(edits))
        if text is None:
            files.pop(path, None)
        else:
            files[path] = text
    return files


def render_diff(base: BaseTree, genes: Iterable[Gene]) -> str:
    """Return the unified diff from the base to the base with these genes, as `git apply` accepts it."""
    files = lay(base, genes)
    paths = sorted(base.files.keys() | files.keys())
    return "".join(_file_diff(path, base.files.get(path), files.get(path)) for path in paths)


def lines_changed(base: BaseTree, gene: Gene) -> tuple[int, int]:
    """Return how many lines a gene adds and removes, counted in its unified diff."""
    files = lay(base, [gene])
    paths = {edit.path for edit in gene.edits}
    marks = [line[0] for path in paths for line in _hunks(base.files.get(path, ""), files.get(path, ""))]
    return marks.count("+"), marks.count("-")


def place(base: BaseTree, path: str, at: int) -> str:
    """Name a place of the base as `path:line`."""
    return f"{path}:{base.files.get(path, '').count(chr(10), 0, at) + 1}"


def split_lines(text: str) -> list[str]:
    """Cut a text into lines, ends kept. Only a line feed ends a line, as in git."""
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + lines[-1:] * bool(lines[-1])


def _by_path(edits: Iterable[Edit]) -> dict[str, list[Edit]]:
    found: dict[str, list[Edit]] = {}
    for edit in edits:
        found.setdefault(edit.path, []).append(edit)
    return found


def _edited(text: str, edits: Sequence[Edit]) -> str | None:
    """Return a file's text after its sorted edits; None when they delete it."""
    if any(edit.kind is Kind.DELETE_FILE for edit in edits):
        return None
    return patched(text, ((edit.start, edit.end, edit.replacement) for edit in edits))


def _checked(base: BaseTree, edits: Iterable[Edit]) -> dict[str, list[Edit]]:
    """Sort edits by path and position; raise for those that cannot be laid on the base."""
    ordered = sorted(set(edits))
    for edit in ordered:
        _check_inside(base, edit)
    for a, b in pairwise(ordered):
        if a.path == b.path and _overlap(a, b):
            raise EditsOverlap(place(base, b.path, b.start))
    return _by_path(ordered)


def _overlap(a: Edit, b: Edit) -> bool:
    """Say whether two edits of one file cannot both be laid, the first not starting after the second."""
    whole = not (a.kind is b.kind is Kind.SPAN)
    return whole or b.start < a.end or a.start == a.end == b.start == b.end


def _check_inside(base: BaseTree, edit: Edit) -> None:
    adds = edit.kind is Kind.ADD_FILE
    if adds and edit.path in base.files:
        raise FileExists(edit.path)
    if not adds and edit.path not in base.files:
        raise UnknownPath(edit.path, base)
    length = len(base.under(edit))
    whole = (edit.start, edit.end) == (0, length)
    if not (0 <= edit.start <= edit.end <= length and (whole or edit.kind is Kind.SPAN)):
        raise EditOutsideFile(edit, length)


def _canonical(base: BaseTree, files: Mapping[str, str | None]) -> tuple[Edit, ...]:
    """Diff the base against new texts of some of its files: edits sorted by path and position."""
    return tuple(edit for path in sorted(files) for edit in _file_edits(base, path, files[path]))


def _file_edits(base: BaseTree, path: str, new: str | None) -> list[Edit]:
    old = base.files.get(path)
    if old is None and (new is None or not fits(path, base.addable)):
        raise UnknownPath(path, base)
    if new is not None and _has_surrogate(new):
        raise NotText(path)
    if old is None:
        return [Edit(path, 0, 0, new or "", Kind.ADD_FILE)]
    if new is None:
        return [Edit(path, 0, len(old), "", Kind.DELETE_FILE)]
    return [] if old == new else [Edit(path, *change) for change in diff(old, new, path)]


def _has_surrogate(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)


def _gene_id(base: BaseTree, edits: Collection[Edit]) -> str:
    """Hash the edits with their path and the hash of their base file, nothing else: 16 hex digits."""
    digest = hashlib.sha256()
    hashes = {path: _hash(base.files.get(path, "")) for path in {edit.path for edit in edits}}
    for edit in edits:
        kind = "" if edit.kind is Kind.SPAN else f" {edit.kind}"
        span = f"{hashes[edit.path]} {edit.start} {edit.end} {_hash(edit.replacement)}{kind}"
        digest.update(f"{edit.path}\0{span}\n".encode())
    return digest.hexdigest()[:16]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _file_diff(path: str, old: str | None, new: str | None) -> str:
    """Return the diff of one file; None is a file that is not there."""
    if old == new:
        return ""
    hunks = _hunks(old or "", new or "")
    body = "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in hunks)
    mode = "new file mode 100644\n" if old is None else "deleted file mode 100644\n" if new is None else ""
    tab = "\t" if " " in path else ""  # ends a name with spaces
    a, b = quoted(f"a/{path}"), quoted(f"b/{path}")
    names = f"--- {'/dev/null' if old is None else a + tab}\n+++ {'/dev/null' if new is None else b + tab}\n"
    return f"diff --git {a} {b}\n{mode}{names if body else ''}{body}"


def _hunks(old: str, new: str) -> list[str]:
    """Return the unified diff without its two file names."""
    return list(difflib.unified_diff(split_lines(old), split_lines(new)))[2:]
