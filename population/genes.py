"""Genes and the base tree they are anchored to: an edit is a span of one base file, a gene is one idea.

What can be wrong with a patch, each a user's mistake:

    Mistake
      +- UnknownPath         an edit of a file that no gene may touch
      +- EditOutsideFile     a span that the base file does not have
      +- EditsOverlap        two edits of one gene over the same text
      +- ChangesNothing      a patch after which every file is as before
      +- NotText             half of a surrogate pair, which no file can hold
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import pairwise

from population.diff import diff, patched
from population.mistakes import Mistake


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
    """The unpatched editable text of the target: path -> text, newlines untouched."""

    files: Mapping[str, str]

    @cached_property
    def base_id(self) -> str:
        """Return 16 hex digits: a hash of every path and text."""
        return tree_id(self.files)


@dataclass(frozen=True, slots=True, order=True)
class Edit:
    """Replace characters [start, end) of base file `path` by `replacement`. start == end inserts."""

    path: str
    start: int
    end: int
    replacement: str


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
    """An edit of a file that is not in the base tree."""

    def __init__(self, path: str, base: BaseTree) -> None:
        known = ", ".join(sorted(base.files))
        super().__init__(f"{path} is not an editable file of the base; genes may change only: {known}.")


class EditOutsideFile(Mistake):
    """A span that the base file does not have."""

    def __init__(self, edit: Edit, length: int) -> None:
        super().__init__(
            f"The edit of {edit.path} replaces characters {edit.start} to {edit.end}, but the file has {length}; "
            "give 0 <= start <= end <= length, counted in the unpatched file."
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

    Raises UnknownPath, EditOutsideFile, EditsOverlap, ChangesNothing, NotText.
    """
    files = {path: patched(base.files[path], changes) for path, changes in _checked(base, edits).items()}
    return gene_from_files(
        base,
        files,
        title=title,
        hypothesis=hypothesis,
        category=category,
        origin=origin,
        allele_of=allele_of,
        requires=requires,
    )


def gene_from_files(
    base: BaseTree,
    files: Mapping[str, str],
    *,
    title: str,
    hypothesis: str,
    category: Category,
    origin: Origin,
    allele_of: str | None = None,
    requires: tuple[str, ...] = (),
) -> Gene:
    """Return the gene that turns the base into these files; a file that is not named stays as it is.

    Raises UnknownPath, ChangesNothing, NotText.
    """
    edits = _canonical(base, files)
    if not edits:
        raise ChangesNothing(title)
    gene_id = _gene_id(base, edits)
    return Gene(gene_id, title, hypothesis, category, origin, edits, allele_of, tuple(sorted(set(requires))))


def lay(base: BaseTree, genes: Iterable[Gene]) -> dict[str, str]:
    """Return the tree with all spans laid on the base at once. `compose` is this, checked: here conflicts go unseen."""
    edits = {edit for gene in genes for edit in gene.edits}
    by_path: dict[str, list[tuple[int, int, str]]] = {}
    for edit in edits:
        by_path.setdefault(edit.path, []).append((edit.start, edit.end, edit.replacement))
    return {**base.files, **{path: patched(base.files[path], sorted(cuts)) for path, cuts in by_path.items()}}


def render_diff(base: BaseTree, genes: Iterable[Gene]) -> str:
    """Return the unified diff from the base to the base with these genes, as `git apply` accepts it."""
    files = lay(base, genes)
    return "".join(_file_diff(path, base.files[path], files[path]) for path in sorted(files))


def lines_changed(base: BaseTree, gene: Gene) -> tuple[int, int]:
    """Return how many lines a gene adds and removes, counted in its unified diff."""
    files = lay(base, [gene])
    marks = [line[0] for path in files for line in _hunks(base.files[path], files[path])]
    return marks.count("+"), marks.count("-")


def place(base: BaseTree, path: str, at: int) -> str:
    """Name a place of the base as `path:line`."""
    return f"{path}:{base.files[path].count(chr(10), 0, at) + 1}"


def _checked(base: BaseTree, edits: Iterable[Edit]) -> dict[str, list[tuple[int, int, str]]]:
    """Sort edits by path and position; raise for those that cannot be laid on the base."""
    ordered = sorted(set(edits))
    by_path: dict[str, list[tuple[int, int, str]]] = {}
    for edit in ordered:
        _check_inside(base, edit)
        by_path.setdefault(edit.path, []).append((edit.start, edit.end, edit.replacement))
    for a, b in pairwise(ordered):
        if a.path == b.path and (b.start < a.end or a.start == a.end == b.start == b.end):
            raise EditsOverlap(place(base, b.path, b.start))
    return by_path


def _check_inside(base: BaseTree, edit: Edit) -> None:
    if edit.path not in base.files:
        raise UnknownPath(edit.path, base)
    length = len(base.files[edit.path])
    if not 0 <= edit.start <= edit.end <= length:
        raise EditOutsideFile(edit, length)


def _canonical(base: BaseTree, files: Mapping[str, str]) -> tuple[Edit, ...]:
    """Diff the base against new texts of some of its files: edits sorted by path and position."""
    edits: list[Edit] = []
    for path in sorted(files):
        if path not in base.files:
            raise UnknownPath(path, base)
        if _has_surrogate(files[path]):
            raise NotText(path)
        if files[path] != base.files[path]:
            edits += (Edit(path, *change) for change in diff(base.files[path], files[path], path))
    return tuple(edits)


def _has_surrogate(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)


def _gene_id(base: BaseTree, edits: Collection[Edit]) -> str:
    """Hash the edits with their path and the hash of their base file, nothing else: 16 hex digits."""
    digest = hashlib.sha256()
    hashes = {path: _hash(base.files[path]) for path in {edit.path for edit in edits}}
    for edit in edits:
        digest.update(f"{edit.path}\0{hashes[edit.path]} {edit.start} {edit.end} {_hash(edit.replacement)}\n".encode())
    return digest.hexdigest()[:16]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _file_diff(path: str, old: str, new: str) -> str:
    if old == new:
        return ""
    body = "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in _hunks(old, new)
    )
    tab = "\t" if " " in path else ""  # ends a name with spaces
    return f"diff --git a/{path} b/{path}\n--- a/{path}{tab}\n+++ b/{path}{tab}\n{body}"


def _hunks(old: str, new: str) -> list[str]:
    """Return the unified diff without its two file names. Only a line feed ends a line, as in git."""
    return list(difflib.unified_diff(_git_lines(old), _git_lines(new)))[2:]


def _git_lines(text: str) -> list[str]:
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + lines[-1:] * bool(lines[-1])
