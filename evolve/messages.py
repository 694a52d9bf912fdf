"""Messages: the commit of a gene in words - what it changes, why, what it does, by which evaluations, and its id."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from population.genes import Gene

TRAILER = "Evolve-Gene"
WIDTH = 72
SHOWN = 12  # evaluation ids in a message
NORMAL_95 = 1.96  # sds from the mean to the ends of a 95 % interval of a posterior

Row = Mapping[str, Any]


def message(gene: Gene, run: Row, measured: Row | None, believed: Row | None, evaluations: Sequence[str]) -> str:
    """Return the message of a gene's commit. `measured` is its row of effects, `believed` that of its posterior."""
    parts = [
        _subject(gene.title),
        _wrapped(gene.hypothesis),
        _effect(run, measured, believed),
        _evidence(evaluations),
        f"Evolve-Run: {run['run_id']}\n{TRAILER}: {gene.gene_id}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _subject(title: str) -> str:
    """Return a title as the first line: one line, and no more than people read."""
    line = " ".join(title.split()) or "a gene"
    return line if len(line) <= WIDTH else textwrap.shorten(line, WIDTH, placeholder=" ...")


def _wrapped(text: str) -> str:
    """Return paragraphs within the width, none of whose lines git could take for the end of the message."""
    paragraphs = [textwrap.fill(" ".join(part.split()), WIDTH) for part in text.split("\n\n")]
    lines = "\n\n".join(filter(None, paragraphs)).splitlines()
    return "\n".join(f" {line}" if line.startswith(("---", "diff ", "Index: ")) else line for line in lines)


def _effect(run: Row, measured: Row | None, believed: Row | None) -> str:
    """Say what a gene does to the score: as an experiment measured it, or else as all evaluations together say."""
    metric, better = run["metric"], "higher" if run["direction"] == "maximize" else "lower"
    if measured and measured["estimate"] is not None:
        interval = _interval(measured["ci_low"], measured["ci_high"])
        what = f"{measured['estimate']:+.4g} {metric} in the stack{interval} (n={measured['n']}, {better} is better)"
    elif believed:
        low, high = (believed["mean"] + side * NORMAL_95 * believed["sd"] for side in (-1, 1))
        what = (
            f"gain {believed['mean']:+.4g} {metric}{_interval(low, high)} (posterior of {believed['n']} evaluations on "
            f"rung {run['rung']}, positive is better)"
        )
    else:
        what = "not measured"
    return textwrap.fill(f"Effect: {what}.", WIDTH)


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f", 95 % interval {low:+.4g} to {high:+.4g}"


def _evidence(evaluations: Sequence[str]) -> str:
    if not evaluations:
        return ""
    more = f" and {len(evaluations) - SHOWN} more" if len(evaluations) > SHOWN else ""
    return textwrap.fill(f"Evaluations: {' '.join(evaluations[:SHOWN])}{more}.", WIDTH)
