"""Knobs: the numeric constants of the base that can be moved without a model, found by syntax, none known by name.

What is not covered: whether a constant matters. A default that every caller overrides looks like any other.
"""

from __future__ import annotations

import ast
import math
import random
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from population.diff import patched
from population.genes import BaseTree, Category, Edit, Gene, Origin, gene_from_edits
from population.literals import Number, given_fields, literals

FACTORS = (0.5, 0.7, 0.8, 1.25, 1.4, 2.0)  # steps on the log scale
FROM_ZERO = (0.01, 0.02, 0.05, 0.1)
CLOSE_TO_ONE = 0.2001  # so near to 1, the distance to 1 is what moves: betas, momenta, decays
NULL_STEP = 1e-6  # relative; changes rounding, not the law
NULL_LEAST = 1e-5  # smaller constants (epsilons) may not even change rounding


@dataclass(frozen=True)
class Knob:
    """A numeric constant of a base file: characters [start, end), a sign included."""

    path: str
    start: int
    end: int
    value: Number
    name: str
    text: str  # as the base has it
    power_of: int | None = None  # the constant is the exponent in power_of**value

    def shown(self, number: str) -> str:
        """Write a value of this knob as people read it."""
        return number if self.power_of is None else f"{self.power_of}**{number}"


def find_knobs(base: BaseTree, skip_flags: frozenset[str] = frozenset()) -> tuple[Knob, ...]:
    """Return the knobs of every .py file, by path and position.

    `skip_flags` are flags that the preset passes (`--depth` or `depth`): a gene on their default would do nothing.
    """
    skipped = frozenset(_flag_name(flag) for flag in skip_flags)
    sources = {path: base.files[path] for path in sorted(base.files) if path.endswith(".py")}
    trees = {path: tree for path, text in sources.items() if (tree := _parsed(text))}
    given = given_fields(tuple(trees.values()))
    return tuple(
        Knob(path, at.start, at.end, at.value, at.name, sources[path][at.start : at.end], at.power_of)
        for path, tree in trees.items()
        for at in literals(sources[path], tree, given)
        if at.flag is None or _flag_name(at.flag) not in skipped
    )


def moves(knob: Knob, current: Gene | None = None) -> tuple[Number, ...]:
    """Return the values a knob may move to, ascending, from where `current` (a gene) or the base has it.

    Positive and negative numbers move by factors; numbers from 0.8 to 1.2 move their distance to 1 by factors; float
    zeros take small steps; ints stay ints, powers of two stay powers of two. Neither the base's value nor the
    current one is among them.
    """
    value = _value_under(knob, current)
    return tuple(sorted(set(_steps(knob, value)) - {value, knob.value}))


def move(knob: Knob, draw: random.Random, current: Gene | None = None) -> str:
    """Draw one of the knob's moves and return the text that replaces the constant."""
    return number_text(draw.choice(moves(knob, current)))


def moved_by(gene: Gene, knob: Knob) -> bool:
    """Say whether a gene gives this knob another number (and not, say, an expression in its place)."""
    return _number_in(gene, knob) is not None


def knob_gene(base: BaseTree, knob: Knob, replacement: str, current: Gene | None = None) -> Gene:
    """Return the gene that sets a knob; with `current`, the allele of that gene in which only this knob differs.

    Raises ChangesNothing when that is the base.
    """
    change = f"{knob.name} {knob.shown(knob.text)} -> {knob.shown(replacement)}"
    kept = [edit for edit in current.edits if not _within(edit, knob)] if current else []
    return gene_from_edits(
        base,
        [*kept, Edit(knob.path, knob.start, knob.end, replacement)],
        title=f"{current.title}; {change}" if current and kept else change,
        hypothesis=f"The constant is not at its best value: {change}.",
        category=current.category if current else Category.OTHER,
        origin=Origin.KNOB,
        allele_of=current.gene_id if current else None,
        requires=current.requires if current else (),
    )


def null_genes(base: BaseTree, knobs: Sequence[Knob], n: int) -> list[Gene]:
    """Return n genes that change rounding but not the law: float constants off by 1e-6, spread over the files.

    None if the knobs hold no float to do it with.
    """
    floats = [knob for knob in knobs if isinstance(knob.value, float) and abs(knob.value) >= NULL_LEAST]
    if not floats:
        return []
    ordered = _spread(floats)
    return [_null_gene(base, ordered[k % len(ordered)], k // len(ordered)) for k in range(n)]


def number_text(number: Number) -> str:
    """Write a number as short as it can be read back."""
    return re.sub(r"e([+-])0*", lambda m: "e-" if m[1] == "-" else "e", repr(number))


def _flag_name(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _parsed(text: str) -> ast.Module | None:
    """Parse Python, or return None: a base file may be in another dialect."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError):
            return None


def _value_under(knob: Knob, gene: Gene | None) -> Number:
    """Return what a gene makes of a knob; the base's value without a gene, or with one that leaves no number there."""
    value = _number_in(gene, knob) if gene else None
    return knob.value if value is None else value


def _within(edit: Edit, knob: Knob) -> bool:
    return edit.path == knob.path and knob.start <= edit.start and edit.end <= knob.end


def _touches(edit: Edit, knob: Knob) -> bool:
    if edit.start == edit.end:
        return edit.path == knob.path and knob.start <= edit.start <= knob.end
    return edit.path == knob.path and edit.start < knob.end and knob.start < edit.end


def _number_in(gene: Gene, knob: Knob) -> Number | None:
    """Return the number that a gene's own edits put in the place of a knob, or None."""
    edits = [edit for edit in gene.edits if _touches(edit, knob)]
    if not edits or not all(_within(edit, knob) for edit in edits):
        return None
    text = patched(knob.text, ((e.start - knob.start, e.end - knob.start, e.replacement) for e in edits))
    if re.fullmatch(r"-?[0-9][0-9_]*", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?([0-9]+\.[0-9]*|\.?[0-9]+)([eE][-+]?[0-9]+)?", text) else None


def _steps(knob: Knob, value: Number) -> list[Number]:
    """Return the values next to `value` on the scale that suits it."""
    if knob.power_of is not None:
        return [value - 1, value + 1]
    if isinstance(value, int):
        return _int_steps(value)
    if value == 0.0:
        return list(FROM_ZERO)
    if 0 < abs(1 - value) <= CLOSE_TO_ONE:
        return [round(1 - _rounded((1 - value) * factor), 12) for factor in FACTORS]
    top = 1 if 0.5 <= value < 1 else math.inf  # a fraction stays one
    return [step for factor in FACTORS if (step := _rounded(value * factor)) <= top]


def _int_steps(value: int) -> list[Number]:
    if value == 0:
        return [1]
    size = abs(value)
    if size & (size - 1) == 0:
        return [step for step in (value // 2, value * 2) if step]
    return [step for factor in FACTORS if (step := round(value * factor))]


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _spread(knobs: Sequence[Knob]) -> list[Knob]:
    """Order knobs so that files take turns, each with its own in an arbitrary but fixed order."""
    by_path: dict[str, list[Knob]] = {}
    for knob in knobs:
        by_path.setdefault(knob.path, []).append(knob)
    draw = random.Random(0)
    rows = [draw.sample(found, len(found)) for found in by_path.values()]
    return [knob for turn in zip_longest(*rows) for knob in turn if knob is not None]


def _null_gene(base: BaseTree, knob: Knob, round_: int) -> Gene:
    """Return the gene that moves a float by 1e-6 of itself, in later rounds by -1e-6, 2e-6, -2e-6 ..."""
    step = NULL_STEP * (round_ // 2 + 1) * (-1) ** round_
    replacement = number_text(float(f"{knob.value * (1 + step):.9g}"))
    gene = knob_gene(base, knob, replacement)
    return replace(gene, hypothesis="Nothing but rounding changes: this measures the noise of a paired contrast.")
