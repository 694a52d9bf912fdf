"""A target as fitness sees it: files, commands, rungs. Read from TOML by evolve/target_files.py; here only values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Metric:
    """The number to improve. Without a judge it is read from `file` (a JSON object with key `name`) or by `regex`."""

    name: str
    direction: str  # "minimize" or "maximize"
    file: str | None = None
    regex: str | None = None


@dataclass(frozen=True)
class Rung:
    """One fidelity. `command` runs candidate code in the workspace, without a shell."""

    name: str
    command: tuple[str, ...]
    timeout_s: float
    seeds: tuple[int, ...]
    depth: int | None = None
    tokens: int | None = None  # training tokens the feeder hands out
    eval_tokens: int | None = None  # tokens the judge scores
    gpus: float = 0  # whole ones for this run alone, or a share of one
    compiles: bool = False  # whether its program compiles code that is worth sharing
    memory_gb: float | None = None
    env: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Target:
    """A program that gets patched and scored.

    Trusted commands (`prepare`, `feeder`, `judge`) run in a clean copy of the base; candidate commands (each rung's,
    and `server`) in a workspace: base plus genes. `feeder` is joined by a channel to the rung's command, `judge` to
    `server`: both ends of a socket pair, whose file descriptor number is in the environment variable EVOLVE_CHANNEL.
    A trusted command reports by a JSON object on its last line of standard output: the feeder `tokens` and
    `train_seconds`, the judge the metric's name and, if it knows them, `n_params` and `flops`; either may name a
    `status` (diverged, over_budget, cheated, crashed) and a `reason`.

    Placeholders in every command: {python} {seed} {depth} {data} {workspace} {tokens} {eval_tokens} {split} {gpus},
    and each name in `variables`. {workspace} is the candidate's directory, in trusted commands too.
    """

    name: str
    root: Path
    editable: tuple[str, ...]  # globs; genes may touch nothing else
    frozen: tuple[str, ...]  # globs; laid fresh from the base into every workspace
    metric: Metric
    rungs: tuple[Rung, ...]  # cheapest first; the last one counts
    prepare: tuple[str, ...] = ()  # once per base, into {data}
    feeder: tuple[str, ...] = ()
    server: tuple[str, ...] = ()
    judge: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()  # modules imported once and shared by every python child
    threads: int = 1  # of each child
    gpu_memory_gb: float | None = None  # GPUs with less are left alone, where there are others
    variables: Mapping[str, str] = field(default_factory=dict[str, str])

    def rung(self, name: str) -> Rung:
        """Return the rung of this name; KeyError if there is none."""
        return next(r for r in self.rungs if r.name == name)
