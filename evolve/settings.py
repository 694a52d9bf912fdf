"""The settings of a run: their defaults, --set, and run.toml."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import tomli_w
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from evolve.checking import first_complaint, read_toml, suggestion
from evolve.errors import BadRunToml, NotAnAssignment, UnknownSetting, WrongSetting
from evolve.hardware import usable_cores, usable_gpus
from evolve.presets import choose_preset
from evolve.target_files import load_target
from evolve.target_tables import BUNDLED, target_path
from fitness.gpus import check_gpus, jobs_at_once
from fitness.target import Target

Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class RunSettings:
    """Everything that `evolve run` resolves. None of a limit: no limit; workers None: as many as fit here."""

    target: str = "nanochat"  # a bundled name or the path of a TOML file
    preset: str = "auto"  # "" for a target without presets
    operator: Literal["auto", "local"] = "auto"
    generations: NonNegative = 50  # 0: only the baseline
    population: Annotated[int, Field(ge=2)] = 12
    offspring: Count = 12  # births per generation
    lag: Count = 12  # birth k looks at results of births up to k - lag
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    workers: Count | None = None
    max_hours: Positive | None = None
    max_evaluations: Count | None = None
    replicate_seeds: NonNegative = 4  # fresh seeds for a champion to be
    confirm_seeds: NonNegative = 4  # fresh seeds, and the lockbox, for the champion at the end
    null_genes: NonNegative = 2  # edits that change rounding but not the law, for the noise floor
    keep_checkpoints: bool = False  # in evaluations/<id>/; what is in the cache is then scored again
    variables: Mapping[str, str] = field(default_factory=dict[str, str])  # of the target


KEYS = tuple(f.name for f in fields(RunSettings))
TYPES = {
    name: TypeAdapter[Any](hint, config=ConfigDict(strict=True))
    for name, hint in get_type_hints(RunSettings, include_extras=True).items()
}
UNSET = ("auto", "none")  # how people write None


def apply_sets(settings: RunSettings, sets: Iterable[str], variables: Iterable[str] = ()) -> RunSettings:
    """Return the settings with each `key=value` applied; `variables` are the names that the target declares.

    A variable's value goes to `variables`. UnknownSetting, WrongSetting or NotAnAssignment for one that cannot be used.
    """
    declared = set(variables)
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise NotAnAssignment(text)
        if key in declared:
            settings = replace(settings, variables={**settings.variables, key: value})
        elif key in KEYS and key != "variables":
            settings = replace(settings, **{key: _parse(key, value)})
        else:
            raise UnknownSetting(key, (set(KEYS) - {"variables"}) | declared)
    return settings


def resolve(settings: RunSettings) -> tuple[RunSettings, Target]:
    """Return the settings with every `auto` decided on this machine, and the target they name."""
    preset = choose_preset(settings.target, settings.preset).name
    target = load_target(settings.target, preset, settings.variables)
    check_gpus(target, usable_gpus(target.gpu_memory_gb))
    path = target_path(settings.target)
    resolved = replace(
        settings,
        target=settings.target if path.parent == BUNDLED else str(path),
        preset=preset,
        operator="local",
        workers=settings.workers or workers_for(target),
        variables=dict(target.variables),
    )
    return resolved, target


def workers_for(target: Target) -> int:
    """Return how many runs of this target fit here at once: on the GPUs if a rung wants any, else on the cores."""
    on_gpus = jobs_at_once(target.rungs, len(usable_gpus(target.gpu_memory_gb)))
    return max(1, usable_cores() // target.threads if on_gpus is None else on_gpus)


def write_run_toml(path: Path, settings: RunSettings) -> None:
    """Write the settings, beside and renamed; what is None is left out."""
    known = {key: value for key, value in asdict(settings).items() if value is not None}
    beside = path.with_name(path.name + ".tmp")
    beside.write_text("# Every setting of this run, resolved.\n" + tomli_w.dumps(known), encoding="utf-8")
    os.replace(beside, path)


def read_run_toml(path: Path) -> RunSettings:
    """Return the settings in a run.toml; BadRunToml if it cannot be read, WrongSetting for a value."""
    try:
        raw = read_toml(path)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRunToml(path, error) from error
    for key in raw:
        if key not in KEYS:
            raise BadRunToml(path, f'no setting is called "{key}"; {suggestion(key, KEYS)}')
    values = {key: _checked(key, value) for key, value in raw.items()}
    missing = [f.name for f in fields(RunSettings) if f.default is not None and f.name not in raw]
    if missing:
        raise BadRunToml(path, f"it lacks {', '.join(missing)}; put it back as the run wrote it")
    return RunSettings(**values)


def _parse(key: str, text: str) -> Any:
    """Return the value that a person wrote as text."""
    adapter = TYPES[key]
    if text.lower() in UNSET and getattr(RunSettings, key) is None:
        return None
    try:
        return adapter.validate_strings(text)
    except ValidationError as error:
        raise WrongSetting(key, text, first_complaint(error).rule) from error


def _checked(key: str, value: object) -> Any:
    """Return a value as TOML gave it, if its type and range are right."""
    try:
        return TYPES[key].validate_python(value)
    except ValidationError as error:
        raise WrongSetting(key, value, first_complaint(error).rule) from error
