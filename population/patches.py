"""Patches located on the base: what people and models write becomes minimal edits; and genes written as blocks.

Lines are looked for as they are; if that fails, without regard to newlines and trailing spaces, and what is kept stays
as the base has it, byte for byte. A place is taken if it is the only one, or the one of a diff's line number.

    Mistake
      +- NotFound          lines that the base does not have; says what comes nearest and what differs
      +- Ambiguous         lines that the base has more than once
      +- Nowhere           nothing to find a place by
      +- NothingChanged    a hunk that leaves its lines as they were
      +- OldLinesInNew     a new file whose hunks look for old lines
      +- NotWhole          a file to be deleted that is not the one the patch shows
"""

from __future__ import annotations

import difflib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

from population.diff import diff, patched
from population.genes import BaseTree, Edit, FileExists, Gene, Kind, UnknownPath, edited_files, split_lines
from population.mistakes import Mistake
from population.patch_text import NO_NEWLINE, FilePatch, Hunk, clean, parse
from population.paths import fits, in_quotes, quoted
from population.tokens import spans

_PREFIX = re.compile(r"^(?:\./)?(?:[abciow]/)?(?:\./)*")  # of git, also with diff.mnemonicPrefix
_FENCE = re.compile(r"^(?:<{7,}|={7,}|>{7,})", re.MULTILINE)
SHOWN = 3  # differences in a message
WIDTH = 80  # characters of a line in a message


class NotFound(Mistake):
    """Lines that the base does not have."""

    def __init__(self, base: BaseTree, path: str, hunk: Hunk) -> None:
        near = _nearest(split_lines(base.files[path]), path, hunk)
        other = _elsewhere(base, path, hunk)
        super().__init__(
            f"The lines of {hunk.name} are not in {path}: {near}{other}. Copy them from the unpatched file."
        )


class Ambiguous(Mistake):
    """Lines that the base has more than once."""

    def __init__(self, path: str, hunk: Hunk, places: Sequence[int]) -> None:
        where = ", ".join(f"{path}:{place + 1}" for place in places)
        super().__init__(
            f"The lines of {hunk.name} occur {len(places)} times, expected 1: {where}; add lines of context until they "
            "are found only once."
        )


class Nowhere(Mistake):
    """Nothing to find a place by."""

    def __init__(self, path: str, hunk: Hunk) -> None:
        super().__init__(
            f"Nothing says where in {path} the lines of {hunk.name} belong, since the file is not empty; "
            "add a line of the file as context."
        )


class NothingChanged(Mistake):
    """A hunk that leaves its lines as they were."""

    def __init__(self, path: str, hunk: Hunk) -> None:
        super().__init__(f"The lines of {hunk.name} of {path} are the same before and after; leave it out.")


class OldLinesInNew(Mistake):
    """A new file whose hunks look for old lines."""

    def __init__(self, path: str, hunk: Hunk) -> None:
        super().__init__(
            f"{path} is not in the base, but {hunk.name} looks for old lines in it: {hunk.old[0].rstrip()[:80]!r}; "
            "a new file has only added lines."
        )


class NotWhole(Mistake):
    """A file to be deleted that is not the one the patch shows."""

    def __init__(self, path: str, hunk: Hunk) -> None:
        super().__init__(
            f"The patch deletes {path}, but the lines of {hunk.name} are not the whole file; remove all of its lines."
        )


def locate(base: BaseTree, text: str) -> tuple[Edit, ...]:
    """Return the edits of the base that a patch asks for: `gene_from_edits` makes a gene of them.

    `text` is search/replace blocks or a unified diff (population/patch_text.py describes them), newlines untouched.
    Every place is counted in the base, never in a file that an earlier hunk has changed.
    Raises the mistakes of this module and of patch_text, UnknownPath and FileExists.
    """
    return tuple(edit for patch in parse(text) for edit in _file_edits(base, patch))


def render_blocks(base: BaseTree, gene: Gene) -> str:
    """Return a gene as search/replace blocks, as short as they can be found; `locate` gives its edits back."""
    by_path: dict[str, list[Edit]] = {}
    for edit in gene.edits:
        by_path.setdefault(edit.path, []).append(edit)
    return "\n".join(block for path, edits in by_path.items() for block in _file_blocks(base, path, edits))


# locating


def _file_edits(base: BaseTree, patch: FilePatch) -> list[Edit]:
    old, new = (None if name is None else _path(base, name) for name in (patch.old, patch.new))
    if new is None:
        return [_deleted(base, old or "", patch.hunks)]
    if patch.renames and old is not None:
        return _renamed(base, old, new, patch.hunks)
    if old is not None and new not in base.files and old in base.files:
        new = old
    if old is None or new not in base.files:
        return [_added(base, new, patch.hunks)]
    return [edit for hunk in patch.hunks for edit in _changed(base, new, hunk)]


def _path(base: BaseTree, name: str) -> str:
    """Return the path that a name of git stands for, also when its prefix was left out."""
    bare = _PREFIX.sub("", name, count=1)
    return name if name in base.files and bare not in base.files else bare


def _deleted(base: BaseTree, path: str, hunks: Sequence[Hunk]) -> Edit:
    if path not in base.files:
        raise UnknownPath(path, base)
    lines = split_lines(base.files[path])
    for hunk in hunks:
        if hunk.new or list(map(_sloppy, hunk.old)) != list(map(_sloppy, lines)):
            raise NotWhole(path, hunk)
    return Edit(path, 0, len(base.files[path]), "", Kind.DELETE_FILE)


def _added(base: BaseTree, path: str, hunks: Sequence[Hunk]) -> Edit:
    if path in base.files:
        raise FileExists(path)
    if not fits(path, base.addable):
        raise UnknownPath(path, base)
    for hunk in hunks:
        if hunk.old:
            raise OldLinesInNew(path, hunk)
    return Edit(path, 0, 0, "".join(line for hunk in hunks for line in hunk.new), Kind.ADD_FILE)


def _renamed(base: BaseTree, old: str, new: str, hunks: Sequence[Hunk]) -> list[Edit]:
    gone = _deleted(base, old, ())
    edits = [edit for hunk in hunks for edit in _changed(base, old, hunk)]
    text = edited_files(base, edits).get(old) if edits else base.files[old]
    return [gone, replace(_added(base, new, ()), replacement=text or "")]


def _changed(base: BaseTree, path: str, hunk: Hunk) -> list[Edit]:
    """Return the token edits of a hunk that changes lines of a file."""
    at, old, new = _spot(base, path, hunk)
    if old == new:
        raise NothingChanged(path, hunk)
    return [Edit(path, at + start, at + end, replacement) for start, end, replacement in diff(old, new, path)]


def _spot(base: BaseTree, path: str, hunk: Hunk) -> tuple[int, str, str]:
    """Return where a hunk belongs (characters of the base before it), the base's text there and what replaces it."""
    lines = split_lines(base.files[path])
    if not hunk.old:
        return _length(lines[: _gap(path, lines, hunk)]), "", "".join(hunk.new)
    for alike in (_exact, _sloppy):
        places = _places([alike(line) for line in lines], [alike(line) for line in hunk.old])
        places = [hunk.first] if hunk.first in places else places
        if len(places) > 1:
            raise Ambiguous(path, hunk, places)
        for first in places:
            last = first + len(hunk.old)
            found = lines[first:last]
            new = "".join(hunk.new) if alike is _exact else _fitted(found, hunk, last == len(lines))
            return _length(lines[:first]), "".join(found), new
    return _fragment(base, path, hunk)


def _exact(line: str) -> str:
    return line


def _sloppy(line: str) -> str:
    return line.rstrip()


def _length(lines: Sequence[str]) -> int:
    return sum(map(len, lines))


def _gap(path: str, lines: Sequence[str], hunk: Hunk) -> int:
    """Return how many lines stand above one that a hunk adds without any context."""
    first = hunk.first if lines else 0
    if first is None or first > len(lines) or (0 < first == len(lines) and not lines[-1].endswith("\n")):
        raise Nowhere(path, hunk)
    return first


def _places(lines: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Return every index at which the wanted lines stand."""
    n = len(wanted)
    starts = (k for k, line in enumerate(lines) if line == wanted[0])
    return [k for k in starts if lines[k : k + n] == wanted]


def _fitted(found: Sequence[str], hunk: Hunk, is_end: bool) -> str:
    """Return what a hunk leaves of lines that it has nearly right: kept lines as found, new ones with their newline."""
    newline = "\r\n" if any(line.endswith("\r\n") for line in found) else "\n"
    base_lines = iter(found)
    lines: list[str] = []
    for mark, written in hunk.lines:
        line = written.rstrip("\r\n") if mark == "+" else next(base_lines)
        if mark != "-":
            lines.append(line if line.endswith("\n") else line + newline)
    text = "".join(lines)
    return text if _ends(found, hunk) or not is_end else text.removesuffix(newline)


def _ends(found: Sequence[str], hunk: Hunk) -> bool:
    """Say whether a file ends with a newline after a hunk at its end: as before, unless the hunk changes that."""
    before, after = (not lines or lines[-1].endswith("\n") for lines in (hunk.old, hunk.new))
    return after if before != after else found[-1].endswith("\n")


def _fragment(base: BaseTree, path: str, hunk: Hunk) -> tuple[int, str, str]:
    """Find a block that is a part of a line, or of several: it begins and ends where tokens do."""
    text = base.files[path]
    old, new = ("".join(lines).removesuffix("\n") for lines in (hunk.old, hunk.new))
    borders = {0, *(end for _, end in spans(text, path))}
    found = [match.start() for match in re.finditer(f"(?={re.escape(old)})", text)] if hunk.fragment and old else []
    places = [at for at in found if {at, at + len(old)} <= borders]
    if len(places) > 1:
        raise Ambiguous(path, hunk, [text.count("\n", 0, at) for at in places])
    if not places:
        raise NotFound(base, path, hunk)
    return places[0], old, new


# what comes nearest


def _nearest(lines: Sequence[str], path: str, hunk: Hunk) -> str:
    """Say which lines of a file are most like those of a hunk, and what differs."""
    at = _likeliest([line.strip() for line in lines], hunk)
    if at is None:
        return "no line there is like one of them"
    wanted = [_sloppy(line) for line in hunk.old]
    have = [_sloppy(line) for line in lines[at : at + len(wanted) + SHOWN]]
    found = list(_differences(have, wanted, at))
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"nearest is {path}:{at + 1}, where {'; '.join(found[:SHOWN])}{more}"


def _likeliest(have: Sequence[str], hunk: Hunk) -> int | None:
    """Return the line at which most lines of a hunk would find themselves; failing that, the line most like one."""
    wanted = [line.strip() for line in hunk.old]
    votes = Counter(i - j for j, line in enumerate(wanted) if line for i, other in enumerate(have) if other == line)
    if votes:
        return max(0, min(votes, key=lambda at: (-votes[at], abs(at - (at if hunk.first is None else hunk.first)))))
    for line in sorted(set(wanted), key=len, reverse=True)[:SHOWN]:
        for like in difflib.get_close_matches(line, have, n=1):
            return max(0, have.index(like) - wanted.index(line))
    return None


def _differences(have: Sequence[str], wanted: Sequence[str], at: int) -> Iterator[str]:
    matcher = difflib.SequenceMatcher(None, have, wanted, autojunk=False)
    codes = [code for code in matcher.get_opcodes() if code[0] != "equal"]
    for tag, i0, _, j0, _ in codes:
        if tag == "replace":
            yield f"line {at + i0 + 1} is {_shown(have[i0])} and the patch has {_shown(wanted[j0])}"
        elif tag == "insert":
            yield f"the patch has {_shown(wanted[j0])}, which is not there"
        elif 0 < j0 < len(wanted):
            yield f"line {at + i0 + 1}, {_shown(have[i0])}, is missing from the patch"


def _shown(line: str) -> str:
    return repr(line if len(line) <= WIDTH else f"{line[:WIDTH]}...")


def _elsewhere(base: BaseTree, path: str, hunk: Hunk) -> str:
    """Say in which other files the lines of a hunk are."""
    wanted = [_sloppy(line) for line in hunk.old]
    texts = ((other, [_sloppy(line) for line in split_lines(base.files[other])]) for other in sorted(base.files))
    found = [f"{other}:{at + 1}" for other, lines in texts if other != path for at in _places(lines, wanted)]
    return f"; the same lines are at {', '.join(found[:SHOWN])}" if found else ""


# rendering


def _file_blocks(base: BaseTree, path: str, edits: Sequence[Edit]) -> list[str]:
    """Return the blocks of one file's edits."""
    name = path if clean(path) == path == quoted(path) else in_quotes(path)
    if edits[0].kind is Kind.DELETE_FILE:
        return [f"{name}\n<<<<<<< DELETE\n"]
    lines = split_lines(base.under(edits[0]))
    if not lines:
        return [_block(name, "", edits[0].replacement)]
    starts = list(accumulate(map(len, lines), initial=0))
    text = "".join(lines)

    def after(window: tuple[int, int]) -> str:
        start, end = starts[window[0]], starts[window[1]]
        inside = [edit for edit in edits if start <= edit.start and edit.end <= end]
        return patched(text[start:end], ((e.start - start, e.end - start, e.replacement) for e in inside))

    windows = _windows(lines, [_window(starts, edit) for edit in edits], after)
    return [_block(name, "".join(lines[i:j]), after((i, j))) for i, j in windows]


def _window(starts: Sequence[int], edit: Edit) -> tuple[int, int]:
    """Return the lines [i, j) that an edit touches; at the very end of a file, the last one."""
    i, j = (min(bisect_right(starts, at), len(starts) - 1) for at in (edit.start, max(edit.start, edit.end - 1)))
    return i - 1, j


def _windows(
    lines: Sequence[str], windows: Sequence[tuple[int, int]], after: Callable[[tuple[int, int]], str]
) -> list[tuple[int, int]]:
    """Grow windows of lines until each is found once and leaves whole lines, and join those that touch."""
    while True:
        joined = _joined(windows)
        windows = [
            (i, j)
            if len(_places(lines, lines[i:j])) == 1 and (j == len(lines) or after((i, j))[-1:] in ("", "\n"))
            else (max(0, i - 1), min(len(lines), j + 1))
            for i, j in joined
        ]
        if windows == joined:
            return joined


def _joined(windows: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for i, j in windows:
        start, end = joined.pop() if joined and i <= joined[-1][1] else (i, j)
        joined.append((start, max(end, j)))
    return joined


def _block(name: str, old: str, new: str) -> str:
    """Write a block, with fences longer than any that its own text holds."""
    size = max((len(fence) + 1 for fence in _FENCE.findall(f"{old}\n{new}")), default=7)
    (old, middle), (new, end) = (
        (f"{text}\n", NO_NEWLINE) if text and not text.endswith("\n") else (text, "") for text in (old, new)
    )
    return f"{name}\n{'<' * size} SEARCH\n{old}{'=' * size}{middle}\n{new}{'>' * size} REPLACE{end}\n"
