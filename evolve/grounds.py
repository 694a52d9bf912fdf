"""Grounds: the base on which the genes of an import are located, and the run that they will wait in.

Mistake
  +- NothingChanged   a commit that changes no text that genes may touch
  +- NotOnBase        a commit that does not fit the base
"""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import tomli_w

from evolve.changes import Change, no_text
from evolve.errors import NoPresetFits, NoRungs
from evolve.git import NotARepository, Repository, head_of
from evolve.lineage import read
from evolve.run_directory import RunDirectory
from evolve.session import Foundation
from evolve.settings import RunSettings, read_run_toml, resolve
from evolve.target_files import load_target
from evolve.target_tables import read_target, target_path
from fitness.mistakes import EmptyGlob
from fitness.target import Metric, Target
from fitness.workspace import read_base, snapshot
from population.genes import BaseTree, edited_files
from population.mistakes import Mistake
from population.paths import fits
from population.transplant import transplant

BARE = "# Made by `evolve import` without --target: no rung says how to score the genes.\n"


class NothingChanged(Mistake):
    """A commit that changes no text that genes may touch."""

    def __init__(self, tip: str, editable: Sequence[str]) -> None:
        super().__init__(
            f"{tip[:12]} changes no text that genes may touch ({', '.join(editable) or 'no text at all'}); "
            "name another commit or --target"
        )


class NotOnBase(Mistake):
    """A commit that does not fit the base."""

    def __init__(self, tip: str, why: Mistake) -> None:
        super().__init__(
            f"{tip[:12]} cannot be laid on the base of the target: {why}; leave --target out to import it as it is"
        )


@dataclass(frozen=True)
class Ground:
    """Where a change lands: on the base of a run, whose files lie in a folder."""

    change: Change
    folder: Path
    run: Foundation
    files: Mapping[str, str]  # the base after the change
    outside: tuple[str, ...]  # paths of the commit that no gene can hold

    @property
    def base(self) -> BaseTree:
        """Return the base."""
        return self.run.base


def ground(change: Change, folder: Path, target: str | None) -> Ground:
    """Return where a change lands in a new run; `folder` takes the files of its base.

    Without a target that is the commit's parent: under the bundled target if that holds the whole change, else bare.
    With one it is the target's own base; or the parent, if the target lies in the repository and has moved on.
    """
    if target is not None:
        return _on_target(change, folder, target)
    return _on_bundled(change, folder) or _bare(change, folder)


def ground_of_run(change: Change, run: RunDirectory) -> Ground:
    """Return where a change lands in a run that is there already."""
    settings = read_run_toml(run.settings)
    target = _known_target(run, settings)
    with read(run.path) as reader:
        base = BaseTree(reader.base.files, target.editable)
    return _landed(change, run.base, Foundation(settings, target, run.target.read_bytes(), base, None))


def base_of_run(run: RunDirectory) -> BaseTree:
    """Return the base of a run, with what genes may add to it."""
    with read(run.path) as reader:
        return BaseTree(reader.base.files, tuple(read_target(run.target).editable))


def _known_target(run: RunDirectory, settings: RunSettings) -> Target:
    try:
        return load_target(run.target, settings.preset, settings.variables, root=run.base)
    except NoRungs:
        return _runless(run.base, read_target(run.target).editable)


def _on_target(change: Change, folder: Path, name: str) -> Ground:
    settings, target = resolve(RunSettings(target=name))
    toml, home = target_path(name).read_bytes(), _home(change, target)
    try:
        base = read_base(target.root, target.editable)
        found = _landed(home or change, folder, Foundation(settings, target, toml, base, head_of(target.root)))
    except NotOnBase:
        if home is None:
            raise
        return _on_parent(home, folder, target, settings, toml)
    snapshot(target, folder)
    return found


def _home(change: Change, target: Target) -> Change | None:
    """Return a change as seen from the target's root, if that is in the same repository."""
    try:
        repository = Repository.open(target.root)
    except NotARepository:
        return None
    return change.seen_from(repository) if repository.is_same(change.repository) else None


def _on_bundled(change: Change, folder: Path) -> Ground | None:
    """Return the parent as base of the default target, if that target's editable files hold the whole change."""
    name = RunSettings().target
    editable = read_target(target_path(name)).editable
    if not change.paths or not all(path in change.before and fits(path, editable) for path in change.paths):
        return None
    try:
        settings, target = resolve(RunSettings(target=name))
        return _on_parent(change, folder, target, settings, target_path(name).read_bytes())
    except (EmptyGlob, NoPresetFits):
        return None


def _on_parent(change: Change, folder: Path, target: Target, settings: RunSettings, toml: bytes) -> Ground:
    """Lay a change on the target's files as the commit's parent has them."""
    globs = (*target.editable, *target.frozen)
    change.write({path: entry for path, entry in change.before.items() if fits(path, globs)}, folder)
    for pattern in globs:
        if not any(fits(path, [pattern]) for path in change.before):
            raise EmptyGlob(pattern, folder)
    base = read_base(folder, target.editable)
    return _landed(change, folder, Foundation(settings, target, toml, base, change.base.commit_id))


def _bare(change: Change, folder: Path) -> Ground:
    """Lay a change on the commit's parent, whatever it is: every text that it changes may be edited."""
    left_out = set(no_text(change, change.paths))
    paths = [path for path in change.paths if path not in left_out]
    editable = _globs(change, paths)
    change.write(change.before, folder)
    patterns = [pattern for pattern in editable if any(fits(path, [pattern]) for path in change.before)]
    base = BaseTree(read_base(folder, patterns).files, tuple(editable))
    target = _runless(folder, editable, re.sub(r"[^A-Za-z0-9_-]", "-", change.repository.path.resolve().name) or "bare")
    metric = {"name": target.metric.name, "direction": target.metric.direction, "file": target.metric.file}
    toml = BARE + tomli_w.dumps({"name": target.name, "editable": editable, "metric": metric})
    settings = RunSettings(target=target.name, preset="", operator="local", workers=1)
    return _landed(change, folder, Foundation(settings, target, toml.encode(), base, change.base.commit_id))


def _runless(folder: Path, editable: Sequence[str], name: str = "bare") -> Target:
    """Return a target that cannot run anything yet."""
    return Target(name, folder, tuple(editable), (), Metric("loss", "minimize", file="result.json"), ())


def _globs(change: Change, paths: Sequence[str]) -> list[str]:
    """Return globs for what a change touches; for files that it adds, all of their kind if there are some, all text."""
    added = {PurePosixPath(path).suffix for path in paths if path not in change.before} - {""}
    alike = [path for path in change.before if PurePosixPath(path).suffix in added and change.before[path].is_file]
    texts = change.texts(change.before, alike)
    kinds = {PurePosixPath(path).suffix for path in texts} - {PurePosixPath(p).suffix for p in alike if p not in texts}
    wide = {f"**/*{kind}" for kind in kinds}
    return sorted(wide | {glob.escape(path) for path in paths if not fits(path, wide)})


def _landed(change: Change, folder: Path, run: Foundation) -> Ground:
    """Lay what a change does to files that genes may touch on a base that may have moved on since."""
    left_out = set(no_text(change, change.paths))
    inside = [path for path in change.paths if fits(path, run.target.editable) and path not in left_out]
    before, after = change.texts(change.before, inside), change.texts(change.after, inside)
    if not inside:
        raise NothingChanged(change.tip.commit_id, run.target.editable)
    try:
        edits = transplant(run.base, before, after)
        changed = {**run.base.files, **edited_files(run.base, edits)}
    except Mistake as mistake:
        raise NotOnBase(change.tip.commit_id, mistake) from mistake
    files = {path: text for path, text in changed.items() if text is not None}
    outside = tuple(path for path in change.paths if path not in inside)
    return Ground(change, folder, run, files, outside)
