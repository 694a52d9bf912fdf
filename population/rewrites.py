"""Rewrites: which neighbouring edits of a file are one change, because a line was rewritten or indented.

An edit is clean if it puts one expression in the place of another, adds or removes an operand, an argument or whole
lines. Two clean edits of one line are two changes, unless they make the same substitution or nothing but brackets is
between them; one that is not clean belongs to its neighbours.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise

from population.genes import Edit, Kind
from population.tokens import tokens

_FRAMES = ("({})", "x{}", "{}x", "f({})")  # what an addition may be part of: a whole, an operand, an argument


def near_ties(text: str, edits: Sequence[Edit]) -> Mapping[Edit, frozenset[str]]:
    """Return what ties the sorted edits of one file to their neighbours."""
    ties = {edit: set[str]() for edit in edits}
    spans = [edit for edit in edits if edit.kind is Kind.SPAN]
    for k, (a, b) in enumerate(pairwise(spans)):
        if _is_one_change(text, a, b):
            ties[a].add(f"{a.path} near {k}")
            ties[b].add(f"{a.path} near {k}")
    return {edit: frozenset(found) for edit, found in ties.items()}


def _is_one_change(text: str, a: Edit, b: Edit) -> bool:
    lines = text.count("\n", a.end, b.start) + (text[a.start : a.end] + a.replacement).endswith("\n")
    if lines > 1:
        return False
    if _is_indentation(text, b) or not (_is_clean(text, a) and _is_clean(text, b)):
        return True
    touch = all(char in "([{.}])" for char in text[a.end : b.start])
    return lines == 0 and (touch or _moves(text, a, b) or _repeats(text, a, b))


def _is_clean(text: str, edit: Edit) -> bool:
    """Say whether an edit stands for itself."""
    old, new = text[edit.start : edit.end], edit.replacement
    starts_line = edit.start == 0 or text[edit.start - 1] == "\n"
    if starts_line and all(not side or side.endswith("\n") for side in (old, new)):
        return True
    if not edit.path.endswith(".py"):
        return all(re.fullmatch(r"\w+", side) for side in (old, new))
    if old.strip() and new.strip():
        return _parses(f"({old})") and _parses(f"({new})")
    return any(_parses(frame.format((old + new).strip(", \t\r\n"))) for frame in _FRAMES)


def _parses(text: str) -> bool:
    """Say whether a text is one expression."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(text, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def _moves(text: str, a: Edit, b: Edit) -> bool:
    """Say whether one edit takes away what the other brings: `a + b` becomes `b + a`."""
    (gone, come), (came, went) = (
        (_words(edit.path, text[edit.start : edit.end]), _words(edit.path, edit.replacement)) for edit in (a, b)
    )
    return gone == went and come == came


def _repeats(text: str, a: Edit, b: Edit) -> bool:
    """Say whether two edits put the same in the place of the same, something both times."""
    old, new = text[a.start : a.end], a.replacement
    return bool(old and new) and (old, new) == (text[b.start : b.end], b.replacement)


def _words(path: str, text: str) -> list[str]:
    (cut,) = tokens(path, text)
    return sorted(token for token in cut if token.strip())


def _is_indentation(text: str, edit: Edit) -> bool:
    """Say whether an edit changes nothing but the blanks that a line begins with."""
    blanks = (text[edit.start : edit.end] + edit.replacement).strip(" \t") == ""
    return blanks and text[text.rfind("\n", 0, edit.start) + 1 : edit.start].strip(" \t") == ""
