"""The tables of a target's TOML file, as they are checked one by one, and where the files lie.

Every mistake is one sentence (evolve/errors.py). The format is described in docs/targets.md.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from evolve import errors
from evolve.checking import first_complaint, read_toml

BUNDLED = Path(__file__).resolve().parent / "targets"

Command = Annotated[list[str], Field(min_length=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
ANY = "*"  # [rungs."*"]: what every rung takes that says nothing else
ALL = "all"  # gpus = "all"


def _number_of_gpus(value: object) -> float | str:
    if value == ALL:
        return ALL
    if isinstance(value, int | float) and not isinstance(value, bool) and (0 <= value < 1 or value in range(1, 1025)):
        return float(value)
    raise ValueError('must be a number of whole GPUs, a share of one below 1, or "all"')


Gpus = Annotated[float | str, PlainValidator(_number_of_gpus)]


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
    gpus: Gpus = 0.0
    compile: bool | None = None  # None: if it has a GPU
    memory_gb: Positive | None = None
    env: dict[str, str] = {}


class NeedsTable(Table):
    """[presets.NAME.needs]: what a machine must have for `auto`; without `gpus`, as many as a rung wants."""

    gpus: Count | None = None
    gpu_memory_gb: Positive | None = None


class CommandTable(Table):
    """[prepare], [feeder], [server] or [judge]."""

    command: Command


class PresetTable(Table):
    """[presets.NAME]: its rungs are the ladder; `threads` and `variables` go over the file's own."""

    description: str = ""
    threads: Count | None = None
    needs: NeedsTable = NeedsTable()
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
    auto: list[str] = []
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


def read_target(path: Path) -> TargetTable:
    """Return the checked tables of a file; a TargetMistake says what is wrong with it."""
    try:
        raw = read_toml(path)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise errors.BadToml(path, error) from error
    try:
        return TargetTable.model_validate(raw)
    except ValidationError as error:
        raise _mistake(path, error) from error


def ladder(path: Path, table: TargetTable, preset: PresetTable) -> dict[str, RungTable]:
    """Return the rungs by name, cheapest first: the preset's if it has any, else the file's.

    What a rung leaves out comes from the preset's rung "*", then the file's of the same name, then the file's "*".
    """
    names = [name for name in preset.rungs if name != ANY] or [name for name in table.rungs if name != ANY]
    if not names:
        raise errors.NoRungs(path)
    layers = (table.rungs, preset.rungs)
    return {
        name: _rung(path, name, {key: v for over in layers for n in (ANY, name) for key, v in over.get(n, {}).items()})
        for name in names
    }


def _rung(path: Path, name: str, raw: Mapping[str, Any]) -> RungTable:
    where = f"rungs.{name}"
    try:
        table = RungTable.model_validate(raw)
    except ValidationError as error:
        raise _mistake(path, error, where) from error
    if len(set(table.seeds)) < len(table.seeds):
        raise errors.WrongValue(path, f"{where}.seeds", table.seeds, "must not repeat a seed")
    return table


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
        return NeedsTable.model_fields if steps[-1] == "needs" else PresetTable.model_fields
    return MetricTable.model_fields if steps[0] == "metric" else CommandTable.model_fields
