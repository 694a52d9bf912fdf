"""Placeholders: a command of the target -> the argument list of a process."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fitness.evaluation import Job
from fitness.mistakes import UnknownPlaceholder
from fitness.target import Rung, Target

PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")  # other braces, as in JSON arguments, stay as they are


def fill(command: Sequence[str], values: Mapping[str, object]) -> tuple[str, ...]:
    """Return `command` with every {name} replaced; a name that is missing or None is the user's mistake."""
    return tuple(_fill_one(argument, values) for argument in command)


def placeholders(target: Target, rung: Rung, job: Job, workspace: Path, data: Path | None) -> dict[str, object]:
    """Return the values that a command may use for this job in this directory."""
    return {
        **target.variables,
        "python": sys.executable,
        "seed": job.seed,
        "split": job.split,
        "depth": rung.depth,
        "tokens": rung.tokens,
        "eval_tokens": rung.eval_tokens,
        "workspace": workspace,
        "data": data,
        "gpus": max(1, math.ceil(rung.gpus)),
    }


def _fill_one(argument: str, values: Mapping[str, object]) -> str:
    def value(match: re.Match[str]) -> str:
        found = values.get(match[1])
        if found is None:
            raise UnknownPlaceholder(match[1], argument, (name for name, known in values.items() if known is not None))
        return str(found)

    return PLACEHOLDER.sub(value, argument)
