"""The cache of compiled code: made by the unpatched base, read by everybody, written by nobody.

torch.compile keeps what it compiled in a folder. Every evaluation gets a copy of its own in its scratch, so nothing
that a candidate writes reaches another one. The first evaluation of the base that ends well leaves its folder as the
shared one: only the base's, because a patched program could put anything into it.

What is not covered: without a sandbox a candidate runs as this user, and could make the shared folder writable again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from fitness.target import Rung, Target
from fitness.workspace import frozen_hash, remove
from population.genes import tree_id

LISTING = "contents.json"  # of a shared folder: path -> bytes, for all that it must hold
WRITABLE = 0o222


class CompileCache:
    """Shared folders by key. One that is missing or damaged is no error: it costs a compilation."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._publishing = threading.Lock()

    def copy(self, key: str, private: Path) -> None:
        """Fill `private`, which is made anew, with what is shared under `key`."""
        shared = self._folder / key
        private.mkdir(parents=True)
        if not is_whole(shared):
            return
        try:
            for path in _listed(shared):
                (private / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(shared / path, private / path)
                (private / path).chmod((private / path).stat().st_mode | 0o600)
        except OSError:  # a half copied folder may hold half a file
            remove(private)
            private.mkdir(parents=True)

    def publish(self, key: str, private: Path) -> None:
        """Share the folder of an evaluation of the base, unless one is shared already; `private` is left as it is."""
        shared = self._folder / key
        with self._publishing, suppress(OSError):  # a full disk, or another engine was faster: it costs a compilation
            if not is_whole(shared) and any(private.rglob("*")):
                self._folder.mkdir(parents=True, exist_ok=True)
                _put(private, shared)


def compile_key(
    target: Target, base: Path, base_files: Mapping[str, str], rung: Rung, software: object, device: str
) -> str:
    """Return the key of what a rung's program compiles to: everything but seeds, tokens and patches."""
    program = [rung.command, target.server, rung.depth, rung.gpus, sorted(rung.env.items()), target.threads]
    text = [frozen_hash(base, base_files), tree_id(base_files), sorted(target.variables.items())]
    return hashlib.sha256(json.dumps([software, device, program, text]).encode()).hexdigest()[:32]


def is_whole(shared: Path) -> bool:
    """Return whether a shared folder holds every file that was put there, at its size."""
    try:
        return all((shared / path).stat().st_size == size for path, size in _listed(shared).items())
    except (OSError, ValueError, AttributeError):
        return False


def environment(private: Path) -> dict[str, str]:
    """Return the variables that send a process's compiled code to its private folder."""
    return {"TORCHINDUCTOR_CACHE_DIR": str(private), "TRITON_CACHE_DIR": str(private / "triton")}


def _put(private: Path, shared: Path) -> None:
    """Copy `private` to `shared`: beside, with a listing, renamed, then made read-only."""
    beside = shared.with_name(f"{shared.name}.{os.getpid()}.tmp")
    try:
        shutil.copytree(private, beside, ignore=_all_but_files)
        files = [path for path in beside.rglob("*") if path.is_file()]
        sizes = {path.relative_to(beside).as_posix(): path.stat().st_size for path in files}
        (beside / LISTING).write_text(json.dumps(sizes))
        for path in beside.rglob("*"):
            path.chmod(path.stat().st_mode & ~WRITABLE)
        _remove_read_only(shared)  # a damaged one
        beside.rename(shared)
        shared.chmod(shared.stat().st_mode & ~WRITABLE)
    finally:
        _remove_read_only(beside)


def _listed(shared: Path) -> dict[str, int]:
    return json.loads((shared / LISTING).read_text())


def _all_but_files(folder: str, names: list[str]) -> set[str]:
    """Return what is neither a plain file nor a folder: links, sockets and locks are nobody else's."""
    paths = {name: Path(folder, name) for name in names}
    return {name for name, path in paths.items() if path.is_symlink() or not (path.is_file() or path.is_dir())}


def _remove_read_only(folder: Path) -> None:
    if folder.is_dir():
        for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
            path.chmod(0o700)
        shutil.rmtree(folder)
