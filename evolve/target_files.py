"""Targets from TOML files: read, checked, and turned into the frozen values that fitness works with.

Every mistake in a file is one sentence (evolve/errors.py). The format is described in docs/targets.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from evolve import errors
from evolve.hardware import usable_gpus
from evolve.presets import choose
from evolve.target_tables import ALL, CommandTable, PresetTable, RungTable, ladder, read_target, target_path
from fitness.commands import PLACEHOLDER
from fitness.target import Metric, Rung, Target
from fitness.workspace import matches

PLACEHOLDERS = frozenset({"python", "seed", "depth", "data", "workspace", "tokens", "eval_tokens", "split", "gpus"})
PREPARE_PLACEHOLDERS = frozenset({"python", "data", "workspace"})  # it runs once, for every rung and seed
STATED_BY_RUNG = ("depth", "tokens", "eval_tokens")  # placeholders that are empty unless the rung states them


def load_target(
    name_or_path: str | Path,
    preset: str = "auto",
    variables: Mapping[str, str] | None = None,
    root: Path | None = None,
) -> Target:
    """Return a target with its preset and variables filled in; a TargetMistake says what is wrong with it.

    `name_or_path` is a bundled name or a TOML file; `variables` override its [variables]; `root` overrides its root,
    for a copy of the file that is kept away from its base.
    """
    path = target_path(name_or_path)
    table = read_target(path)
    chosen = table.presets.get(choose(path, table, preset).name, PresetTable())
    declared = {**table.variables, **chosen.variables}
    for name in variables or {}:
        if name not in declared:
            raise errors.UnknownVariable(path, name, declared)
    target = Target(
        name=table.name,
        root=root or (path.parent / table.root).resolve(),
        editable=tuple(table.editable),
        frozen=tuple(table.frozen),
        metric=Metric(table.metric.name, table.metric.direction, table.metric.file, table.metric.regex),
        rungs=tuple(_rung(name, rung, chosen) for name, rung in ladder(path, table, chosen).items()),
        prepare=_command(table.prepare),
        feeder=_command(table.feeder),
        server=_command(table.server),
        judge=_command(table.judge),
        preload=tuple(table.preload),
        threads=chosen.threads or table.threads,
        gpu_memory_gb=chosen.needs.gpu_memory_gb,
        variables={name: str(value) for name, value in {**declared, **(variables or {})}.items()},
    )
    _check_metric(path, target)
    _check_placeholders(path, target)
    _check_files(path, target)
    return target


def skip_flags(target: Target) -> frozenset[str]:
    """Return the flags (`--depth`) that a rung's command passes: a knob on their default would change nothing."""
    words = (word for rung in target.rungs for word in rung.command)
    return frozenset(word.split("=", 1)[0] for word in words if word.startswith("--") and word != "--")


def _rung(name: str, table: RungTable, preset: PresetTable) -> Rung:
    gpus = _gpus_here(preset) if table.gpus == ALL else float(table.gpus)
    return Rung(
        name=name,
        command=tuple(table.command),
        timeout_s=table.timeout_s,
        seeds=tuple(table.seeds),
        depth=table.depth,
        tokens=table.tokens,
        eval_tokens=table.eval_tokens,
        gpus=gpus,
        compiles=gpus > 0 if table.compile is None else table.compile,
        memory_gb=table.memory_gb,
        env=table.env,
    )


def _gpus_here(preset: PresetTable) -> float:
    """Return what `gpus = "all"` means on this machine, at least 1."""
    return float(max(1, len(usable_gpus(preset.needs.gpu_memory_gb))))


def _command(table: CommandTable | None) -> tuple[str, ...]:
    return tuple(table.command) if table else ()


def _check_metric(path: Path, target: Target) -> None:
    metric = target.metric
    if sum(source is not None for source in (metric.file, metric.regex)) != (0 if target.judge else 1):
        raise errors.MetricSource(path, bool(target.judge))
    if metric.regex is None:
        return
    try:
        groups = re.compile(metric.regex).groups
    except re.error as error:
        raise errors.BadRegex(path, metric.regex, f"does not compile ({error})") from error
    if groups != 1:
        raise errors.BadRegex(path, metric.regex, f"has {groups} groups")


def _check_placeholders(path: Path, target: Target) -> None:
    for name in target.variables:
        if name in PLACEHOLDERS:
            raise errors.TakenVariable(path, name)
    _check_known(path, target, "prepare.command", target.prepare, PREPARE_PLACEHOLDERS)
    shared = {"feeder": target.feeder, "server": target.server, "judge": target.judge}
    for rung in target.rungs:
        for where, command in {**shared, f"rungs.{rung.name}": rung.command}.items():
            _check_known(path, target, f"{where}.command", command, PLACEHOLDERS)
            _check_stated(path, target, f"{where}.command", command, rung)


def _check_known(path: Path, target: Target, where: str, command: Sequence[str], known: frozenset[str]) -> None:
    """Check that somebody fills in every placeholder of a command."""
    for name in _placeholders(command):
        if name not in known and name not in target.variables:
            raise errors.UnknownPlaceholder(path, where, name, known | set(target.variables))


def _check_stated(path: Path, target: Target, where: str, command: Sequence[str], rung: Rung) -> None:
    """Check that the rung has a value for every placeholder that is optional."""
    for name in _placeholders(command):
        if name in STATED_BY_RUNG and getattr(rung, name) is None:
            raise errors.EmptyPlaceholder(path, where, name, f'rung "{rung.name}" has no `{name}`; add it to the rung')
        if name == "data" and not target.prepare:
            raise errors.EmptyPlaceholder(path, where, name, "nothing is prepared into it; add a [prepare] command")


def _placeholders(command: Sequence[str]) -> list[str]:
    return PLACEHOLDER.findall(" ".join(command))


def _check_files(path: Path, target: Target) -> None:
    if not target.root.is_dir():
        raise errors.RootMissing(path, target.root)
    for pattern in (*target.editable, *target.frozen):
        if not pattern or PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts:
            raise errors.GlobOutside(path, pattern)
    both = set(matches(target.root, target.editable)) & set(matches(target.root, target.frozen))
    if both:
        raise errors.EditableAndFrozen(path, min(both))
