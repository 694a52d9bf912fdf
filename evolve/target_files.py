"""Targets from TOML files: read, checked, and turned into the frozen values that fitness works with.

Every mistake in a file is one sentence (evolve/errors.py). The format is described in docs/targets.md.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evolve import errors
from evolve.checking import first_complaint, read_toml
from evolve.hardware import cuda_gpus
from fitness.commands import PLACEHOLDER
from fitness.target import Metric, Rung, Target
from fitness.workspace import matches

BUNDLED = Path(__file__).resolve().parent / "targets"
PLACEHOLDERS = frozenset({"python", "seed", "depth", "data", "workspace", "tokens", "eval_tokens", "split"})
PREPARE_PLACEHOLDERS = frozenset({"python", "data", "workspace"})  # it runs once, for every rung and seed
STATED_BY_RUNG = ("depth", "tokens", "eval_tokens")  # placeholders that are empty unless the rung states them

Command = Annotated[list[str], Field(min_length=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Table(BaseModel):
    """A table of the file: known keys only, no conversion of types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class MetricTable(Table):
    """[metric]."""

    name: str
    direction: Literal["minimize", "maximize"]
    file: str | None = None
    regex: str | None = None


class RungTable(Table):
    """[rungs.NAME], after a preset has been laid over it."""

    command: Command
    timeout_s: Positive
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    depth: Count | None = None
    tokens: Count | None = None
    eval_tokens: Count | None = None
    gpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    memory_gb: Positive | None = None
    env: dict[str, str] = {}


class CommandTable(Table):
    """[prepare], [feeder], [server] or [judge]."""

    command: Command


class PresetTable(Table):
    """[presets.NAME]: its rungs are the ladder; `threads` and `variables` go over the file's own."""

    description: str = ""
    threads: Count | None = None
    variables: dict[str, str | int | float] = {}
    rungs: dict[str, dict[str, Any]] = {}


class TargetTable(Table):
    """The whole file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    root: str = "."
    editable: Annotated[list[str], Field(min_length=1)]
    frozen: list[str] = []
    metric: MetricTable
    rungs: dict[str, dict[str, Any]] = {}
    presets: dict[str, PresetTable] = {}
    prepare: CommandTable | None = None
    feeder: CommandTable | None = None
    server: CommandTable | None = None
    judge: CommandTable | None = None
    preload: list[str] = []
    threads: Count = 1
    variables: dict[str, str | int | float] = {}


def bundled_targets() -> list[str]:
    """Return the names of the targets that come with evolve."""
    return sorted(path.stem for path in BUNDLED.glob("*.toml"))


def target_path(name_or_path: str | Path) -> Path:
    """Return the TOML file of a bundled target, or of a path; UnknownTarget if there is none."""
    bundled = BUNDLED / f"{name_or_path}.toml"
    path = bundled if str(name_or_path) in bundled_targets() else Path(name_or_path)
    if not path.is_file():
        raise errors.UnknownTarget(str(name_or_path), bundled_targets())
    return path.resolve()


def choose_preset(name_or_path: str | Path, preset: str = "auto") -> str:
    """Return the name of the preset that will be used, "" if the target has none: `auto` goes by the GPUs here.

    With a GPU it is the first preset that asks for one, without the first that asks for none.
    """
    path = target_path(name_or_path)
    return _choose(path, _read(path), preset)


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
    table = _read(path)
    chosen = table.presets.get(_choose(path, table, preset), PresetTable())
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
        rungs=_rungs(path, table, chosen),
        prepare=_command(table.prepare),
        feeder=_command(table.feeder),
        server=_command(table.server),
        judge=_command(table.judge),
        preload=tuple(table.preload),
        threads=chosen.threads or table.threads,
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


def _read(path: Path) -> TargetTable:
    try:
        raw = read_toml(path)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise errors.BadToml(path, error) from error
    try:
        return TargetTable.model_validate(raw)
    except ValidationError as error:
        raise _mistake(path, error) from error


def _mistake(path: Path, error: ValidationError, within: str = "") -> errors.TargetMistake:
    """Return the sentence for the first thing pydantic complains of."""
    complaint = first_complaint(error, within)
    if complaint.kind == "extra_forbidden":
        return errors.UnknownKey(path, complaint, _known_keys(complaint.where.split(".")[:-1]))
    if complaint.kind == "missing":
        return errors.MissingKey(path, complaint.where)
    return errors.WrongValue(path, complaint.where, complaint.value, complaint.rule)


def _known_keys(steps: Sequence[str]) -> Iterable[str]:
    """Return the keys of the table at these steps from the top of the file."""
    if not steps:
        return TargetTable.model_fields
    if steps[-2:-1] == ["rungs"]:
        return RungTable.model_fields
    if steps[0] == "presets":
        return PresetTable.model_fields
    return MetricTable.model_fields if steps[0] == "metric" else CommandTable.model_fields


def _choose(path: Path, table: TargetTable, preset: str) -> str:
    if preset != "auto":
        if preset in table.presets or not (preset or table.presets):
            return preset
        raise errors.UnknownPreset(path, preset, table.presets)
    if not table.presets:
        return ""
    wants_gpu = {name: any(r.gpus for r in _rungs(path, table, p)) for name, p in table.presets.items()}
    has_gpu = bool(cuda_gpus())
    fitting = [name for name, wants in wants_gpu.items() if wants == has_gpu]
    fitting += [name for name, wants in wants_gpu.items() if not wants]
    if not fitting:
        raise errors.NoPresetFits(path, table.presets)
    return fitting[0]


def _rungs(path: Path, table: TargetTable, preset: PresetTable) -> tuple[Rung, ...]:
    """Return the ladder: the preset's rungs, if it has any, each over the file's rung of the same name."""
    ladder = {name: {**table.rungs.get(name, {}), **over} for name, over in preset.rungs.items()} or table.rungs
    if not ladder:
        raise errors.NoRungs(path)
    return tuple(_rung(path, name, raw) for name, raw in ladder.items())


def _rung(path: Path, name: str, raw: Mapping[str, Any]) -> Rung:
    where = f"rungs.{name}"
    try:
        table = RungTable.model_validate(raw)
    except ValidationError as error:
        raise _mistake(path, error, where) from error
    if len(set(table.seeds)) < len(table.seeds):
        raise errors.WrongValue(path, f"{where}.seeds", table.seeds, "must not repeat a seed")
    return Rung(
        name=name,
        command=tuple(table.command),
        timeout_s=table.timeout_s,
        seeds=tuple(table.seeds),
        depth=table.depth,
        tokens=table.tokens,
        eval_tokens=table.eval_tokens,
        gpus=table.gpus,
        memory_gb=table.memory_gb,
        env=table.env,
    )


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
