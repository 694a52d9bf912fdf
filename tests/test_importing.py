"""A commit becomes genes that wait in a run: split, located, verified by running, exact; or a sentence and no run."""

from __future__ import annotations

from pathlib import Path

import pytest
import synthetic_commit as synthetic
from git_repo import GitRepo

from evolve.changes import EmptyRange, ThreeDots
from evolve.errors import OnlyFailures
from evolve.exporting import export
from evolve.git import NoCommit, NoParent, NotARepository, NotBefore
from evolve.grounds import NothingChanged, NotOnBase, base_of_run
from evolve.importing import Imported, NoGene, import_commit
from evolve.inbox import Inbox, waiting_files
from evolve.injecting import NoPatchFile, NoTitle, Unparsable, inject
from evolve.lineage import read
from evolve.run_directory import RunDirectory
from evolve.target_files import load_target
from evolve.verifying import CommitFails, smoke
from population.compose import compose
from population.genes import BaseTree, Gene
from population.mistakes import Mistake

TARGET = """
name = "tiny"
editable = ["model.py", "extra/*.py"]
frozen = ["main.py"]
[metric]
name = "loss"
direction = "minimize"
file = "result.json"
[rungs.only]
command = ["{python}", "main.py"]
timeout_s = 20
seeds = [0]
"""
MAIN = "import json\nimport model\n\njson.dump({'loss': model.loss()}, open('result.json', 'w'))\n"
PARTS = "def parts():\n    return 1, 2\n\n\n"
MODEL = f"SCALE = 2.0\nSHIFT = 1.0\n\n\n{PARTS}def loss():\n    a, b = parts()\n    return a * SCALE + b\n"
BROKEN = MODEL.replace("1, 2", "1, 2, 3").replace("a, b =", "a, b, c =").replace("2.0", "3.0")


@pytest.fixture
def repo(tmp_path: Path) -> GitRepo:
    return GitRepo(tmp_path / "repo")


def imported(repo: GitRepo, revision: str = "HEAD", **given) -> Imported:
    where = {"target": None, "run_dir": repo.path.parent / "run", "verify": False, **given}
    said: list[str] = []
    return import_commit(repo.path, revision, caches=repo.path.parent / "cache", say=said.append, **where)


def stored(found: Imported) -> tuple[BaseTree, dict[str, Gene]]:
    with read(found.run.path) as reader:
        return reader.base, reader.genes()


def all_of(found: Imported) -> list[str]:
    """Return the ids of what an import found, comments included."""
    return [g.gene_id for g in found.genes] + [row["gene_id"] for row in found.set_aside if row["gene_id"]]


def test_the_synthetic_commit_is_thirty_genes_that_make_it_exactly(repo: GitRepo) -> None:
    repo.commit(synthetic.BEFORE, "Base")
    tip = repo.commit(synthetic.after(), "Thirty changes")
    before = repo.state()
    found = imported(repo)
    assert repo.state() == before
    base, genes = stored(found)
    assert len(found.genes) == 30
    assert found.exact
    assert compose(base, [genes[name] for name in all_of(found)]) == synthetic.after()
    assert [row["title"] for row in found.set_aside] == ["comments: data.py"]
    assert all(f"Imported from commit {tip[:12]}: Thirty changes" == gene.hypothesis for gene in found.genes)
    assert len(waiting_files(found.run.inbox)) == 30, "comments wait for nobody"


def test_genes_survive_export_and_import_with_the_same_ids(repo: GitRepo) -> None:
    repo.commit(synthetic.BEFORE, "Base")
    repo.commit(synthetic.after(), "Thirty changes")
    first = imported(repo)
    export(first.run, "stack", repo.path, None)
    assert repo("rev-parse", "stack^{tree}") == repo("rev-parse", "main^{tree}")
    again = imported(repo, "main~1..stack", run_dir=repo.path.parent / "again")
    assert sorted(all_of(again)) == sorted(all_of(first))
    assert again.exact
    assert not again.conflicts


def test_files_of_every_kind_come_back_byte_for_byte(repo: GitRepo) -> None:
    before = {"a.py": "x = 1\r\ny = 2\r\n", "b.py": "\tz = 'é'", "c.py": "", "old.py": "w = 1\n", "data.txt": "1 2 3\n"}
    after = {"a.py": "x = 5\r\ny = 2\r\n", "b.py": "\tz = 'ü'", "c.py": "v = 1", "old.py": None, "new/d.py": "u = 1\n"}
    repo.commit(before, "Base")
    repo.commit(after, "Change")
    found = imported(repo)
    base, genes = stored(found)
    composed = compose(base, [genes[name] for name in all_of(found)])
    assert composed == {**{k: v for k, v in after.items() if v is not None}}
    assert found.exact
    export(found.run, "stack", repo.path, None)
    assert repo("rev-parse", "stack^{tree}") == repo("rev-parse", "main^{tree}")
    again = imported(repo, "main~1..stack", run_dir=repo.path.parent / "again")
    assert sorted(all_of(again)) == sorted(all_of(found))


def test_what_no_gene_can_hold_is_named_and_makes_it_inexact(repo: GitRepo) -> None:
    repo.commit({"a.py": "x = 1\n", "logo.png": b"\xff\xfe", "run.sh": "true\n"}, "Base")
    (repo.path / "run.sh").chmod(0o755)
    (repo.path / "link").symlink_to("a.py")
    repo.commit({"a.py": "x = 2\n", "logo.png": b"\xff\xfd"}, "Change")
    found = imported(repo)
    assert [gene.title for gene in found.genes] == ["x 1 -> 2"]
    assert [row["title"].split(":")[0] for row in found.set_aside] == ["link", "logo.png", "run.sh"]
    assert not found.exact


def test_modes_that_change_with_the_text_are_named_and_make_it_inexact(repo: GitRepo) -> None:
    repo.commit({"a.py": "x = 1\n"}, "Base")
    for name in ("a.py", "b.py"):
        (repo.path / name).write_text("x = 2\n")
        (repo.path / name).chmod(0o755)
    repo.commit({}, "Change")
    found = imported(repo)
    assert [gene.title for gene in found.genes] == ["x 1 -> 2", "x added"]
    assert [row["title"] for row in found.set_aside] == [f"{name}: mode 100644 -> 100755" for name in ("a.py", "b.py")]
    assert not found.exact


def test_a_file_is_added_beside_others_of_its_kind_that_are_no_text(repo: GitRepo) -> None:
    repo.commit({"old.py": b"# \xe9\n", "nul.py": b"\0", "a.py": "x = 1\n"}, "Base")
    repo.commit({"new.py": "y = 1\n", "nul.py": b"\0\n"}, "Change")
    found = imported(repo)
    assert [edit.path for gene in found.genes for edit in gene.edits] == ["new.py"]
    assert [row["title"] for row in found.set_aside] == ["nul.py: not an editable text file"]


def test_genes_of_two_files_with_one_title_are_told_apart(repo: GitRepo) -> None:
    repo.commit({"a.py": "SIZE = 1\n", "b.py": "SIZE = 1\n"}, "Base")
    repo.commit({"a.py": "SIZE = 2\n", "b.py": "SIZE = 2\n"}, "Change")
    assert [gene.title for gene in imported(repo).genes] == ["SIZE 1 -> 2 in a.py", "SIZE 1 -> 2 in b.py"]


def test_commits_with_a_trailer_are_one_gene_each_and_the_others_set_aside(repo: GitRepo) -> None:
    repo.commit({"a.py": "f(0.1, 0.2)\n"}, "Base")
    repo.commit({"a.py": "f(0.3, 0.2)\n"}, "First\n\nEvolve-Gene: x")
    repo.commit({"b.py": "y = 1\n"}, "No gene")
    repo.commit({"a.py": "f(0.3, 0.4)\n"}, "Second, on the same line\n\nEvolve-Gene: y")
    found = imported(repo, "HEAD~3..HEAD")
    base, genes = stored(found)
    assert [gene.title for gene in found.genes] == ["First", "Second, on the same line"]
    assert compose(base, [genes[found.genes[1].gene_id]])["a.py"] == "f(0.1, 0.4)\n"
    assert [row["title"].split(": ")[1] for row in found.set_aside if "commit" in row["title"]] == ["No gene"]
    assert not found.exact


def test_a_range_without_trailers_is_split_as_one_change(repo: GitRepo) -> None:
    repo.commit({"a.py": "x = 1\ny = 1\n"}, "Base")
    repo.commit({"a.py": "x = 2\ny = 1\n"}, "First")
    repo.commit({"a.py": "x = 2\ny = 2\n"}, "Second")
    found = imported(repo, "HEAD~2..HEAD")
    assert [gene.title for gene in found.genes] == ["x 1 -> 2", "y 1 -> 2"]
    assert "or import again with --target" in found.lines()[-1]
    assert found.exact


def test_a_commit_with_a_trailer_on_text_of_an_earlier_one_is_a_sentence(repo: GitRepo) -> None:
    repo.commit({"a.py": "x = 1\n"}, "Base")
    repo.commit({"a.py": "x = 2\n"}, "First\n\nEvolve-Gene: x")
    repo.commit({"a.py": "x = 3\n"}, "Again\n\nEvolve-Gene: y")
    with pytest.raises(NoGene, match=r"Again\) cannot be a gene of the base: .* text that an earlier change brought"):
        imported(repo, "HEAD~2..HEAD")
    assert not (repo.path.parent / "run").exists()


# with a target, by running


def tiny(repo: GitRepo, model: str) -> None:
    repo.commit({"tiny.toml": TARGET, "main.py": MAIN, "model.py": MODEL, "extra/x.py": ""}, "Base")
    repo.commit({"model.py": model}, "Change")


def test_pieces_that_fail_when_they_run_alone_are_merged_with_what_they_need(repo: GitRepo) -> None:
    tiny(repo, BROKEN)
    target = str(repo.path / "tiny.toml")
    unverified = imported(repo, target=target)
    assert len(unverified.genes) == 3
    found = imported(repo, target=target, verify=True, run_dir=repo.path.parent / "verified")
    assert found.verified
    assert found.exact
    assert sorted(len(gene.edits) for gene in found.genes) == [1, 2]
    assert (found.run.base / "main.py").read_text() == MAIN


def test_a_commit_that_fails_as_a_whole_is_a_sentence(repo: GitRepo) -> None:
    tiny(repo, MODEL.replace("SCALE = 2.0", "SCALE = 1 / 0"))
    with pytest.raises(CommitFails, match="ends as crashed"):
        imported(repo, target=str(repo.path / "tiny.toml"), verify=True)
    assert not (repo.path.parent / "run").exists()


def test_a_base_that_fails_is_said_to_be_the_targets_fault(repo: GitRepo) -> None:
    repo.commit({"tiny.toml": TARGET, "main.py": "1 / 0\n", "model.py": MODEL, "extra/x.py": ""}, "Base")
    repo.commit({"model.py": BROKEN}, "Change")
    with pytest.raises(OnlyFailures, match="could not be scored"):
        imported(repo, target=str(repo.path / "tiny.toml"), verify=True)


def test_a_target_that_has_moved_on_elsewhere_still_takes_the_change(repo: GitRepo, tmp_path: Path) -> None:
    tiny(repo, MODEL.replace("SCALE = 2.0", "SCALE = 4.0"))
    other = tmp_path / "other"
    other.mkdir()
    moved = "# a new line\n" + MODEL.replace("SHIFT = 1.0", "SHIFT = 9.0")
    for name, text in {"tiny.toml": TARGET, "main.py": MAIN, "model.py": moved, "extra/x.py": ""}.items():
        (other / name).parent.mkdir(exist_ok=True)
        (other / name).write_text(text)
    found = imported(repo, target=str(other / "tiny.toml"))
    base, genes = stored(found)
    assert base.files["model.py"] == moved
    assert compose(base, genes.values())["model.py"] == moved.replace("SCALE = 2.0", "SCALE = 4.0")


def test_a_target_that_does_not_have_the_text_is_a_sentence(repo: GitRepo, tmp_path: Path) -> None:
    tiny(repo, MODEL.replace("SCALE = 2.0", "SCALE = 4.0"))
    other = tmp_path / "other"
    (other / "extra").mkdir(parents=True)
    for name, text in {"tiny.toml": TARGET, "main.py": MAIN, "model.py": "x = 1\n", "extra/x.py": ""}.items():
        (other / name).write_text(text)
    with pytest.raises(NotOnBase, match="cannot be laid on the base of the target"):
        imported(repo, target=str(other / "tiny.toml"))


def test_a_commit_can_be_imported_into_a_run_that_is_there(repo: GitRepo) -> None:
    tiny(repo, MODEL.replace("SCALE = 2.0", "SCALE = 4.0"))
    first = imported(repo, target=str(repo.path / "tiny.toml"))
    repo.commit({"model.py": MODEL.replace("SCALE = 2.0", "SCALE = 4.0").replace("SHIFT = 1.0", "SHIFT = 0.5")}, "More")
    second = imported(repo)
    assert second.run.path == first.run.path
    assert [gene.title for gene in second.genes] == ["SHIFT 1.0 -> 0.5"]
    assert len(waiting_files(first.run.inbox)) == 2


def test_smoke_is_a_share_of_a_rungs_tokens() -> None:
    rung = load_target("nanochat", "cpu").rungs[0]
    assert rung.tokens is not None
    assert smoke(rung).tokens == rung.tokens // 16
    assert smoke(rung).command == rung.command
    assert smoke(load_target("landscape").rungs[1]).seeds == (0,)


def test_mistakes_are_sentences_and_leave_no_run(repo: GitRepo, tmp_path: Path) -> None:
    first = repo.commit(
        {"a.py": "x = 1\n", "tiny.toml": TARGET, "main.py": MAIN, "model.py": MODEL, "extra/x.py": ""}, "Base"
    )
    repo.commit({"a.py": "x = 2\n"}, "Change")
    repo("checkout", "--quiet", "-b", "side", first)
    repo.commit({"a.py": "x = 1\n", "b.py": "y = 1\n"}, "Side")
    repo("checkout", "--quiet", "main")
    repo("merge", "--quiet", "--no-edit", "side")
    (tmp_path / "plain").mkdir()
    for mistake, sentence, call in (
        (NoCommit, "names no commit", lambda: imported(repo, "nothing")),
        (NoCommit, "names no commit", lambda: imported(repo, "nothing..HEAD")),
        (NoParent, "is the first of its history", lambda: imported(repo, first)),
        (NoParent, "is a merge", lambda: imported(repo, "HEAD")),
        (NotBefore, "is not in the history", lambda: imported(repo, "main..side~1")),
        (EmptyRange, r"the range main..main is empty", lambda: imported(repo, "main..main")),
        (ThreeDots, r"write main\.\.side$", lambda: imported(repo, "main...side")),
        (NothingChanged, "model.py", lambda: imported(repo, "main~1", target=str(repo.path / "tiny.toml"))),
        (
            NotARepository,
            "is in no git",
            lambda: import_commit(tmp_path / "plain", "x", None, None, False, tmp_path, print),
        ),
    ):
        with pytest.raises(mistake, match=sentence):
            call()
    assert not (tmp_path / "run").exists()


# injecting


@pytest.fixture
def run(repo: GitRepo) -> RunDirectory:
    tiny(repo, MODEL.replace("SCALE = 2.0", "SCALE = 4.0"))
    return imported(repo, target=str(repo.path / "tiny.toml")).run


def nothing() -> bytes:
    raise AssertionError("standard input is not read")


def test_a_diff_and_blocks_make_the_same_gene_and_wait_in_the_inbox(run: RunDirectory, tmp_path: Path) -> None:
    blocks = "model.py\n<<<<<<< SEARCH\nSHIFT = 1.0\n=======\nSHIFT = 0.5\n>>>>>>> REPLACE\n"
    diff = "--- model.py\n+++ model.py\n@@ @@\n-SHIFT = 1.0\n+SHIFT = 0.5\n"
    (tmp_path / "p.diff").write_text(diff)
    first = inject(run, "-", "half the shift", blocks.encode)
    second = inject(run, str(tmp_path / "p.diff"), "half the shift", nothing)
    assert first == second
    assert first.origin == "human"
    waiting = [path.name.split("-")[-1] for path in waiting_files(run.inbox)]
    assert waiting.count(f"{first.gene_id}.json") == 1
    inbox = Inbox(run.inbox, base_of_run(run), 0, print)
    assert [gene.title for birth in (1, 2) if (gene := inbox.take(birth))] == ["SCALE 2.0 -> 4.0", "half the shift"]


def test_a_patch_may_add_a_file_that_the_target_allows(run: RunDirectory) -> None:
    gene = inject(run, "-", "more", lambda: b"extra/new.py\n<<<<<<< SEARCH\n=======\nx = 1\n>>>>>>> REPLACE\n")
    assert [edit.path for edit in gene.edits] == ["extra/new.py"]


GOOD = b"model.py\n<<<<<<< SEARCH\nSHIFT = 1.0\n=======\nSHIFT = 0.5\n>>>>>>> REPLACE\n"


@pytest.mark.parametrize(
    ("patch", "title", "mistake"),
    [
        (b"", "t", Mistake),
        (b"\xff\xfe", "t", NoPatchFile),
        (b"hello\n", "t", Mistake),
        (GOOD, " \n ", NoTitle),
        (GOOD.replace(b"0.5", b"1.0"), "t", Mistake),
        (GOOD.replace(b"0.5", b"("), "t", Unparsable),
        (GOOD.replace(b"model.py", b"main.py"), "t", Mistake),
        (GOOD.replace(b"model.py", b"../model.py"), "t", Mistake),
        (GOOD.replace(b"SHIFT = 1.0", b"SHIFT = 7.0"), "t", Mistake),
        (GOOD.replace(b">>>>>>> REPLACE\n", b""), "t", Mistake),
        (b"--- model.py\n+++ model.py\n@@ @@\n-NOT THERE\n+x\n", "t", Mistake),
    ],
)
def test_a_bad_patch_is_a_sentence_and_changes_nothing(run: RunDirectory, patch: bytes, title: str, mistake) -> None:
    before = sorted(run.path.rglob("*"))
    with pytest.raises(mistake) as caught:
        inject(run, "-", title, lambda: patch)
    assert len(str(caught.value)) > 20
    assert sorted(run.path.rglob("*")) == before


def test_a_patch_that_is_not_there_is_a_sentence(run: RunDirectory) -> None:
    with pytest.raises(NoPatchFile, match="No such file"):
        inject(run, "missing.diff", "t", nothing)
