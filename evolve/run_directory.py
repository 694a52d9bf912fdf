"""A run directory: where every file of a run lies, how a new one is made and an old one is found."""

from __future__ import annotations

import os
import shlex
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from evolve.runlock import LOCK, RunLock
from population.mistakes import Mistake


class NoRun(Mistake):
    """There is no run to speak of."""

    def __init__(self, where: Path) -> None:
        super().__init__(f"no run directory at {where}; start one with `evolve run`, or name one that holds a run.toml")


class RunExists(Mistake):
    """A new run would write over an old one."""

    def __init__(self, where: Path) -> None:
        super().__init__(
            f"{where} already holds a run; continue it with `evolve resume {where}` or give another --run-dir"
        )


class NotEmpty(Mistake):
    """A new run would mix its files with others."""

    def __init__(self, where: Path) -> None:
        super().__init__(f"{where} is not empty and holds no run; give --run-dir a new or an empty directory")


class NoPlace(Mistake):
    """A run directory cannot be made."""

    def __init__(self, where: Path, error: OSError) -> None:
        super().__init__(f"no run directory can be made at {where} ({error.strerror}); give another --run-dir")


@dataclass(frozen=True)
class RunDirectory:
    """The paths of one run."""

    path: Path

    @property
    def shown(self) -> str:
        """Return the path as people should type it from here."""
        here = Path.cwd()
        return shlex.quote(str(self.path.relative_to(here) if self.path.is_relative_to(here) else self.path))

    @property
    def settings(self) -> Path:
        """Return the path of run.toml: every setting, resolved."""
        return self.path / "run.toml"

    @property
    def target(self) -> Path:
        """Return the path of the copy of the target's TOML."""
        return self.path / "target.toml"

    @property
    def base(self) -> Path:
        """Return the directory of the base: a copy of the target's files, as they were when the run began."""
        return self.path / "base"

    @property
    def evaluations(self) -> Path:
        """Return the directory of one folder per evaluation: log, events, patch."""
        return self.path / "evaluations"

    @property
    def inbox(self) -> Path:
        """Return the directory of genes that wait to be born."""
        return self.path / "inbox"


def cache_root() -> Path:
    """Return the user's cache folder for prepared data and scores."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evolve"


@contextmanager
def new_run(wanted: Path | None, target: str) -> Generator[RunDirectory]:
    """Make a run directory and hold its lock: `wanted`, which must be new or empty, or a dated one under runs/."""
    path = wanted or Path("runs") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{target}"
    run = RunDirectory(path.absolute())
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        lock = RunLock(run.path)
    except OSError as error:
        raise NoPlace(path, error) from error
    with lock:
        if run.settings.exists():
            raise RunExists(path)
        if any(entry.name != LOCK for entry in run.path.iterdir()):
            raise NotEmpty(path)
        run.evaluations.mkdir()
        run.inbox.mkdir()
        yield run


def find_run(wanted: Path | None) -> RunDirectory:
    """Return the run at `wanted`, or the newest one under runs/."""
    if wanted is not None:
        return _checked(wanted)
    runs = sorted(Path("runs").glob("*/run.toml"), key=lambda path: path.stat().st_mtime)
    return _checked(runs[-1].parent if runs else Path("runs"))


def _checked(path: Path) -> RunDirectory:
    run = RunDirectory(path.absolute())
    if not run.settings.is_file():
        raise NoRun(path)
    return run
