"""Literals: the numbers of a Python file that somebody chose, found by their place in the syntax.

A number is judged by its role, which is what its parent makes of it. Shapes, indices, sentinels, counters and unit
conversions are not choices: subscripts, asserts, annotations, decorators and f-strings are left out, -1 and most
small ints too, roots and squares, a name that is bound again to something else (it is state), a number of more than
six digits (it was computed), and the default of a field that the tree's own calls of its class always give.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from itertools import accumulate

MOST_DIGITS = 6
TRIVIAL = frozenset((0.0, 1.0))  # in arithmetic: ends of a range, what does nothing
ROOTS = frozenset((0.5, -0.5))  # as exponents
Number = int | float
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class Role(Enum):
    """What a number is to the syntax around it."""

    FLAG = auto()  # add_argument("--x", default=...)
    NAMED = auto()  # x = ..., def f(x=...), {"x": ...}
    KEYWORD = auto()  # f(x=...)
    VALUE = auto()  # f(...), (..., ...), a < ..., return ...
    OPERAND = auto()  # a * ...


@dataclass(frozen=True)
class Literal:
    """A number at characters [start, end). In `2**19` it is the 19, and `power_of` is 2."""

    start: int
    end: int
    value: Number
    name: str
    flag: str | None
    power_of: int | None


def literals(text: str, tree: ast.Module, given: frozenset[tuple[str, str]]) -> list[Literal]:
    """Return the chosen numbers of a file in order. `tree` is `ast.parse(text)`; `given` are fields to leave out."""
    return _Reader(text, tree, given).read()


def given_fields(trees: Sequence[ast.Module]) -> frozenset[tuple[str, str]]:
    """Return each (class, field) whose default never counts, since every call of the class in these trees gives it."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    calls: dict[str, list[ast.Call]] = {}
    for call in nodes:
        if isinstance(call, ast.Call):
            calls.setdefault(_last_name(call.func), []).append(call)
    return frozenset(
        (owner.name, field)
        for owner in nodes
        if isinstance(owner, ast.ClassDef) and owner.name in calls
        for k, field in enumerate(_fields(owner))
        if all(_gives(call, k, field) for call in calls[owner.name])
    )


class _Reader:
    """Walks one tree, every node with its ancestors."""

    def __init__(self, text: str, tree: ast.Module, given: frozenset[tuple[str, str]]) -> None:
        self._text = text
        self._given = given
        self._tree = tree
        self._parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}

    def read(self) -> list[Literal]:
        nodes = (node for node in ast.walk(self._tree) if isinstance(node, ast.expr))
        return sorted(filter(None, map(self._literal, nodes)), key=lambda literal: literal.start)

    def _literal(self, node: ast.expr) -> Literal | None:
        number = _number(node)
        if number is None or _number(self._parents[node]) is not None or self._is_left_out(node):
            return None
        role = self._role(node)
        if role is None or not _is_choice(role, number):
            return None
        place, value, power_of = _exponent(node) or (node, number, None)
        start, end = self._span(place)
        if not _is_plain(self._text[start:end]):
            return None
        return Literal(start, end, value, self._name(node), self._flag(node), power_of)

    def _role(self, node: ast.AST) -> Role | None:
        match self._parents[node]:
            case ast.keyword(arg=arg) as keyword:
                if _flag_of(self._parents[keyword]) is None:
                    return Role.KEYWORD
                return Role.FLAG if arg == "default" else None
            case ast.Assign() | ast.AnnAssign() as binding:
                return None if self._is_state(binding) or self._is_given(binding) else Role.NAMED
            case ast.Dict(values=values):
                return Role.NAMED if node in values else None
            case ast.arguments():
                return Role.NAMED
            case ast.BinOp(op=ast.Pow(), left=left) if left is node or _number(node) in ROOTS:
                return None
            case ast.AugAssign(op=op) | ast.BinOp(op=op):
                return Role.OPERAND if isinstance(op, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.Pow) else None
            case ast.Call() | ast.Tuple() | ast.List() | ast.Compare() | ast.IfExp() | ast.Return() | ast.Lambda():
                return Role.VALUE
            case _:
                return None

    def _is_left_out(self, node: ast.AST) -> bool:
        for child, parent in self._line(node):
            match parent:
                case ast.Subscript() if child is parent.slice:
                    return True
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() if child in parent.decorator_list:
                    return True
                case ast.FunctionDef() | ast.AsyncFunctionDef() if child is parent.returns:
                    return True
                case ast.AnnAssign() | ast.arg() if child is parent.annotation:
                    return True
                case ast.JoinedStr() | ast.Assert() | ast.Raise():
                    return True
                case _:
                    pass
        return False

    def _line(self, node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
        """Yield (child, parent) from a node up to the module."""
        while node in self._parents:
            yield node, self._parents[node]
            node = self._parents[node]

    def _is_state(self, binding: ast.Assign | ast.AnnAssign) -> bool:
        """Say whether what is bound here is bound again to something else than a number, or counted up."""
        targets = binding.targets if isinstance(binding, ast.Assign) else [binding.target]
        names = {(self._scope(binding, target), ast.unparse(target)) for target in targets}
        return not names.isdisjoint(self._rebound)

    def _is_given(self, binding: ast.Assign | ast.AnnAssign) -> bool:
        owner = self._parents[binding]
        if not isinstance(owner, ast.ClassDef) or isinstance(binding, ast.Assign):
            return False
        return (owner.name, ast.unparse(binding.target)) in self._given

    @cached_property
    def _rebound(self) -> frozenset[tuple[ast.AST, str]]:
        """Every (scope, name) that is bound to something else than a number."""
        return frozenset(
            (self._scope(node, node), ast.unparse(node))
            for node in ast.walk(self._tree)
            if isinstance(node, ast.Name | ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and not self._binds_number(node)
        )

    def _binds_number(self, target: ast.AST) -> bool:
        parent = self._parents[target]
        return isinstance(parent, ast.Assign | ast.AnnAssign) and _number(parent.value) is not None

    def _scope(self, node: ast.AST, target: ast.AST) -> ast.AST:
        """Return where a name lives: its function, class or module; for an attribute, the module."""
        if isinstance(target, ast.Attribute):
            return self._tree
        scopes = (parent for _, parent in self._line(node) if isinstance(parent, Function | ast.ClassDef | ast.Module))
        return next(scopes)

    def _name(self, node: ast.expr) -> str:
        """Name a number for people: flag, variable, parameter, keyword, or else its line."""
        match self._parents[node]:
            case ast.keyword(arg=str(arg)) as keyword:
                flag = _flag_of(self._parents[keyword])
                return flag.lstrip("-").replace("-", "_") if flag else arg
            case ast.Assign(targets=[target, *_]) | ast.AnnAssign(target=target):
                return ast.unparse(target)
            case ast.arguments() as arguments:
                return _parameter(arguments, node)
            case ast.Dict() as pairs:
                key = next(key for key, value in zip(pairs.keys, pairs.values, strict=True) if value is node)
                return str(key.value) if isinstance(key, ast.Constant) else self._line_text(node)
            case ast.Tuple() | ast.List() as sequence if isinstance(
                self._parents[sequence], ast.keyword | ast.Assign | ast.AnnAssign | ast.arguments | ast.Dict
            ):
                place = next(k for k, element in enumerate(sequence.elts) if element is node)
                return f"{self._name(sequence)}[{place}]"
            case _:
                return self._line_text(node)

    def _line_text(self, node: ast.expr) -> str:
        """Return the enclosing function and the line, shortened."""
        functions = [p.name for _, p in self._line(node) if isinstance(p, ast.FunctionDef | ast.AsyncFunctionDef)]
        line = " ".join(self._rows[node.lineno - 1].split("#")[0].split())
        return f"{functions[0]}: {line[:60]}" if functions else line[:60]

    def _flag(self, node: ast.AST) -> str | None:
        parent = self._parents[node]
        return _flag_of(self._parents[parent]) if isinstance(parent, ast.keyword) else None

    @cached_property
    def _rows(self) -> list[str]:
        """The lines as the parser counts them, ends kept."""
        return re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+$", self._text)

    @cached_property
    def _row_starts(self) -> list[int]:
        return list(accumulate(map(len, self._rows), initial=0))

    def _span(self, node: ast.expr) -> tuple[int, int]:
        """Return the characters [start, end) of a node; the parser counts columns in UTF-8 bytes."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._at(node.lineno, node.col_offset), self._at(node.end_lineno, node.end_col_offset)

    def _at(self, row: int, column: int) -> int:
        return self._row_starts[row - 1] + len(self._rows[row - 1].encode()[:column].decode())


def _number(node: ast.AST | None) -> Number | None:
    """Return the value of a number, a signed number or a power of two ints such as 2**19; None for anything else."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant() as operand):
            value = _number(operand)
            return None if value is None else -value
        case ast.BinOp(op=ast.Pow(), left=ast.Constant(value=int() as base), right=ast.Constant(value=int() as power)):
            return base**power if 1 < base <= 10 and 1 < power < 64 else None
        case _:
            return None


def _exponent(node: ast.AST) -> tuple[ast.expr, int, int] | None:
    """Return the exponent of a power (its node and value) and the base; None for a plain number."""
    match node:
        case ast.BinOp(left=ast.Constant(value=int() as base), right=ast.Constant(value=int() as power) as place):
            return place, power, base
        case _:
            return None


def _is_choice(role: Role, number: Number) -> bool:
    """Say whether a number in this role may be moved."""
    if number == -1:
        return False
    if isinstance(number, float):
        return role not in (Role.VALUE, Role.OPERAND) or abs(number) not in TRIVIAL
    least = {Role.FLAG: 0, Role.NAMED: 1, Role.KEYWORD: 3, Role.OPERAND: 3}
    return role in least and number >= least[role]


def _is_plain(text: str) -> bool:
    """Say whether a literal is decimal and short enough to have been chosen."""
    digits = re.sub(r"[eE].*|[-_.]", "", text).strip("0")
    return re.fullmatch(r"-?[0-9._]+([eE][-+]?[0-9]+)?", text) is not None and len(digits) <= MOST_DIGITS


def _flag_of(call: ast.AST) -> str | None:
    """Return the flag that a call like `parser.add_argument("--flag", ...)` declares, by whatever name it is called."""
    match call:
        case ast.Call(args=[ast.Constant(value=str(first)), *rest]) if first.startswith("-"):
            names = [name.value for name in rest if isinstance(name, ast.Constant) and isinstance(name.value, str)]
            return max([first, *names], key=len)
        case _:
            return None


def _last_name(function: ast.expr) -> str:
    return ast.unparse(function).rsplit(".", 1)[-1]


def _fields(owner: ast.ClassDef) -> list[str]:
    return [
        node.target.id for node in owner.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]


def _gives(call: ast.Call, position: int, field: str) -> bool:
    """Say whether a call sets a field, by position or by name; a starred argument may set any."""
    starred = any(isinstance(argument, ast.Starred) for argument in call.args)
    return starred or position < len(call.args) or any(keyword.arg in (None, field) for keyword in call.keywords)


def _parameter(arguments: ast.arguments, default: ast.AST) -> str:
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = [
        *zip(reversed(positional), reversed(arguments.defaults), strict=False),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    return next(name.arg for name, value in pairs if value is default)
