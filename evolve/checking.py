"""Checks of what people write: the nearest known name, and a pydantic complaint in plain words."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

RULES = {
    "bool_type": "must be true or false",
    "dict_type": "must be a table",
    "finite_number": "must be finite",
    "float_type": "must be a number",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be {ge} or more",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "model_attributes_type": "must be a table",
    "model_type": "must be a table",
    "string_pattern_mismatch": "must match {pattern}",
    "string_type": "must be text in quotes",
    "too_short": "must not be empty",
    "value_error": "{error}",
}


@dataclass(frozen=True)
class Complaint:
    """What is wrong with one value: where it stands (`rungs.screen.seeds`), the value, the rule it breaks."""

    where: str
    key: str
    value: object
    rule: str
    kind: str  # pydantic's error type: extra_forbidden, missing, int_type ...


def first_complaint(error: ValidationError, within: str = "") -> Complaint:
    """Return the first complaint of a pydantic error, unknown keys first; `within` goes before where it stands."""
    details = min(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    steps = [str(step) for step in details["loc"]]
    template = RULES.get(details["type"])
    rule = template.format(**details.get("ctx", {})) if template else details["msg"].replace("Input should", "must")
    where = ".".join([within, *steps] if within else steps)
    return Complaint(where, steps[-1] if steps else within, details["input"], rule, details["type"])


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return `did you mean "..."?` for the nearest known name, or else the list of all."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f'did you mean "{near[0]}"?'
    return f"known: {', '.join(names)}" if names else "there are none"


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file. OSError, tomllib.TOMLDecodeError or UnicodeDecodeError if it is not one."""
    with path.open("rb") as stream:
        return tomllib.load(stream)
