"""Mentions: where a file binds a name and where it uses one, so that a definition is found again at its uses.

A name has keys. `path:function.x` is a variable of that function, `path:.x` one of the module, and `.x` whatever is
reached by name from elsewhere: attributes, fields, parameters, dictionary keys, flags (`--x-y` is `.x_y`), and what
a module exports.

What is not covered: types. Two fields of one name in two classes are one key.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

_WORD = re.compile(r"[^\W\d][\w-]*")
_FLAG = re.compile(r"--?[A-Za-z][\w-]*")
_KEYWORD = re.compile(r"(?:async[\s\\]+)?(?:def|class)[\s\\]+")
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True, slots=True)
class Mention:
    """Characters [start, end) mention a key; `binds`: they define it."""

    start: int
    end: int
    key: str
    binds: bool


@dataclass(frozen=True)
class _Scope:
    """A module, class or function, and the names that are bound in it."""

    name: str  # `GPT.forward`; empty for the module
    names: frozenset[str]
    is_class: bool = False


def mentions(path: str, text: str) -> list[Mention]:
    """Return every mention of a key in a file: by syntax if it is Python that parses, else every word."""
    tree = parsed(text) if path.endswith(".py") else None
    if tree is None:
        return [Mention(*word.span(), _field(word[0]), False) for word in _WORD.finditer(text)]
    return _Reader(path, text).read(tree)


def module_key(path: str) -> str:
    """Return the key by which other files mention the file at `path`."""
    return _field(path.rsplit("/", 1)[-1].removesuffix(".py"))


def parsed(text: str) -> ast.Module | None:
    """Parse Python, or return None for a text in another dialect."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


class Positions:
    """Turns the parser's rows and byte columns into characters of a text."""

    def __init__(self, text: str) -> None:
        self._rows = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+$", text)
        self._starts = list(accumulate(map(len, self._rows), initial=0))

    def at(self, row: int, column: int) -> int:
        """Return the character at a row (from 1) and a column in UTF-8 bytes."""
        line = self._rows[row - 1] if row <= len(self._rows) else ""
        return self._starts[row - 1] + (column if line.isascii() else len(line.encode()[:column].decode()))

    def span(self, node: ast.expr | ast.stmt | ast.arg | ast.keyword | ast.alias) -> tuple[int, int]:
        """Return the characters [start, end) of a node."""
        return self.at(node.lineno, node.col_offset), self.at(node.end_lineno or 0, node.end_col_offset or 0)


class _Reader(ast.NodeVisitor):
    """Walks one file with the scopes that each node is in."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._text = text
        self._positions = Positions(text)
        self._scopes: list[_Scope] = []
        self._found: list[Mention] = []
        self._string: tuple[int, int] | None = None  # the f-string around: it is one token

    def read(self, tree: ast.Module) -> list[Mention]:
        self._inside(_Scope("", frozenset(_bound(tree.body))), tree.body)
        return self._found

    def visit_Name(self, node: ast.Name) -> None:
        binds = not isinstance(node.ctx, ast.Load)
        self._name(node.id, self._positions.span(node), binds)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        _, end = self._positions.span(node)
        self._add((end - len(node.attr), end), _field(node.attr), isinstance(node.ctx, ast.Store))
        self.visit(node.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and (node.value.isidentifier() or _FLAG.fullmatch(node.value)):
            self._add(self._positions.span(node), _field(node.value), False)

    def visit_Call(self, node: ast.Call) -> None:
        is_dict = isinstance(node.func, ast.Name) and node.func.id == "dict"
        for keyword in node.keywords:
            if keyword.arg is not None:
                start, _ = self._positions.span(keyword)
                self._add((start, start + len(keyword.arg)), _field(keyword.arg), is_dict)
        self._keys(_flags(node))
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        self._keys(key for key in node.keys if key is not None)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Store):
            self._keys([node.slice])
        self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        around, self._string = self._string, self._string or self._positions.span(node)
        self.generic_visit(node)
        self._string = around

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module:
            self._add(self._positions.span(node), module_key(node.module.replace(".", "/")), False)
        self.generic_visit(node)

    def visit_alias(self, node: ast.alias) -> None:
        start, end = self._positions.span(node)
        self._add((start, end), _field(node.name.rsplit(".", 1)[-1]), False)
        self._name(node.asname or node.name.split(".")[0], (start, end), True, exports=False)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._name(node.name, self._header(node), True)
        for outside in (*node.decorator_list, *([node.returns] if node.returns else [])):
            self.visit(outside)
        self._function(node, node.name, node.body)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._function(node, "lambda", [node.body])

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._name(node.name, self._header(node), True)
        for outside in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(outside)
        self._inside(_Scope(self._qualified(node.name), frozenset(_bound(node.body)), is_class=True), node.body)

    def _function(self, node: Function, name: str, body: Iterable[ast.AST]) -> None:
        parameters = list(_parameters(node.args))
        for default in (*node.args.defaults, *(d for d in node.args.kw_defaults if d)):
            self.visit(default)
        scope = _Scope(self._qualified(name), frozenset((*(p.arg for p in parameters), *_bound(body))))
        for parameter in parameters:
            start, _ = self._positions.span(parameter)
            span = (start, start + len(parameter.arg))
            self._add(span, self._key(scope, parameter.arg), True)
            self._add(span, _field(parameter.arg), True)
            if parameter.annotation:
                self.visit(parameter.annotation)
        self._inside(scope, body)

    def _inside(self, scope: _Scope, body: Iterable[ast.AST]) -> None:
        self._scopes.append(scope)
        for node in body:
            self.visit(node)
        self._scopes.pop()

    def _name(self, name: str, span: tuple[int, int], binds: bool, exports: bool = True) -> None:
        """Note a plain name; what a module or class binds can be reached from elsewhere too."""
        scope = self._home(name)
        self._add(span, self._key(scope, name), binds)
        if binds and exports and (scope.is_class or not scope.name):
            self._add(span, _field(name), True)

    def _home(self, name: str) -> _Scope:
        """Return the scope that a name lives in: classes are seen from their own body only."""
        seen = [scope for scope in self._scopes if not scope.is_class or scope is self._scopes[-1]]
        return next((scope for scope in reversed(seen) if name in scope.names), self._scopes[0])

    def _keys(self, nodes: Iterable[ast.expr]) -> None:
        """Note strings that define: flags, and keys of dictionaries."""
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                self._add(self._positions.span(node), _field(node.value), True)

    def _header(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> tuple[int, int]:
        """Return the span of the name that a definition defines."""
        start, _ = self._positions.span(node)
        keyword = _KEYWORD.match(self._text, start)
        assert keyword is not None, "a definition begins with its keyword"
        return keyword.end(), keyword.end() + len(node.name)

    def _qualified(self, name: str) -> str:
        outer = self._scopes[-1].name
        return f"{outer}.{name}" if outer else name

    def _key(self, scope: _Scope, name: str) -> str:
        return f"{self._path}:{scope.name}.{name}"

    def _add(self, span: tuple[int, int], key: str, binds: bool) -> None:
        self._found.append(Mention(*(self._string or span), key, binds))


def _field(name: str) -> str:
    return "." + name.strip("-").replace("-", "_")


def _flags(call: ast.Call) -> list[ast.expr]:
    """Return the flags that a call like `parser.add_argument("-x", "--flag")` declares, by whatever name it goes."""
    match call.args:
        case [ast.Constant(value=str(first)), *_] if _FLAG.fullmatch(first):
            return call.args
        case _:
            return []


def _parameters(arguments: ast.arguments) -> Iterator[ast.arg]:
    yield from (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    yield from (star for star in (arguments.vararg, arguments.kwarg) if star)


def _bound(body: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the names that statements bind in their own scope, nested functions and classes left out."""
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Lambda():
                pass
            case ast.alias():
                yield node.asname or node.name.split(".")[0]
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.ExceptHandler(name=str(name)):
                yield name
                yield from _bound(ast.iter_child_nodes(node))
            case _:
                yield from _bound(ast.iter_child_nodes(node))
