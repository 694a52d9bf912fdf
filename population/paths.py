"""Paths as text: which files a glob allows, and file names quoted as git quotes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

_SPECIAL = re.compile(r'["\\\x00-\x1f\x7f]')
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
_ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13}


def fits(path: str, globs: Iterable[str]) -> bool:
    """Say whether a file may exist at `path`: it is relative, has no way out, and one of the globs matches it."""
    parts = path.split("/")
    clean = not _UNWRITABLE.search(path) and not {"", ".", ".."} & set(parts)
    return clean and any(_matches(parts, glob.split("/")) for glob in globs)


def quoted(name: str) -> str:
    """Write a file name as git does: between quotes, with escapes, if it holds a quote, backslash or control code."""
    return in_quotes(name) if _SPECIAL.search(name) else name


def in_quotes(name: str) -> str:
    """Write a file name between quotes, whatever it holds."""
    return f'"{_SPECIAL.sub(_escape, name)}"'


def unquoted(name: str) -> str:
    """Read a file name as git writes it; one without quotes is itself."""
    if len(name) < 2 or not name[0] == name[-1] == '"':
        return name
    return re.sub(rb"\\([0-7]{3}|.)", _unescape, name[1:-1].encode(errors="replace")).decode(errors="replace")


def _matches(parts: Sequence[str], glob: Sequence[str]) -> bool:
    if not glob:
        return not parts
    if glob[0] == "**":
        return any(_matches(parts[k:], glob[1:]) for k in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], glob[0]) and _matches(parts[1:], glob[1:])


def _escape(found: re.Match[str]) -> str:
    return f"\\{found[0]}" if found[0] in '"\\' else f"\\{ord(found[0]):03o}"


def _unescape(found: re.Match[bytes]) -> bytes:
    code = found[1].decode()
    return bytes([int(code, 8) & 255]) if len(code) == 3 else bytes([_ESCAPES[code]]) if code in _ESCAPES else found[1]
