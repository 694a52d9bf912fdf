"""Patches as people and models write them, read into hunks: search/replace blocks, or a unified diff, both sloppy.

A block replaces whole lines, or a fragment of a line that occurs once. Its path stands on the line above it, or is that
of the block before:

    gpt.py
    <<<<<<< SEARCH
    x = 1
    =======
    x = 2
    >>>>>>> REPLACE

An empty SEARCH fills an empty file or adds a new one. `<<<<<<< DELETE`, one line, deletes the file. All three fences of
a block may be longer than 7 signs, alike, for text that holds such lines itself. ` (no final newline)` after `=======`
or `>>>>>>> REPLACE` says that the text above it ends without one.

A diff is found by its hunks: the counts after @@ are not believed, a line number only settles which of several equal
places is meant. unidiff 1.0 and whatthepatch 1.0 were tried: a count that is too small makes both drop changes without
a word, and hunks without numbers are not seen at all.

    Mistake
      +- NoPatch             a text with neither block nor diff
      +- BrokenBlock         fences that do not belong together
      +- BlockWithoutPath    a block and no file named before it
      +- HunkWithoutFile     a hunk and no file named before it
      +- BrokenHeader        `---` without `+++`, or the other way round
      +- StrangeLine         a line within a hunk that begins like none
      +- NoHunks             a file that is named and not changed
      +- NotText             a change of a file's mode, a copy, a binary file, a merge
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from population.genes import split_lines
from population.mistakes import Mistake
from population.paths import unquoted

NO_NEWLINE = " (no final newline)"
_OPEN = re.compile(r"(<{7,}) (SEARCH|DELETE)\s*")
_NUMBERS = re.compile(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,\d+)? @@")
_NOT_TEXT = re.compile(r"(old mode|copy from|GIT binary patch|Binary files .* differ|@@@ ).*")
_TWO_QUOTED = re.compile(r'("(?:[^"\\]|\\.)*") "')


@dataclass(frozen=True)
class Hunk:
    """Lines of a patch that belong together: (mark, text) with mark " " kept, "-" removed, "+" added."""

    name: str  # for people: which one of the patch
    lines: tuple[tuple[str, str], ...]
    first: int | None = None  # where a diff says that it begins: lines of the base above it
    fragment: bool = False  # it may also be a part of a line

    @property
    def old(self) -> list[str]:
        """Return the lines that it wants to find."""
        return [text for mark, text in self.lines if mark != "+"]

    @property
    def new(self) -> list[str]:
        """Return the lines that it wants to leave."""
        return [text for mark, text in self.lines if mark != "-"]


@dataclass
class FilePatch:
    """What a patch does to one file: its names as git writes them (a/FILE, b/FILE), None where there is no file."""

    old: str | None
    new: str | None
    hunks: list[Hunk] = field(default_factory=list[Hunk])
    named: bool = True  # by `---` and `+++`
    renames: bool = False


class NoPatch(Mistake):
    """A text with neither block nor diff."""

    def __init__(self) -> None:
        super().__init__(
            "The patch holds neither a search/replace block (a line '<<<<<<< SEARCH') nor a unified diff (lines "
            "'--- a/FILE', '+++ b/FILE', '@@ -1 +1 @@'); write it as one of the two."
        )


class BrokenBlock(Mistake):
    """Fences that do not belong together."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(
            f"Line {line} of the patch {what}; a block is '<<<<<<< SEARCH', '=======', '>>>>>>> REPLACE' in order, "
            "and has longer fences where its own text holds such lines."
        )


class BlockWithoutPath(Mistake):
    """A block and no file named before it."""

    def __init__(self, line: int) -> None:
        super().__init__(f"The block at line {line} of the patch names no file; write its path on the line above it.")


class HunkWithoutFile(Mistake):
    """A hunk and no file named before it."""

    def __init__(self, line: int) -> None:
        super().__init__(
            f"The hunk at line {line} of the patch belongs to no file; write '--- a/FILE' and '+++ b/FILE' above it."
        )


class BrokenHeader(Mistake):
    """One of the two lines that name a file, without the other."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(
            f"Line {line} of the patch is {text!r}, but a file is named by two lines, '--- a/FILE' and then "
            "'+++ b/FILE'; add the other one."
        )


class StrangeLine(Mistake):
    """A line within a hunk that begins like none."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(
            f"Line {line} of the patch is {text[:80]!r}, within a hunk; lines there begin with a space, '+' or "
            "'-', those of context with a space."
        )


class NoHunks(Mistake):
    """A file that is named and not changed."""

    def __init__(self, path: str) -> None:
        super().__init__(f"The patch names {path} but has no hunk for it; add its hunks, or leave the file out.")


class NotText(Mistake):
    """A change that is not one of text."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(
            f"Line {line} of the patch, {text[:80]!r}, is no change of text; file modes, copies, binary files and "
            "merges cannot be genes, so leave it out."
        )


def parse(text: str) -> list[FilePatch]:
    """Read a patch; a text with a line `<<<<<<< SEARCH` or `<<<<<<< DELETE` is blocks, any other a unified diff.

    Raises the mistakes that the module's docstring lists.
    """
    lines = split_lines(text)
    if any(_OPEN.fullmatch(line) for line in lines):
        return list(_blocks(lines))
    patches = _Diff(lines).read()
    if not patches:
        raise NoPatch
    return patches


def clean(path: str) -> str:
    """Return a path as it stands above a block, without what a model decorates it with."""
    path = path.strip()
    return unquoted(path) if path.startswith('"') else path.strip("`*#: ")


def _blocks(lines: Sequence[str]) -> Iterator[FilePatch]:
    at, count, path = 0, 0, ""
    while at < len(lines):
        opened = _OPEN.fullmatch(lines[at])
        if not opened:
            if re.match(r">{7,} REPLACE", lines[at]):
                raise BrokenBlock(at + 1, "closes a block that was not opened")
            path = clean(lines[at]) if lines[at].strip() and not lines[at].startswith("```") else path
            at += 1
            continue
        if not path:
            raise BlockWithoutPath(at + 1)
        count += 1
        if opened[2] == "DELETE":
            yield FilePatch(f"a/{path}", None)
            at += 1
        else:
            hunk, at = _block(lines, at, len(opened[1]), f"block {count}")
            yield FilePatch(f"a/{path}", f"b/{path}", [hunk])


def _block(lines: Sequence[str], opened: int, size: int, name: str) -> tuple[Hunk, int]:
    """Return the block that opens on a line, and the line after it."""
    fences = {"=" * size: "=", ">" * size + " REPLACE": ">"}
    found: list[int] = []
    for at in range(opened + 1, len(lines)):
        bare = lines[at].rstrip().removesuffix(NO_NEWLINE)
        again = _OPEN.fullmatch(lines[at])
        if bare in fences or (again and len(again[1]) == size):
            if fences.get(bare) != "=>"[len(found)]:
                raise BrokenBlock(at + 1, f"is {bare!r} where {list(fences)[len(found)]!r} was due")
            found.append(at)
        if len(found) == 2:
            old, new = _part(lines, opened, found[0]), _part(lines, found[0], found[1])
            marked = tuple(_marked(old, new))
            return Hunk(f"{name} (line {opened + 1} of the patch)", marked, fragment=True), at + 1
    raise BrokenBlock(opened + 1, f"opens a block without {list(fences)[len(found)]!r}")


def _part(lines: Sequence[str], above: int, below: int) -> list[str]:
    """Return the lines between two fences; the lower one may say that they end without a newline."""
    part = list(lines[above + 1 : below])
    if part and lines[below].rstrip().endswith(NO_NEWLINE):
        part[-1] = part[-1].removesuffix("\n")
    return part


def _marked(old: list[str], new: list[str]) -> Iterator[tuple[str, str]]:
    for _, i0, i1, j0, j1 in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        same = old[i0:i1] == new[j0:j1]
        yield from ((" " if same else "-", line) for line in old[i0:i1])
        yield from (("+", line) for line in new[j0:j1] if not same)


class _Diff:
    """A reader of one unified diff, line by line."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = lines
        self._at = 0
        self._files: list[FilePatch] = []

    def read(self) -> list[FilePatch]:
        """Return what the diff does to each file. Prose, mail headers and statistics around it are passed over."""
        while self._at < len(self._lines):
            self._step(self._lines[self._at].rstrip("\r\n"))
        for patch in self._files:
            if not patch.hunks and patch.old is not None and patch.new is not None and not patch.renames:
                raise NoHunks(patch.new)
        return self._files

    def _step(self, line: str) -> None:
        if self._is_header():
            self._name()
        elif _NOT_TEXT.fullmatch(line):
            raise NotText(self._at + 1, line)
        elif line.startswith("@@"):
            self._hunk(line)
        elif line.startswith(("--- ", "+++ ")) and self._line(1).startswith("@@"):
            raise BrokenHeader(self._at + 1, line)
        else:
            self._extend(line)
            self._at += 1

    def _extend(self, line: str) -> None:
        """Take up what git says of a file above its hunks."""
        if line.startswith("diff --git "):
            name = _git_name(line.removeprefix("diff --git "))
            self._files.append(FilePatch(name, name, named=False))
        elif self._is_open():
            patch = self._files[-1]
            if line.startswith("new file mode "):
                patch.old = None
            elif line.startswith("deleted file mode "):
                patch.new = None
            elif line.startswith("rename from "):
                patch.old, patch.renames = f"a/{unquoted(line.removeprefix('rename from '))}", True
            elif line.startswith("rename to "):
                patch.new = f"b/{unquoted(line.removeprefix('rename to '))}"

    def _line(self, ahead: int) -> str:
        return "".join(self._lines[self._at + ahead : self._at + ahead + 1])

    def _is_header(self) -> bool:
        """Say whether two lines name a file, unless a hunk goes on here."""
        return self._line(0).startswith("--- ") and self._line(1).startswith("+++ ")

    def _is_open(self) -> bool:
        """Say whether `diff --git` has begun a file whose names and hunks are yet to come."""
        return bool(self._files) and not self._files[-1].named and not self._files[-1].hunks

    def _name(self) -> None:
        old, new = (_name(self._line(k)[4:]) for k in (0, 1))
        if old is new is None:
            raise BrokenHeader(self._at + 1, self._line(0).rstrip())
        if not self._is_open():
            self._files.append(FilePatch(old, new))
        elif not self._files[-1].renames:
            self._files[-1].old, self._files[-1].new = old, new
        self._files[-1].named = True
        self._at += 2

    def _hunk(self, header: str) -> None:
        if not self._files:
            raise HunkWithoutFile(self._at + 1)
        patch = self._files[-1]
        name = f"hunk {len(patch.hunks) + 1} (line {self._at + 1} of the patch)"
        self._at += 1
        lines = self._body()
        patch.hunks.append(Hunk(name, tuple(lines), _first(header, any(mark != "+" for mark, _ in lines))))

    def _body(self) -> list[tuple[str, str]]:
        """Read the lines of a hunk; empty ones at its end are the writer's, not the file's."""
        body: list[tuple[str, str]] = []
        bare = 0  # lines without even a mark, at the end so far
        while self._at < len(self._lines) and not self._ends_hunk():
            line = self._lines[self._at]
            self._at += 1
            if line[0] == "\\":
                body[-1:] = [(mark, text.removesuffix("\n")) for mark, text in body[-1:]]
            elif line[0] in " +-":
                body.append((line[0], line[1:]))
            elif line.strip():
                raise StrangeLine(self._at, line.rstrip())
            else:
                body.append((" ", line))
            bare = 0 if line.strip("\r\n") else bare + 1
        return body[: len(body) - bare]

    def _ends_hunk(self) -> bool:
        line = self._line(0)
        signature = line.rstrip() == "--" and self._line(1)[:1].isdigit()  # of a mail
        header = self._is_header() and self._line(2).startswith("@@")  # else the hunk removes `-- x` and adds `++ y`
        return signature or header or line.startswith(("@@", "diff ", "Index: ", "```", "GIT "))


def _first(header: str, has_old: bool) -> int | None:
    """Return how many lines of the base a hunk's header puts above it; None if it does not say."""
    numbers = _NUMBERS.match(header)
    if not numbers:
        return None
    after = numbers[2] == "0"  # git names the line above where nothing is replaced
    return int(numbers[1]) - (not after) if after != has_old else None


def _name(written: str) -> str | None:
    """Return the file that a line `--- ` or `+++ ` names; dates follow a tab."""
    name = unquoted(written.rstrip("\r\n").split("\t")[0])
    return None if name == "/dev/null" else name


def _git_name(names: str) -> str:
    """Return the second of the two names of `diff --git`, which differ in their first letter alone."""
    two = _TWO_QUOTED.match(names)
    return unquoted(names[two.end() - 1 :]) if two else names[len(names) // 2 + 1 :]
