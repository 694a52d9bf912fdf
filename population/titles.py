"""Titles: what a set of edits changes, in words: `WTE_INIT_STD 1.0 -> 0.8`, `softcap removed`."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

from population.genes import Edit, Kind
from population.mentions import Positions, parsed

LONGEST = 72  # of a title
LONGEST_SIDE = 32  # of what stands before or after an arrow
GENERIC = frozenset(("self", "cls", "weight", "data", "model", "config", "args"))
Located = ast.expr | ast.keyword | ast.arg


def title(old: Mapping[str, str], edits: Sequence[Edit], gone: Iterable[str] = (), come: Iterable[str] = ()) -> str:
    """Return a line that says what edits of a tree change; `gone` and `come` are names that they unbind and bind."""
    names = _names(sorted(gone), sorted(come))
    phrases = [names] if names else list(dict.fromkeys(_phrase(old.get(edit.path, ""), edit) for edit in edits))
    more = f" and {len(phrases) - 2} more" if len(phrases) > 2 else ""
    text = _short("; ".join(phrases[:2]), LONGEST - len(more)) + more
    return f"{text} ({len(edits)} places)" if len(phrases) == 1 < len(edits) and not names else text


def _names(gone: Sequence[str], come: Sequence[str]) -> str:
    if len(gone) == len(come) == 1:
        return f"{gone[0]} becomes {come[0]}"
    return "; ".join([f"{_listed(gone)} removed"] * bool(gone) + [f"{_listed(come)} added"] * bool(come))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 3 else ""
    return ", ".join(names[: 2 if more else 3]) + more


def _phrase(text: str, edit: Edit) -> str:
    """Say what one edit changes and where."""
    if edit.kind is not Kind.SPAN:
        return f"{edit.path} {'added' if edit.kind is Kind.ADD_FILE else 'deleted'}"
    file = edit.path.rsplit("/", 1)[-1]
    syntax = _syntax(text) if edit.path.endswith(".py") else None
    line = [node for node in syntax.around(edit) if node] if syntax else []
    where = " ".join(_words(line)) or file
    old, new = text[edit.start : edit.end], edit.replacement
    if syntax and (whole := _whole(syntax, line, text, edit)):
        old, new = whole
    return f"{where} {_change(old, new)}"


def _change(old: str, new: str) -> str:
    before, after = (_short(" ".join(side.split()), LONGEST_SIDE) for side in (old, new))
    if before and after:
        return f"{before} -> {after}"
    return f"+ {after}" if after else f"- {before}" if before else "reindented"


def _short(text: str, longest: int) -> str:
    """Cut a text after a word, or within its first one if that is too long by itself."""
    if len(text) <= longest:
        return text
    cut = text[: longest - 2]  # the last character tells whether a word ends before it
    return (cut.rsplit(" ", 1)[0].rstrip() if " " in cut.strip() else cut[:-1]) + "..."


class _Syntax:
    """A parsed file, its nodes by place."""

    def __init__(self, text: str, tree: ast.Module) -> None:
        self._positions = Positions(text)
        self._tree = tree

    def span(self, node: Located) -> tuple[int, int]:
        """Return the characters of a node."""
        return self._positions.span(node)

    def around(self, edit: Edit) -> list[ast.AST]:
        """Return the nodes that an edit lies in, innermost first."""
        line: list[ast.AST] = []
        level: Iterable[ast.AST] = [self._tree]
        while found := next((node for node in level if self._holds(node, edit)), None):
            line.append(found)
            level = _children(found)
        return line[::-1]

    def _holds(self, node: ast.AST, edit: Edit) -> bool:
        if not isinstance(node, ast.expr | ast.stmt | ast.keyword | ast.arg):
            return isinstance(node, ast.Module)
        start, end = self._positions.span(node)
        return start <= edit.start and edit.end <= end


@lru_cache(maxsize=16)
def _syntax(text: str) -> _Syntax | None:
    tree = parsed(text)
    return _Syntax(text, tree) if tree else None


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the parts of a node that have a place; what has none (arguments, handlers) is looked through."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr | ast.stmt | ast.keyword | ast.arg):
            yield child
        else:
            yield from _children(child)


def _whole(syntax: _Syntax, line: Sequence[ast.AST], text: str, edit: Edit) -> tuple[str, str] | None:
    """Return the innermost expression around an edit, before and after, if both sides are short."""
    inner = next((node for node in line if isinstance(node, ast.expr)), None)
    if inner is None:
        return None
    start, end = syntax.span(inner)
    old, new = text[start:end], text[start : edit.start] + edit.replacement + text[edit.end : end]
    return (old, new) if max(len(old), len(new)) <= LONGEST_SIDE and "\n" not in old + new else None


def _words(line: Sequence[ast.AST]) -> list[str]:
    """Name the place of a node by what is around it, innermost first."""
    words: list[str] = []
    for inner, node in pairwise(line):
        match node:
            case ast.keyword(arg=str(name)):
                words = [name, *words]
            case ast.Call() if inner is not node.func:
                words = _call_words(node, words)
            case ast.Assign(targets=[target, *_]) | ast.AnnAssign(target=target) | ast.AugAssign(target=target):
                return [_last(target), *words] if inner is not target else words
            case ast.Dict(keys=keys, values=values) if inner in values:
                key = keys[values.index(inner)] if isinstance(inner, ast.expr) else None
                words = [str(key.value), *words] if isinstance(key, ast.Constant) else words
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                parameter = _parameter(node.args, inner)
                inside = [node.name] * (not node.name.startswith("__") and len(words) < 3)
                return [node.name, parameter] if parameter else [*inside, *words]
            case ast.ClassDef():
                return words or [node.name]
            case _:
                pass
    return words


def _call_words(call: ast.Call, words: list[str]) -> list[str]:
    """Name a place in a call: a flag by itself, an initialisation by what it initialises, others by the function."""
    parts = ast.unparse(call.func).split(".")
    first = call.args[0] if call.args else None
    if isinstance(first, ast.Constant) and isinstance(first.value, str) and first.value.startswith("-"):
        return [first.value.lstrip("-").replace("-", " "), *(word for word in words if word != "default")]
    if "init" in parts[:-1] and isinstance(first, ast.Attribute | ast.Name):
        return [_last(first), "init", *words]
    return [parts[-1], *words] if len(words) < 3 else words


def _last(node: ast.expr) -> str:
    """Return the last telling part of a dotted name."""
    parts = [part for part in ast.unparse(node).split(".") if part not in GENERIC]
    name = parts[-1] if parts else ast.unparse(node)
    return _short(name, LONGEST_SIDE)


def _parameter(arguments: ast.arguments, node: ast.AST) -> str | None:
    """Return the parameter that a node is, or is the default of."""
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [
        *zip(reversed(positional), reversed(arguments.defaults), strict=False),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    return next((name.arg for name, default in defaults if node in (name, default)), None)
