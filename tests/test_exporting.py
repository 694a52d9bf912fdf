"""Genes as git commits: one each, in a sensible order, on a branch or as files for `git am`, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from git_repo import GitRepo

from evolve.exporting import (
    NothingToExport,
    NotTheBase,
    OneTarget,
    PatchesThere,
    Stack,
    export,
    export_branch,
    export_patches,
    in_order,
)
from evolve.git import BranchExists
from evolve.lineage import Lineage
from evolve.messages import message
from evolve.records import Posterior, Run
from evolve.run_directory import RunDirectory
from evolve.views import UnknownId
from population.genes import BaseTree, Category, Gene, Origin, gene_from_files, lay
from population.individuals import Genotype

FILES = {"model.py": "a = 1\nb = 2\r\nc = 'é'\n", "old.py": "x = 1\n", "tail.py": "y = 1"}
BASE = BaseTree(FILES, ("*.py",))
RUN = {"run_id": "r", "metric": "loss", "direction": "minimize", "git_commit": None, "rung": "full"}


def gene(title: str, files: dict[str, str | None], requires: tuple[str, ...] = ()) -> Gene:
    words = {"title": title, "hypothesis": f"Why {title}.", "category": Category.OTHER, "origin": Origin.HUMAN}
    return gene_from_files(BASE, files, requires=requires, **words)


ONE = gene("one", {"model.py": FILES["model.py"].replace("a = 1", "a = 5")})
TWO = gene("two", {"model.py": FILES["model.py"].replace("b = 2", "b = 6"), "new.py": "z = 1\n"}, (ONE.gene_id,))
THREE = gene("three", {"old.py": None, "tail.py": "y = 2"})
GENES = (ONE, TWO, THREE)


def made(folder: Path, genes: tuple[Gene, ...] = GENES, champion: tuple[Gene, ...] = GENES) -> RunDirectory:
    """Return a run directory with a lineage of these genes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.toml").touch()
    run = Run("r", "t", "loss", "minimize", ("screen", "full"), {}, 0)
    with Lineage.create(folder, run, BASE) as lineage:
        lineage.record_genes(genes)
        lineage.set_champion(Genotype.of(g.gene_id for g in champion))
        gains = (0.01, 0.04, 0.02)
        known = [Posterior("full", g.gene_id, m, 0.01, 0.9, 7, "core") for g, m in zip(GENES, gains, strict=True)]
        lineage.record_posteriors(known)
        lineage.publish()
    return RunDirectory(folder)


@pytest.fixture
def repo(tmp_path: Path) -> GitRepo:
    repo = GitRepo(tmp_path / "repo")
    repo.commit({**FILES, "README.md": "read me\n"}, "Base")
    return repo


def titles(repo: GitRepo, branch: str) -> list[str]:
    return repo("log", "--reverse", "--format=%s", f"main..{branch}").splitlines()


def test_a_branch_has_one_commit_per_gene_and_the_composed_files(repo: GitRepo, tmp_path: Path) -> None:
    (repo.path / "README.md").write_text("work in progress\n")
    before = repo.state()
    written = export(made(tmp_path / "run"), "evolved", repo.path, None)
    assert repo.state() == before
    assert titles(repo, "evolved") == ["three", "one", "two"]
    assert [c.commit for c in written.commits] == repo("rev-list", "--reverse", "main..evolved").split()
    repo("checkout", "--quiet", "--force", "evolved")
    held = {path.name: path.read_bytes().decode() for path in repo.path.glob("*.py")}
    assert held == lay(BASE, GENES)


def test_what_a_gene_requires_comes_first_and_else_the_larger_gain() -> None:
    gains = {ONE.gene_id: 0.01, TWO.gene_id: 0.04, THREE.gene_id: 0.02}
    known = {g.gene_id: g for g in GENES}
    assert [g.title for g in in_order(GENES, gains, known)] == ["three", "one", "two"]
    assert [g.title for g in in_order(GENES, {}, known)] == ["one", "two", "three"]


def test_every_commit_applies_alone_on_those_before_it(repo: GitRepo, tmp_path: Path) -> None:
    export(made(tmp_path / "run"), "evolved", repo.path, None)
    for commit in repo("rev-list", "main..evolved").split():
        assert len(repo("rev-list", "--parents", "-1", commit).split()) == 2
        assert repo("diff", "--name-only", f"{commit}^", commit)


def test_patches_are_what_git_am_takes(repo: GitRepo, tmp_path: Path) -> None:
    files = export(made(tmp_path / "run"), None, None, tmp_path / "patches").patches
    assert [path.name for path in files] == ["0001-three.patch", "0002-one.patch", "0003-two.patch"]
    repo("am", "--quiet", "--keep-cr", *map(str, files))
    held = {path.name: path.read_bytes().decode() for path in repo.path.glob("*.py")}
    assert held == lay(BASE, GENES)
    assert "Evolve-Gene: " + TWO.gene_id in repo("log", "-1", "--format=%(trailers)")


def test_a_title_in_brackets_survives_the_mail(repo: GitRepo, tmp_path: Path) -> None:
    wip = gene("[wip] Re: one", {"tail.py": "y = 3"})
    files = export(made(tmp_path / "run", (wip,), (wip,)), None, None, tmp_path / "patches").patches
    repo("am", "--quiet", "--keep", "--keep-cr", *map(str, files))
    assert repo("log", "-1", "--format=%s") == "[wip] Re: one"


def test_a_target_in_a_folder_of_the_repository_is_found(tmp_path: Path) -> None:
    repo = GitRepo(tmp_path / "repo")
    repo.commit({f"packages/model/{name}": text for name, text in FILES.items()}, "Base")
    export(made(tmp_path / "run"), "evolved", repo.path, None)
    assert repo("show", "evolved:packages/model/new.py") == "z = 1"


def test_wanted_genes_are_exported_by_the_beginning_of_their_ids(repo: GitRepo, tmp_path: Path) -> None:
    export(made(tmp_path / "run"), "some", repo.path, None, [THREE.gene_id[:8]])
    assert titles(repo, "some") == ["three"]


def test_without_a_champion_the_genes_of_people_are_exported(repo: GitRepo, tmp_path: Path) -> None:
    export(made(tmp_path / "run", champion=()), "all", repo.path, None)
    assert len(titles(repo, "all")) == 3


def test_mistakes_are_sentences_and_change_nothing(repo: GitRepo, tmp_path: Path) -> None:
    run, before = made(tmp_path / "run"), repo("for-each-ref")
    empty = made(tmp_path / "empty", genes=(), champion=())
    other = GitRepo(tmp_path / "other")
    other.commit({**FILES, "model.py": "a = 2\n"}, "Another base")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "0001-x.patch").touch()
    for mistake, sentence, call in (
        (OneTarget, "say where to", lambda: export(run, "b", None, None)),
        (OneTarget, "say where to", lambda: export(run, "b", repo.path, tmp_path / "p")),
        (OneTarget, "say where to", lambda: export(run, None, None, None)),
        (NothingToExport, "nothing to export", lambda: export(empty, "b", repo.path, None)),
        (BranchExists, "is there already", lambda: export(run, "main", repo.path, None)),
        (NotTheBase, "model.py is another there", lambda: export(run, "b", other.path, None)),
        (PatchesThere, "holds patches already", lambda: export(run, None, None, tmp_path / "full")),
        (UnknownId, "nothing has the id", lambda: export(run, "b", repo.path, None, ["zz"])),
    ):
        with pytest.raises(mistake, match=sentence):
            call()
    assert repo("for-each-ref") == before
    assert not (tmp_path / "p").exists()


def test_a_message_says_what_why_how_much_and_by_which_evaluations() -> None:
    believed = {"mean": 0.04, "sd": 0.01, "n": 7}
    said = message(TWO, RUN, None, believed, [f"{k:016x}" for k in range(20)])
    lines = said.splitlines()
    assert lines[0] == "two"
    assert "Why two." in lines
    assert "gain +0.04 loss, 95 % interval +0.0204 to +0.0596" in " ".join(lines)
    assert "and 8 more." in said
    assert lines[-1] == f"Evolve-Gene: {TWO.gene_id}"
    assert max(map(len, lines)) <= 72


def test_a_measured_effect_is_said_before_a_belief() -> None:
    measured = {"estimate": -0.02, "ci_low": -0.03, "ci_high": -0.01, "n": 8}
    said = " ".join(message(ONE, RUN, measured, {"mean": 1.0, "sd": 1.0, "n": 1}, []).split())
    assert "Effect: -0.02 loss in the stack, 95 % interval -0.03 to -0.01 (n=8, lower is better)." in said
    assert "not measured" in message(ONE, RUN, None, None, [])


def test_words_that_git_would_cut_off_survive(repo: GitRepo, tmp_path: Path) -> None:
    wild = gene("one " * 40, {"tail.py": "y = 3"})
    words = "--- a/x\n\ndiff --git a/x b/x\n\nEvolve-Gene: not this one\n"
    wild = Gene(wild.gene_id, wild.title, words, wild.category, wild.origin, wild.edits)
    stack = Stack(BASE, (wild,), (message(wild, RUN, None, None, []),), None)
    (commit,) = export_branch(stack, repo.path, "wild")
    assert repo("log", "-1", "--format=%(trailers:key=Evolve-Gene,valueonly)", commit.commit) == wild.gene_id
    _, files = export_patches(stack, tmp_path / "p")
    repo("am", "--quiet", "--keep-cr", *map(str, files))
    assert "diff --git" in repo("log", "-1", "--format=%B")
    assert repo("show", "HEAD:tail.py") == "y = 3"
