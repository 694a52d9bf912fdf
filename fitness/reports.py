"""What processes leave behind -> values: events, curves, reports, metrics, logs. Candidates wrote it: trust nothing."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from fitness.evaluation import Point
from fitness.target import Metric
from population.individuals import Status

CURVE_POINTS = 200
TAIL_CHARS = 4000
REASON_CHARS = 500
NAME = re.compile(r"[\w.-]{1,32}", re.ASCII)
READ_BYTES = 32 << 20  # of any one file
LARGEST_COUNT = 1 << 53
NOTHING: Mapping[str, object] = {}
CONTROL = dict.fromkeys(set(range(32)) - set(b"\n\t") | set(range(127, 160)))  # must not reach a terminal
NO_SPACE = "No space left on device"  # the machine's fault, whoever it happened to
OUT_OF_MEMORY = re.compile(
    r"MemoryError|out of memory|(?:can't|cannot|can not) allocate memory|not enough memory|bad_alloc", re.I
)


@dataclass(frozen=True)
class Events:
    """What a training wrote to events.jsonl: the first line says on what it runs, the last how it ended."""

    curve: tuple[Point, ...] = ()
    checkpoint: tuple[str, ...] = ()
    n_params: int | None = None
    peak_memory_bytes: int | None = None
    diverged: bool = False
    reason: str | None = None  # of the divergence
    kernel: str | None = None  # of attention
    flops_per_token: float | None = None


def read_events(path: Path) -> Events:
    """Return what `path` tells; lines that are no events are passed over, a missing file is an empty one."""
    lines = list(_objects(read_start(path)))
    points = [point for line in lines if (point := _point(line)) is not None]
    first, last = (lines[0], lines[-1]) if lines else ({}, {})
    named = last.get("checkpoint", [])
    names = cast("list[object]", named) if isinstance(named, list) else [named]
    return Events(
        curve=thin(points),
        checkpoint=tuple(name for name in names if isinstance(name, str)),
        n_params=count(last.get("n_params")),
        peak_memory_bytes=count(last.get("peak_memory_bytes")),
        diverged=last.get("status") == Status.DIVERGED.value,
        reason=_words(last.get("reason")),
        kernel=_name(first.get("attention")),
        flops_per_token=_positive(first.get("flops_per_token")),
    )


def read_report(path: Path) -> Mapping[str, object]:
    """Return the JSON object on the last line of a trusted command's output; empty if there is none."""
    lines = read_start(path).splitlines()
    return next(_objects(lines[-1]), NOTHING) if lines else NOTHING


def told_status(report: Mapping[str, object]) -> Status | None:
    """Return the status that a report names, if any."""
    told = report.get("status")
    return Status(told) if told in {status.value for status in Status} else None


def read_metric(metric: Metric, workspace: Path, log: Path) -> float | None:
    """Return the number that a command reported about itself; it may be infinite or NaN, None if it is missing."""
    if metric.file is not None:
        return number(next(_objects(read_start(workspace / metric.file).replace("\n", " ")), NOTHING).get(metric.name))
    found = re.findall(metric.regex or metric.name, read_start(log), re.MULTILINE)
    return _as_float(found[-1]) if found else None


def number(value: object) -> float | None:
    """Return a JSON number as a float (infinite if it is too large for one), None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def count(value: object) -> int | None:
    """Return a JSON number as a count, None if it is none."""
    found = number(value)
    return int(found) if found is not None and 0 <= found < LARGEST_COUNT else None


def thin(points: list[Point]) -> tuple[Point, ...]:
    """Return at most CURVE_POINTS of these, evenly spread, with the first and the last."""
    if len(points) <= CURVE_POINTS:
        return tuple(points)
    return tuple(points[i * (len(points) - 1) // (CURVE_POINTS - 1)] for i in range(CURVE_POINTS))


def tail(text: str) -> str:
    """Return the end of a log."""
    return text[-TAIL_CHARS:].translate(CONTROL)


def read_start(path: Path) -> str:
    """Return the text of a regular file, at most READ_BYTES of it; empty for anything else. Never blocks."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return ""
    with open(fd, "rb") as file:
        return file.read(READ_BYTES).decode(errors="replace")


def _objects(text: str) -> Iterator[dict[str, object]]:
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield cast("dict[str, object]", value)


def _point(line: Mapping[str, object]) -> Point | None:
    step, loss = count(line.get("step")), number(line.get("train_loss"))
    if step is None or loss is None or not math.isfinite(loss):
        return None
    seconds = number(line.get("seconds"))
    return Point(step, count(line.get("tokens")), seconds if seconds is None or math.isfinite(seconds) else None, loss)


def _positive(value: object) -> float | None:
    found = number(value)
    return found if found is not None and 0 < found < math.inf else None


def _name(value: object) -> str | None:
    """Return a short plain name, None for anything else."""
    return value if isinstance(value, str) and NAME.fullmatch(value) else None


def _words(value: object) -> str | None:
    """Return the beginning of a sentence, None for anything else."""
    return value[:REASON_CHARS] if isinstance(value, str) and value else None


def _as_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
