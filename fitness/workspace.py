"""Directories: the snapshot of a target's base, and the workspaces laid from it. The user's tree is only read."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from fitness.mistakes import EmptyGlob, NotText
from fitness.target import Target
from population.genes import BaseTree
from population.paths import fits

LITTER = {"__pycache__", ".git"}
RUN_TOML = "run.toml"  # a directory that holds one is a run, not a part of the target


class OutsideWorkspace(ValueError):
    """A path that would leave the workspace, that no editable glob matches, or that is a folder of other files."""

    def __init__(self, path: str) -> None:
        super().__init__(f"the path {path!r} is not an editable file of the base; genes may touch nothing else")


def snapshot(target: Target, directory: Path) -> Path:
    """Copy the target's editable and frozen files into `directory` and return it; one that exists is kept as it is."""
    if directory.is_dir():
        return directory
    beside = directory.with_name(f"{directory.name}.{os.getpid()}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    root, run = target.root.resolve(), directory.resolve().parent
    for path in matches(
        root, (*target.editable, *target.frozen), skip=run if root in run.parents else beside.resolve()
    ):
        _copy(root / path, beside / path)
    beside.rename(directory)
    return directory


def read_base(root: Path, editable: Sequence[str]) -> BaseTree:
    """Return the editable text under `root`, newlines untouched."""
    return BaseTree({path: _read_text(root / path) for path in matches(root, editable)}, tuple(editable))


def matches(root: Path, patterns: Sequence[str], skip: Path | None = None) -> list[str]:
    """Return the files under `root` that these globs match, sorted; every pattern must match at least one."""
    found: set[str] = set()
    for pattern in patterns:
        some = set(_glob(root, pattern, skip))
        if not some:
            raise EmptyGlob(pattern, root)
        found |= some
    return sorted(found)


def frozen_hash(base: Path, editable: Iterable[str]) -> str:
    """Return 16 hex digits for all files of the snapshot `base` but the editable ones."""
    digest = hashlib.sha256()
    left_out = set(editable)
    for path in matches(base, ("**/*",)):
        if path not in left_out:
            content = (base / path).read_bytes()
            digest.update(f"{path}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def lay(base: Path, files: Mapping[str, str], workspace: Path, editable: Sequence[str]) -> None:
    """Make `workspace` a copy of the snapshot `base` whose editable files (globs) are `files`, byte for byte."""
    for path in files:
        if not fits(path, editable) or not _is_free(base, path, files, editable):
            raise OutsideWorkspace(path)
    workspace.mkdir(parents=True)
    for path in matches(base, ("**/*",)):
        if path in files or not fits(path, editable):
            _copy(base / path, workspace / path)
    for path, text in files.items():
        (workspace / path).parent.mkdir(parents=True, exist_ok=True)
        (workspace / path).write_bytes(text.encode())


def carry(source: Path, path: str, workspace: Path) -> None:
    """Move the file `path`, which a candidate named, from `source` to `workspace`; links and ways out are refused."""
    origin = source / path
    if not _is_inside(path) or origin.is_symlink() or not origin.is_file() or not _stays_in(origin, source):
        raise OutsideWorkspace(path)
    (workspace / path).parent.mkdir(parents=True, exist_ok=True)
    origin.replace(workspace / path)


def remove(directory: Path) -> None:
    """Delete what a candidate left, also directories that it made unreadable."""
    shutil.rmtree(directory, onerror=_open_and_retry)


def _glob(root: Path, pattern: str, skip: Path | None) -> Iterator[str]:
    if not _is_inside(pattern):
        raise EmptyGlob(pattern, root)
    for path in root.glob(pattern):
        inside = path.relative_to(root)
        if path.is_file() and not LITTER & set(inside.parts) and not _is_of_a_run(root, inside, skip):
            yield inside.as_posix()


def _is_of_a_run(root: Path, inside: Path, skip: Path | None) -> bool:
    """Return whether a file lies in a run directory: the one at `skip`, or any other below the root."""
    folders = [root / folder for folder in list(inside.parents)[:-1]]
    return skip in folders or any((folder / RUN_TOML).exists() for folder in folders)


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise NotText(path) from error


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path)
    return bool(path) and "\0" not in path and not parts.is_absolute() and ".." not in parts.parts


def _is_free(base: Path, path: str, files: Mapping[str, str], editable: Sequence[str]) -> bool:
    """Say whether a file can stand at `path`: no folder does in the base, and none of its own folders is a file."""
    folders = [folder.as_posix() for folder in list(PurePosixPath(path).parents)[:-1]]
    taken = any(folder in files or ((base / folder).is_file() and not fits(folder, editable)) for folder in folders)
    return not taken and not (base / path).is_dir()


def _stays_in(path: Path, directory: Path) -> bool:
    return path.resolve().is_relative_to(directory.resolve())


def _copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination)
    destination.chmod(source.stat().st_mode & 0o777 | 0o600)


def _open_and_retry(_function: object, path: str, _error: object) -> None:
    """Give ourselves access to `path` and its directory, then try once more; what still resists stays."""
    try:
        os.chmod(os.path.dirname(path), 0o700)
        if os.path.isdir(path) and not os.path.islink(path):
            os.chmod(path, 0o700)
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)
    except OSError:
        return
