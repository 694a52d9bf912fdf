"""Git through its one door: commits byte for byte, and nothing of the user's touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from git_repo import GitRepo

from evolve.git import (
    BadBranch,
    BranchExists,
    GitFailed,
    NoCommit,
    NotARepository,
    Repository,
    head_of,
)

CRLF = b"a = 1\r\nb = '\xc3\xa9'\r\n\tc"
BINARY = bytes(range(256))


@pytest.fixture
def repo(tmp_path: Path) -> GitRepo:
    repo = GitRepo(tmp_path / "a repo's")
    repo.commit({"a.py": CRLF, "b/logo.png": BINARY, "b/empty": b"", ".gitattributes": "*.py text eol=lf\n"}, "Base")
    return repo


def test_contents_are_read_byte_for_byte_whatever_the_attributes_say(tmp_path: Path) -> None:
    repo = GitRepo(tmp_path)
    repo.commit({"a.py": CRLF, "b/logo.png": BINARY, "b/empty": b""}, "Base")
    (repo.path / ".git/info").mkdir(exist_ok=True)
    (repo.path / ".git/info/attributes").write_text("*.py text eol=crlf export-subst\n")
    opened = Repository.open(repo.path)
    entries = opened.entries("HEAD")
    contents = opened.contents(entry.blob for entry in entries.values())
    assert contents[entries["a.py"].blob] == CRLF
    assert contents[entries["b/logo.png"].blob] == BINARY
    assert contents[entries["b/empty"].blob] == b""


def test_a_commit_is_written_without_touching_anything_of_the_users(repo: GitRepo) -> None:
    (repo.path / "a.py").write_text("not committed")
    (repo.path / "staged.py").write_text("x")
    repo("add", "staged.py")
    before = repo.state()
    opened = Repository.open(repo.path)
    parent = opened.commit("HEAD").commit_id
    commit = opened.write_commit(parent, {"a.py": b"x\r\n", "b/empty": None, "new/é f.py": b"y"}, "Title\n\nWhy.\n")
    opened.create_branch("side", commit)
    assert repo.state() == before
    entries = opened.entries("side")
    contents = opened.contents(entry.blob for entry in entries.values())
    assert {path: contents[entry.blob] for path, entry in entries.items()} == {
        "a.py": b"x\r\n",
        "b/logo.png": BINARY,
        "new/é f.py": b"y",
        ".gitattributes": b"*.py text eol=lf\n",
    }
    assert repo("log", "-1", "--format=%P %an %s %b", "side") == f"{parent} Ada Title Why."


def test_modes_and_links_survive(repo: GitRepo) -> None:
    (repo.path / "run.sh").write_text("true\n")
    (repo.path / "run.sh").chmod(0o755)
    (repo.path / "link").symlink_to("a.py")
    repo.commit({}, "A script")
    opened = Repository.open(repo.path)
    entries = opened.entries("HEAD")
    assert entries["run.sh"].mode == "100755"
    assert not entries["link"].is_file
    commit = opened.write_commit(repo("rev-parse", "HEAD"), {"run.sh": b"false\n"}, "t")
    assert opened.entries(commit)["run.sh"].mode == "100755"
    assert "link" in repo("ls-tree", "--name-only", commit)


def test_paths_are_relative_to_the_directory_that_was_opened(repo: GitRepo) -> None:
    opened = Repository.open(repo.path / "b")
    assert set(opened.entries("HEAD")) == {"logo.png", "empty"}
    commit = opened.write_commit(repo("rev-parse", "HEAD"), {"empty": b"full"}, "t")
    assert repo("show", f"{commit}:b/empty") == "full"
    assert set(Repository.open(repo.path).below("b/").entries("HEAD")) == {"logo.png", "empty"}


def test_trailers_and_subjects_are_read(repo: GitRepo) -> None:
    repo.commit({"a.py": "1"}, "A title\n\nText: not a trailer\n\nmore\n\nEvolve-Gene: abc\nOther: x y")
    commit = Repository.open(repo.path).commit("HEAD")
    assert commit.subject == "A title"
    assert commit.trailers == {"Evolve-Gene": "abc", "Other": "x y"}


def test_an_environment_that_a_hook_sets_does_not_lead_elsewhere(
    repo: GitRepo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "nowhere"))
    assert head_of(repo.path) == Repository.open(repo.path).commit("main").commit_id


def test_somebody_without_an_identity_can_still_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = GitRepo(tmp_path)
    parent = repo.commit({"a": "1"}, "Base")
    repo("config", "--unset", "user.name")
    repo("config", "--unset", "user.email")
    repo("config", "user.useConfigOnly", "true")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    commit = Repository.open(repo.path).write_commit(parent, {"a": b"2"}, "t")
    assert repo("log", "-1", "--format=%an <%ae>", commit) == "evolve <evolve@localhost>"


def test_no_hook_monitor_or_shared_index_of_the_user_is_touched(repo: GitRepo) -> None:
    ran = repo.path / ".git" / "ran"
    hook = '#!/bin/sh\necho >> "$(dirname "$0")/../ran"\n'
    for name in ("post-index-change", "reference-transaction", "monitor"):
        (repo.path / ".git/hooks" / name).write_text(hook)
        (repo.path / ".git/hooks" / name).chmod(0o755)
    repo("config", "core.splitIndex", "true")
    repo("config", "splitIndex.sharedIndexExpire", "now")
    repo("config", "core.fsmonitor", ".git/hooks/monitor")
    repo("config", "log.showSignature", "true")
    repo("update-index", "--split-index")
    ran.unlink()
    before = {path.name: path.read_bytes() for path in (repo.path / ".git").glob("*index*")}
    assert any(name.startswith("sharedindex.") for name in before)
    opened = Repository.open(repo.path)
    commit = opened.write_commit(opened.commit("HEAD").commit_id, {"a.py": b"x"}, "t")
    opened.create_branch("side", commit)
    assert not ran.exists()
    assert {path.name: path.read_bytes() for path in (repo.path / ".git").glob("*index*")} == before


def test_repositories_with_longer_ids_are_written_too(tmp_path: Path) -> None:
    repo = GitRepo(tmp_path / "long", "--object-format=sha256")
    parent = repo.commit({"a": "1", "b": "2"}, "Base")
    opened = Repository.open(repo.path)
    opened.create_branch("side", opened.write_commit(parent, {"a": None, "c": b"3"}, "t"))
    assert repo("ls-tree", "--name-only", "side").split() == ["b", "c"]


def test_a_blob_that_is_missing_is_a_sentence(repo: GitRepo) -> None:
    with pytest.raises(GitFailed, match=r"the object 1{40} is missing in"):
        Repository.open(repo.path).contents(["1" * 40])


def test_mistakes_are_sentences(repo: GitRepo, tmp_path: Path) -> None:
    opened = Repository.open(repo.path)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(NotARepository, match="is in no git repository"):
        Repository.open(tmp_path / "elsewhere")
    with pytest.raises(NotARepository, match=r"can be used \(No such file or directory\); give --repo"):
        Repository.open(tmp_path / "missing")
    with pytest.raises(NoCommit, match="has none yet, so commit something"):
        Repository.open(GitRepo(tmp_path / "empty").path).commit("HEAD")
    for revision in ("nothing", "--all", "HEAD~7", ""):
        with pytest.raises(NoCommit, match="names no commit"):
            opened.commit(revision)
    for name in ("a..b", "-x", "a b", "", "@{-1}"):
        with pytest.raises(BadBranch, match="cannot name a branch"):
            opened.check_new_branch(name)
    with pytest.raises(BranchExists, match="is there already"):
        opened.check_new_branch("main")
    with pytest.raises(BranchExists, match="the branch main is there already"):
        opened.check_new_branch("main/sub")
    with pytest.raises(GitFailed, match="update-ref"):
        opened.create_branch("main/sub", opened.commit("HEAD").commit_id)
    assert head_of(tmp_path / "elsewhere") is None


def test_git_is_called_through_one_door() -> None:
    root = Path(__file__).parent.parent
    files = [path for package in ("evolve", "fitness", "population") for path in (root / package).rglob("*.py")]
    assert [path.name for path in files if '"git"' in path.read_text()] == ["git.py"]
