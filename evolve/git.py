"""Git's one door: commits are read and written by plumbing, in the object database alone.

No command here reads or writes the user's index, checkout, HEAD or current branch, or runs a filter or a merge driver:
what a commit holds is read and written byte for byte.

Mistake
  +- NoGit          the `git` command is not there
  +- NotARepository a directory that is in no repository
  +- NoCommit       a revision that names no commit
  +- NoParent       the first commit, or a merge, where a change is wanted
  +- NotBefore      a range whose first commit is not in the history of its last
  +- BadBranch      a branch name that git does not allow
  +- BranchExists   a branch that would be moved
  +- GitFailed      anything else that git refuses, in its own words
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from population.mistakes import Mistake

LINKS = ("120000", "160000")  # modes of symbolic links and submodules
FILE = "100644"
QUIET = {  # whatever the user's settings say: no hook, no monitor, no shared index, no signature in what is read
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.quotePath": "false",
    "core.splitIndex": "false",
    "core.untrackedCache": "false",
    "commit.gpgSign": "false",
    "log.showSignature": "false",
}
OF_A_HOOK = frozenset(
    ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX")
)


class NoGit(Mistake):
    """The `git` command is not there."""

    def __init__(self) -> None:
        super().__init__("git is not installed or not on the PATH; install it to read and write commits")


class NotARepository(Mistake):
    """A directory that is in no repository."""

    def __init__(self, path: Path, said: str) -> None:
        super().__init__(f"{path} is in no git repository that can be used ({said}); give --repo one that is")


class NoCommit(Mistake):
    """A revision that names no commit."""

    def __init__(self, path: Path, revision: str, is_empty: bool) -> None:
        remedy = "it has none yet, so commit something there first" if is_empty else "`git log` there shows what does"
        super().__init__(f"{revision!r} names no commit of {path}; {remedy}")


class NoParent(Mistake):
    """The first commit, or a merge, where a change is wanted."""

    def __init__(self, commit: str, parents: int) -> None:
        what = "is a merge" if parents else "is the first of its history"
        super().__init__(f"commit {commit[:12]} {what}, so it is no one change; give BASE..TIP instead")


class NotBefore(Mistake):
    """A range whose first commit is not in the history of its last."""

    def __init__(self, base: str, tip: str) -> None:
        super().__init__(f"{base} is not in the history of {tip}, so there is no change from one to the other to split")


class BadBranch(Mistake):
    """A branch name that git does not allow."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} cannot name a branch; `git help check-ref-format` says what can")


class BranchExists(Mistake):
    """A branch that would be moved."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the branch {name} is there already and is not moved; give another name, or delete it first")


class GitFailed(Mistake):
    """Anything else that git refuses, in its own words."""

    def __init__(self, command: str, said: str) -> None:
        super().__init__(f"`git {command}` failed: {said or 'it said nothing'}; mend that and try again")
        self.said = said


@dataclass(frozen=True)
class Entry:
    """A file of a commit: its mode and the id of its content."""

    mode: str
    blob: str

    @property
    def is_file(self) -> bool:
        """Return whether this is a file, no symbolic link and no submodule."""
        return self.mode not in LINKS


@dataclass(frozen=True)
class Commit:
    """What a commit says of itself."""

    commit_id: str
    parents: tuple[str, ...]
    subject: str
    trailers: Mapping[str, str]  # the last of each name


class Repository:
    """A git repository, seen from a directory in it: paths are relative to that directory."""

    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        self.path = path
        self._environment = {**environment, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
        self._prefix = ""

    @staticmethod
    def open(path: Path) -> Repository:
        """Find the repository that a directory is in."""
        environment = {name: value for name, value in os.environ.items() if name not in OF_A_HOOK}
        found = Repository(path, environment)
        try:
            found._prefix = found._line("rev-parse", "--show-prefix")
        except GitFailed as failed:
            raise NotARepository(path, f"git says: {failed.said}") from failed
        except OSError as error:
            raise NotARepository(path, error.strerror or "it cannot be opened") from error
        return found

    @staticmethod
    def scratch(folder: Path) -> Repository:
        """Make an empty repository without a checkout, which knows nothing of the user's settings."""
        quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        made = Repository(folder, {"PATH": os.environ.get("PATH", os.defpath), **quiet})
        made._line("init", "--quiet", "--bare", ".")
        return made

    def is_same(self, other: Repository) -> bool:
        """Return whether another one is this repository, perhaps seen from another directory or checkout."""
        return self._store() == other._store()

    def below(self, folder: str) -> Repository:
        """Return this repository as seen from a directory of its commits, `packages/model/`."""
        found = Repository(self.path, self._environment)
        found._prefix = self._prefix + folder
        return found

    # reading

    def known(self, revision: str) -> str | None:
        """Return the id of the commit that a revision names, or None."""
        try:
            return self.commit(revision).commit_id
        except NoCommit:
            return None

    def commit(self, revision: str) -> Commit:
        """Return the commit that a revision names."""
        try:
            name = self._line("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        except GitFailed as failed:
            raise NoCommit(self.path, revision, not self._text("rev-list", "--all", "--max-count=1")) from failed
        parents, subject, body = self._text("show", "-s", "--format=%P%x00%s%x00%(trailers:only,unfold)", name).split(
            "\0"
        )
        trailers = dict(line.split(": ", 1) for line in body.splitlines() if ": " in line)
        return Commit(name, tuple(parents.split()), subject, trailers)

    def is_before(self, base: str, tip: str) -> bool:
        """Return whether one commit is in the history of another."""
        return self._text("rev-list", "--max-count=1", base, f"^{tip}") == ""

    def range(self, base: str, tip: str) -> list[Commit]:
        """Return the commits of base..tip, oldest first, without those that only a merge brought in."""
        names = self._text("rev-list", "--reverse", "--first-parent", f"{base}..{tip}").split()
        return [self.commit(name) for name in names]

    def entries(self, commit: str) -> dict[str, Entry]:
        """Return path -> entry of everything in a commit below this directory, links and submodules included."""
        listed = self._run("ls-tree", "-r", "-z", "--full-tree", commit).decode("utf-8", "surrogateescape")
        found: dict[str, Entry] = {}
        for line in filter(None, listed.split("\0")):
            (mode, _, blob), path = line.split("\t", 1)[0].split(), line.split("\t", 1)[1]
            if path.startswith(self._prefix):
                found[path.removeprefix(self._prefix)] = Entry(mode, blob)
        return found

    def contents(self, blobs: Iterable[str]) -> dict[str, bytes]:
        """Return blob id -> content."""
        names = list(dict.fromkeys(blobs))
        out = self._run("cat-file", "--batch", given="".join(f"{name}\n" for name in names).encode())
        found: dict[str, bytes] = {}
        at = 0
        for name in names:
            header = out.index(b"\n", at)
            _, kind, *size = out[at:header].split()
            if not size:
                raise GitFailed("cat-file", f"the object {name} is {kind.decode()} in {self.path}")
            found[name] = out[header + 1 : header + 1 + int(size[0])]
            at = header + int(size[0]) + 2
        return found

    def blob_ids(self, contents: Sequence[bytes]) -> list[str]:
        """Return the ids that contents have or would have, without storing them."""
        return [self._line("hash-object", "--stdin", "--no-filters", given=content) for content in contents]

    # writing

    def write_commit(self, parent: str | None, changes: Mapping[str, bytes | None], message: str) -> str:
        """Store a commit: its parent's tree with these files, None for one that is gone. No branch moves."""
        entries = self.entries(parent) if parent else {}
        lines = [self._staged(path, content, entries.get(path)) for path, content in changes.items()]
        with tempfile.TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": f"{folder}/index"}
            self._run("read-tree", *([parent] if parent else ["--empty"]), more=index)
            self._run("update-index", "-z", "--index-info", given=b"".join(lines), more=index)
            tree = self._line("write-tree", more=index)
        above = ["-p", parent] if parent else []
        return self._line("commit-tree", tree, *above, given=message.encode(), more=self._identity())

    def create_branch(self, name: str, commit: str) -> None:
        """Make a branch that is not there yet."""
        self._run("update-ref", f"refs/heads/{name}", commit, "0" * len(commit))

    def check_new_branch(self, name: str) -> None:
        """Raise BadBranch or BranchExists for a name that create_branch could not take."""
        try:
            self._run("check-ref-format", "--branch", name)
            self._run("check-ref-format", f"refs/heads/{name}")  # the other takes @{-1} too
        except GitFailed as failed:
            raise BadBranch(name) from failed
        for there in self._text("for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads").splitlines():
            if f"{there}/".startswith(f"{name}/") or name.startswith(f"{there}/"):
                raise BranchExists(there)

    def format_patches(self, base: str, tip: str, folder: Path) -> list[Path]:
        """Write base..tip as files for `git am`, and return them in order."""
        names = self._text(
            "format-patch", "--quiet", "--keep-subject", f"--output-directory={folder}", f"{base}..{tip}"
        )
        return [Path(name) for name in names.splitlines()] or sorted(folder.glob("*.patch"))

    def _store(self) -> str:
        return self._line("rev-parse", "--path-format=absolute", "--git-common-dir")

    def _staged(self, path: str, content: bytes | None, before: Entry | None) -> bytes:
        name = (self._prefix + path).encode("utf-8", "surrogateescape")
        if content is None:
            return f"0 {before.blob}\t".encode() + name + b"\0" if before else b""
        blob = self._line("hash-object", "-w", "--stdin", "--no-filters", given=content)
        return f"{before.mode if before else FILE} {blob}\t".encode() + name + b"\0"

    def _identity(self) -> dict[str, str]:
        """Return what to add to the environment where nobody has told git who commits."""
        try:
            self._run("var", "GIT_COMMITTER_IDENT")
        except GitFailed:
            who = {"NAME": "evolve", "EMAIL": "evolve@localhost"}
            return {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}
        return {}

    # processes

    def _line(self, *words: str, given: bytes = b"", more: Mapping[str, str] | None = None) -> str:
        return self._run(*words, given=given, more=more).decode("utf-8", "surrogateescape").removesuffix("\n")

    def _text(self, *words: str) -> str:
        return self._run(*words).decode("utf-8", "replace")

    def _run(self, *words: str, given: bytes = b"", more: Mapping[str, str] | None = None) -> bytes:
        """Run one git command in this directory and return what it printed."""
        environment = {**self._environment, **(more or {})}
        quiet = [word for key, value in QUIET.items() for word in ("-c", f"{key}={value}")]
        command = ["git", *quiet, *words]
        try:
            ended = subprocess.run(
                command, cwd=self.path, env=environment, input=given, capture_output=True, check=False
            )
        except FileNotFoundError as error:
            if error.filename == "git":
                raise NoGit from error
            raise
        if ended.returncode:
            raise GitFailed(words[0], " ".join(ended.stderr.decode("utf-8", "replace").split()))
        return ended.stdout


def head_of(path: Path) -> str | None:
    """Return the commit that is checked out where `path` is; None without a repository, a commit, or git."""
    try:
        return Repository.open(path).known("HEAD")
    except (NoGit, NotARepository):
        return None
