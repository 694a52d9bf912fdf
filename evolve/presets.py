"""Which preset `auto` is: the first of the file's order whose needs this machine meets, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evolve import errors
from evolve.hardware import cuda_gpus, described, enough_memory
from evolve.target_tables import ALL, NeedsTable, RungTable, TargetTable, ladder, read_target, target_path
from fitness.gpus import Gpu


@dataclass(frozen=True)
class Choice:
    """A preset, "" for a target that has none; for `auto` also what it needs and what is here, in words."""

    name: str
    needs: str = ""
    here: str = ""


def choose_preset(name_or_path: str | Path, preset: str = "auto") -> Choice:
    """Return the preset that will be used: the one that is named, or for `auto` the one that fits the GPUs here."""
    path = target_path(name_or_path)
    return choose(path, read_target(path), preset)


def choose(path: Path, table: TargetTable, preset: str) -> Choice:
    """Return the preset of a target that is read already."""
    if preset != "auto":
        if preset in table.presets or not (preset or table.presets):
            return Choice(preset)
        raise errors.UnknownPreset(path, preset, table.presets)
    if not table.presets:
        return Choice("")
    gpus, needs = cuda_gpus(), {name: _needs(path, table, name) for name in table.presets}
    order = _order(path, table, needs)
    for name in order:
        if _are_met(needs[name], gpus):
            return Choice(name, _in_words(needs[name]), described(gpus))
    raise errors.NoPresetFits(path, order, described(gpus))


def _order(path: Path, table: TargetTable, needs: dict[str, NeedsTable]) -> list[str]:
    """Return what `auto` tries: the file's `auto`, else all that need a GPU and then those that need none."""
    for name in table.auto:
        if name not in table.presets:
            raise errors.WrongValue(path, "auto", name, f"must list presets of this file ({', '.join(table.presets)})")
    return table.auto or sorted(table.presets, key=lambda name: not needs[name].gpus)


def _needs(path: Path, table: TargetTable, name: str) -> NeedsTable:
    """Return what a preset needs, its GPUs counted by its rungs where it does not say."""
    stated, rungs = table.presets[name].needs, ladder(path, table, table.presets[name]).values()
    return stated if stated.gpus else stated.model_copy(update={"gpus": max(_fewest_gpus(rung) for rung in rungs)})


def _fewest_gpus(rung: RungTable) -> int:
    return 1 if rung.gpus == ALL else math.ceil(float(rung.gpus))


def _are_met(needs: NeedsTable, gpus: Sequence[Gpu]) -> bool:
    return len(enough_memory(gpus, needs.gpu_memory_gb)) >= (needs.gpus or 0)


def _in_words(needs: NeedsTable) -> str:
    if not needs.gpus:
        return "no GPU"
    size = f" of {needs.gpu_memory_gb:g} GB or more" if needs.gpu_memory_gb else ""
    return f"{needs.gpus} GPU{'s' * (needs.gpus > 1)}{size}"
