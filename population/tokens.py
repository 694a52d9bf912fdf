"""Tokens: a text cut into short spans that tile it, Python's own tokens for .py files, words elsewhere.

What is not covered: the inside of an f-string is one token, as in Python 3.11; quotes nested as only Python 3.12
allows cut such a string into several. The spans tile the text all the same.
"""

from __future__ import annotations

import re
from itertools import accumulate, pairwise

_NEWLINE = r"\r\n|\r|\n"
_DIGITS = r"[0-9](?:_?[0-9])*"
_NUMBER = (
    r"0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO](?:_?[0-7])+"
    rf"|(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][-+]?{_DIGITS})?[jJ]?"
)
_PREFIX = r"(?:[bB][rR]?|[fF][rR]?|[rR][bBfF]?|[uU])?"
_TRIPLE = r"'''[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*'''|" + r'"""[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*"""'
_SINGLE = r"'[^'\\\r\n]*(?:\\(?:\r\n|.)[^'\\\r\n]*)*'|" + r'"[^"\\\r\n]*(?:\\(?:\r\n|.)[^"\\\r\n]*)*"'
_OPERATOR = r"\*\*=?|//=?|>>=?|<<=?|\.\.\.|->|:=|!=|[-+*/%&@|^=<>]=?"
_PYTHON = re.compile(
    rf"{_NEWLINE}|\\(?:{_NEWLINE})|[ \t\f]+|#[^\r\n]*|{_PREFIX}(?:(?!''|\"\")(?:{_SINGLE})|{_TRIPLE}|''|\"\")"
    rf"|{_NUMBER}|\w+|{_OPERATOR}|.",
    re.DOTALL,
)
_WORDS = re.compile(rf"{_NEWLINE}|[^\S\r\n]+|\w+|.", re.DOTALL)
_OPEN_QUOTES = frozenset("'\"")


def tokens(path: str, *texts: str) -> tuple[list[str], ...]:
    """Cut texts of one file into tokens that tile them: Python's if it is a .py file and all tokenise, else words."""
    if path.endswith(".py"):
        found = tuple(_PYTHON.findall(text) for text in texts)
        if all(_OPEN_QUOTES.isdisjoint(cut) for cut in found):
            return found
    return tuple(_WORDS.findall(text) for text in texts)


def spans(text: str, path: str) -> list[tuple[int, int]]:
    """Return the half-open span of every token; the spans tile the text."""
    (cut,) = tokens(path, text)
    return list(pairwise(accumulate(map(len, cut), initial=0)))


def is_newline(token: str) -> bool:
    """Say whether a token ends a line."""
    return token in ("\n", "\r\n", "\r")
