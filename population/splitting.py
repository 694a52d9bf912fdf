"""Splitting: an old tree and a new one -> pieces, and which pieces belong together by what they define and use.

A piece is one token edit or one file; deleted lines are cut into statements. Pieces belong together when they mention a
name that only one of the two trees binds (a removed flag and its uses), when they move the same definition or rename a
file, when they change the indentation of neighbouring lines, or when they rewrite one line beyond single tokens.

What is not covered: statements inserted side by side are one piece, since two insertions at one point have no order.
"""

from __future__ import annotations

import ast
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise

from population.alignment import line_changes
from population.diff import patched
from population.genes import BaseTree, Edit, Kind
from population.mentions import Mention, mentions, module_key, parsed
from population.rewrites import near_ties
from population.tokens import is_newline, tokens

PROSE = (".md", ".rst")
SAME_FILE = 0.5  # the share of equal lines beyond which a deleted and an added file are one renamed
_CONTINUES = re.compile(r"(?:else|elif|except|finally)\b|[)\]}]")
_DECORATES = re.compile(r"[ \t]*@")


@dataclass(frozen=True)
class Piece:
    """A token edit, what ties it to others, and whether it changes nothing that runs."""

    edit: Edit
    ties: frozenset[str]
    gone: str | None  # the first name that it unbinds from the tree
    come: str | None  # the first name that it binds anew
    is_comment: bool


def split(base: BaseTree, files: Mapping[str, str]) -> tuple[Piece, ...]:
    """Return the pieces of what turns the base into these files (the whole tree), in order of path and position."""
    by_path = {path: _file_edits(path, base.files.get(path), files.get(path)) for path in base.files.keys() | files}
    by_path = {path: edits for path, edits in by_path.items() if edits}
    names = _Names(base.files, files, by_path)
    renamed = _renamed(base.files, files, by_path)
    pieces: list[Piece] = []
    for path, found in sorted(by_path.items()):
        near = near_ties(base.files.get(path, ""), found)
        spans = zip(found, _new_spans(found), strict=True)
        pieces += (names.piece(edit, span, renamed[path], near[edit]) for edit, span in spans)
    return tuple(pieces)


def together(pieces: Sequence[Piece]) -> list[frozenset[int]]:
    """Return groups of piece numbers that share a tie, in order of their first piece; comments are left out."""
    group = list(range(len(pieces)))
    first: dict[str, int] = {}
    for k, piece in enumerate(pieces):
        for tie in piece.ties if not piece.is_comment else ():
            a, b = _root(group, k), _root(group, first.setdefault(tie, k))
            group[max(a, b)] = min(a, b)
    members: dict[int, set[int]] = defaultdict(set)
    for k, piece in enumerate(pieces):
        if not piece.is_comment:
            members[_root(group, k)].add(k)
    return [frozenset(found) for found in members.values()]


def is_comment(text: str, edit: Edit) -> bool:
    """Say whether an edit of a file changes nothing that runs: prose, or comments, docstrings and blanks of Python."""
    if edit.path.endswith(PROSE):
        return True
    if not edit.path.endswith(".py") or edit.kind is not Kind.SPAN or _has_code(text, edit):
        return False
    before = _meaning(text)
    return before is not None and before == _meaning(patched(text, [(edit.start, edit.end, edit.replacement)]))


def _has_code(text: str, edit: Edit) -> bool:
    """Say whether an edit of Python adds or removes any token but blanks, comments and strings."""
    cuts = tokens(edit.path, text[edit.start : edit.end], edit.replacement)
    return any(token.strip() and token[0] != "#" and token[-1] not in "'\"" for cut in cuts for token in cut)


class _Names:
    """The names that only one of two trees binds, and where each file mentions which."""

    def __init__(self, old: Mapping[str, str], new: Mapping[str, str], edits: Mapping[str, Sequence[Edit]]) -> None:
        self._old = old
        self._before = {path: mentions(path, text) for path, text in old.items()}
        self._after = {
            path: self._before[path] if text == old.get(path) else mentions(path, text) for path, text in new.items()
        }
        bound, binds = _bindings(self._before), _bindings(self._after)
        self._gone, self._come = bound - binds, binds - bound
        stays = {m.key for path, found in self._before.items() for m in _outside(found, edits.get(path, ()))}
        self._moved = (bound & binds) - stays

    def piece(self, edit: Edit, span: tuple[int, int], renamed: frozenset[str], near: frozenset[str]) -> Piece:
        """Return an edit as a piece. Its replacement lies at `span` of the new file; `renamed` and `near` are ties."""
        old = _within(self._before.get(edit.path, []), edit.start, edit.end)
        new = _within(self._after.get(edit.path, []), *span)
        gone = [m for m in old if m.key in self._gone]
        come = [m for m in new if m.key in self._come]
        ties = renamed | near | {m.key for m in (*gone, *come)} | self._other_ties(edit, (*old, *new))
        text = self._old.get(edit.path, "")
        comment = is_comment(text, edit) and not (near and _is_blank(text, edit))
        return Piece(edit, frozenset(ties), _first_bound(gone), _first_bound(come), comment)

    def _other_ties(self, edit: Edit, found: Sequence[Mention]) -> set[str]:
        if edit.kind is not Kind.SPAN:
            return {module_key(edit.path)} & (self._gone | self._come)
        return {m.key for m in found if m.binds and m.key in self._moved}


def _is_blank(text: str, edit: Edit) -> bool:
    return not (text[edit.start : edit.end] + edit.replacement).strip()


def _first_bound(found: Sequence[Mention]) -> str | None:
    bound = sorted((m for m in found if m.binds), key=lambda m: (not m.key.startswith("."), m.start, m.key))
    return bound[0].key.rsplit(".", 1)[-1] if bound else None


def _bindings(found: Mapping[str, Sequence[Mention]]) -> set[str]:
    """Return the keys that a tree binds: a file binds the name of its module."""
    return {m.key for of_file in found.values() for m in of_file if m.binds} | {module_key(path) for path in found}


def _within(found: Iterable[Mention], start: int, end: int) -> list[Mention]:
    return [mention for mention in found if mention.start < end and start < mention.end]


def _renamed(
    old: Mapping[str, str], new: Mapping[str, str], edits: Mapping[str, Sequence[Edit]]
) -> Mapping[str, frozenset[str]]:
    """Return path -> ties of files that are deleted here and added there with most of their lines."""
    whole = [edit for found in edits.values() for edit in found if edit.kind is not Kind.SPAN]
    ties: dict[str, frozenset[str]] = defaultdict(frozenset)
    for gone in (edit.path for edit in whole if edit.kind is Kind.DELETE_FILE):
        for come in (edit.path for edit in whole if edit.kind is Kind.ADD_FILE):
            if SequenceMatcher(None, old[gone].splitlines(), new[come].splitlines(), False).ratio() > SAME_FILE:
                tie = frozenset([f"renamed {gone} {come}"])
                ties[gone], ties[come] = ties[gone] | tie, ties[come] | tie
    return ties


def _outside(found: Iterable[Mention], edits: Sequence[Edit]) -> Iterator[Mention]:
    """Yield the bindings that lie in no edit."""
    ends = [edit.end for edit in edits]
    for m in found:
        k = bisect_right(ends, m.start)
        if m.binds and (k == len(edits) or m.end <= edits[k].start):
            yield m


def _new_spans(edits: Iterable[Edit]) -> Iterator[tuple[int, int]]:
    """Yield where the replacement of each edit of one file lies in the new text."""
    shift = 0
    for edit in edits:
        yield edit.start + shift, edit.start + shift + len(edit.replacement)
        shift += len(edit.replacement) - (edit.end - edit.start)


def _file_edits(path: str, old: str | None, new: str | None) -> list[Edit]:
    if old == new:
        return []
    if old is None:
        return [Edit(path, 0, 0, new or "", Kind.ADD_FILE)]
    if new is None:
        return [Edit(path, 0, len(old), "", Kind.DELETE_FILE)]
    return [edit for change in line_changes(old, new, path) for edit in _statements(old, Edit(path, *change))]


def _statements(text: str, edit: Edit) -> list[Edit]:
    """Cut a deletion of whole lines of Python into its statements, bodies with their headers."""
    gone = text[edit.start : edit.end]
    starts_line = edit.start == 0 or text[edit.start - 1] == "\n"
    is_span = edit.kind is Kind.SPAN
    if edit.replacement or not is_span or not starts_line or not gone.endswith("\n") or not edit.path.endswith(".py"):
        return [edit]
    cuts = [0, *_cuts(edit.path, gone), len(gone)]
    return [Edit(edit.path, edit.start + a, edit.start + b, "") for a, b in pairwise(cuts)]


def _cuts(path: str, gone: str) -> Iterator[int]:
    """Yield where a statement begins that is no part of the one before."""
    at, indent, is_decorated = 0, None, False
    for line in _logical_lines(path, gone):
        body = line.lstrip(" \t")
        if body.strip():
            here = len(line) - len(body)
            if indent is not None and here <= indent and not is_decorated and not _CONTINUES.match(body):
                yield at
            indent = here if indent is None else min(indent, here)
            is_decorated = _DECORATES.match(line) is not None
        at += len(line)


def _logical_lines(path: str, text: str) -> Iterator[str]:
    """Yield lines as the parser sees them: an open bracket or a string goes on."""
    (cut,) = tokens(path, text)
    line, depth = "", 0
    for token in cut:
        line += token
        depth += (token in "([{") - (token in ")]}")
        if is_newline(token) and depth <= 0:
            yield line
            line = ""
    if line:
        yield line


def _meaning(text: str) -> str | None:
    """Return what a Python file runs, without its docstrings; None if it does not parse."""
    tree = parsed(text)
    if tree is None:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body[0] = ast.Pass()
    return ast.dump(tree)


def _root(group: list[int], k: int) -> int:
    while group[k] != k:
        k = group[k]
    return k
