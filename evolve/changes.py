"""Changes: what a commit, or a range of commits, changes, read from git as text.

Mistake
  +- ThreeDots    a range of git that is no change from one commit to another
  +- EmptyRange   a range from a commit to itself
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from evolve.git import FILE, Commit, Entry, NoParent, NotBefore, Repository
from population.mistakes import Mistake

Texts = Mapping[str, str]


class ThreeDots(Mistake):
    """A range of git that is no change from one commit to another."""

    def __init__(self, revision: str, base: str, tip: str) -> None:
        super().__init__(f"{revision!r} has three dots, and a change has two; write {base}..{tip}")


class EmptyRange(Mistake):
    """A range from a commit to itself."""

    def __init__(self, revision: str) -> None:
        super().__init__(f"the range {revision} is empty: both its ends are the same commit; name two that differ")


@dataclass(frozen=True)
class Change:
    """What turns the tree of commit `base` into that of `tip`, seen from a directory of the repository."""

    repository: Repository
    base: Commit
    tip: Commit
    commits: tuple[Commit, ...]  # after the base, up to the tip

    @cached_property
    def before(self) -> Mapping[str, Entry]:
        """Return the files of the base commit."""
        return self.repository.entries(self.base.commit_id)

    @cached_property
    def after(self) -> Mapping[str, Entry]:
        """Return the files of the tip."""
        return self.repository.entries(self.tip.commit_id)

    @property
    def paths(self) -> list[str]:
        """Return every path that the two trees do not share, modes included."""
        both = self.before.keys() | self.after.keys()
        return sorted(path for path in both if self.before.get(path) != self.after.get(path))

    def seen_from(self, repository: Repository) -> Change:
        """Return this change as seen from another directory of the same repository."""
        return Change(repository, self.base, self.tip, self.commits)

    def texts(self, entries: Mapping[str, Entry], paths: Iterable[str]) -> dict[str, str]:
        """Return the text of those paths that are there and hold text."""
        there = [path for path in paths if path in entries and _is_plain(path, entries[path])]
        contents = self.repository.contents(entries[path].blob for path in there)
        decoded = {path: _text(contents[entries[path].blob]) for path in there}
        return {path: text for path, text in decoded.items() if text is not None}

    def write(self, entries: Mapping[str, Entry], folder: Path) -> None:
        """Write files of a commit into a directory, byte for byte; links and strange names are left out."""
        plain = {path: entry for path, entry in entries.items() if _is_plain(path, entry)}
        contents = self.repository.contents(entry.blob for entry in plain.values())
        for path, entry in plain.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(contents[entry.blob])
            (folder / path).chmod(int(entry.mode, 8) & 0o777)


def read_change(repository: Repository, revision: str) -> Change:
    """Return the change that `COMMIT` or `BASE..TIP` names. Raises NoCommit and what is drawn above."""
    first, dots, last = revision.partition("..")
    if last.startswith("."):
        raise ThreeDots(revision, first, last.lstrip("."))
    if dots:
        base, tip = repository.commit(first or "HEAD"), repository.commit(last or "HEAD")
        if base == tip:
            raise EmptyRange(revision)
        if not repository.is_before(base.commit_id, tip.commit_id):
            raise NotBefore(first or "HEAD", last or "HEAD")
        return Change(repository, base, tip, tuple(repository.range(base.commit_id, tip.commit_id)))
    tip = repository.commit(revision)
    if len(tip.parents) != 1:
        raise NoParent(tip.commit_id, len(tip.parents))
    return Change(repository, repository.commit(tip.parents[0]), tip, (tip,))


def no_text(change: Change, paths: Sequence[str]) -> list[str]:
    """Return those of the changed paths that are no change of text: binary files, links, and modes alone."""
    before, after = change.texts(change.before, paths), change.texts(change.after, paths)
    return [
        path
        for path in paths
        if (path in change.before and path not in before)
        or (path in change.after and path not in after)
        or before.get(path) == after.get(path)
    ]


def new_modes(change: Change) -> dict[str, str]:
    """Return path -> in words how its mode changes, of files that have another than before, or than new ones get."""
    found: dict[str, str] = {}
    for path in change.paths:
        before, after = change.before.get(path), change.after.get(path)
        was = before.mode if before and before.is_file else FILE
        if after and after.is_file and after.mode != was:
            found[path] = f"{path}: mode {was} -> {after.mode}"
    return found


def _is_plain(path: str, entry: Entry) -> bool:
    """Say whether this is a file whose path can be written here, and said."""
    return entry.is_file and path.isprintable() and not {"..", ".git"} & set(PurePosixPath(path).parts)


def _text(content: bytes) -> str | None:
    try:
        return None if b"\0" in content else content.decode()
    except UnicodeDecodeError:
        return None
