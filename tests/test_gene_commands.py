"""Import, inject and export, typed as a person would: a whole round through real repositories and a live run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import synthetic_commit as synthetic
from git_repo import GitRepo

PATCH = "knobs.py\n<<<<<<< SEARCH\nKNOB_08 = 300\n=======\nKNOB_08 = 310\n>>>>>>> REPLACE\n"


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "COLUMNS": "100"}


def evolve(folder: Path, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "evolve", *words]
    more = {"input": given, "env": environment(folder), "cwd": folder}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **more)


@pytest.fixture
def repo(tmp_path: Path) -> GitRepo:
    repo = GitRepo(tmp_path / "repo")
    repo.commit(synthetic.BEFORE, "Base")
    repo.commit(synthetic.after(), "Thirty changes")
    return repo


@pytest.mark.slow
def test_the_synthetic_commit_comes_back_exactly_in_less_than_five_seconds(repo: GitRepo, tmp_path: Path) -> None:
    before = repo.state()
    evolve(tmp_path, "--version")  # modules are compiled once
    began = time.process_time() + sum(os.times()[2:4])
    ended = evolve(tmp_path, "import", "--repo", "repo", "HEAD", "--no-verify", "--run-dir", "r", "--json")
    took = time.process_time() + sum(os.times()[2:4]) - began
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (len(found["genes"]), found["exact"], found["conflicts"]) == (30, True, [])
    assert {"gene_id", "title"} <= found["genes"][0].keys()
    assert took < 5
    exported = evolve(tmp_path, "export", "r", "--branch", "stack", "--repo", "repo")
    assert exported.returncode == 0, exported.stderr
    assert repo.state() == before
    assert repo("rev-parse", "stack^{tree}") == repo("rev-parse", "main^{tree}")
    assert len(repo("rev-list", "main~1..stack").split()) == 31
    again = json.loads(evolve(tmp_path, "import", "--repo", "repo", "main~1..stack", "--run-dir", "s", "--json").stdout)
    assert sorted(g["gene_id"] for g in again["genes"]) == sorted(g["gene_id"] for g in found["genes"])
    assert again["exact"]
    patches = evolve(tmp_path, "export", "r", "--patches", "p")
    assert patches.returncode == 0, patches.stderr
    repo("checkout", "--quiet", "-b", "mailed", "main~1")
    repo("am", "--quiet", *map(str, sorted((tmp_path / "p").glob("*.patch"))))
    assert repo("rev-parse", "mailed^{tree}") == repo("rev-parse", "main^{tree}")


@pytest.mark.slow
def test_a_gene_that_is_injected_into_a_live_run_is_scored_in_it(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "evolve", "run", "--target", "landscape", "--generations", "50", "--run-dir", "r"]
    quiet = subprocess.DEVNULL
    live = subprocess.Popen(run, cwd=tmp_path, env=environment(tmp_path), stdout=quiet, stderr=quiet)
    try:
        while not (tmp_path / "r" / "lineage.duckdb").exists() and live.poll() is None:
            time.sleep(0.1)
        said = evolve(tmp_path, "inject", "-", "r", "--title", "a little more", "--json", given=PATCH)
        gene_id = json.loads(said.stdout)["gene_id"]
        question = (
            f"SELECT count(*) AS n FROM evaluations JOIN genotype_genes USING (genotype_id) WHERE gene_id = '{gene_id}'"
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and live.poll() is None:
            if evolve(tmp_path, "sql", question, "--run", "r", "--format", "csv").stdout.split()[-1:] not in (
                [],
                ["0"],
            ):
                break
            time.sleep(0.5)
        assert live.poll() is None, "the run was still live"
    finally:
        live.terminate()
        live.wait(timeout=30)
    shown = json.loads(evolve(tmp_path, "show", gene_id, "--run", "r", "--json").stdout)
    assert (shown["origin"], shown["title"]) == ("human", "a little more")
    births = (
        "SELECT operator FROM individuals JOIN genotype_genes USING (genotype_id) WHERE gene_id = '{}' ORDER BY birth"
    )
    asked = evolve(tmp_path, "sql", births.format(gene_id), "--run", "r", "--format", "csv")
    assert asked.stdout.split()[1] == "inject"


@pytest.mark.slow
def test_a_gene_that_is_injected_into_a_baseline_is_scored_when_it_is_resumed(tmp_path: Path) -> None:
    assert evolve(tmp_path, "baseline", "--target", "landscape", "--run-dir", "b").returncode == 0
    said = evolve(tmp_path, "inject", "-", "b", "--title", "a little more", given=PATCH)
    assert said.returncode == 0, said.stderr
    assert "evolve resume b" in said.stdout
    assert evolve(tmp_path, "resume", "b").returncode == 0
    rows = json.loads(
        evolve(tmp_path, "sql", "FROM leaderboard WHERE n_genes = 1", "--run", "b", "--format", "json").stdout
    )
    assert rows
    assert "a little more" in evolve(tmp_path, "genes", "b").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("import", "--repo", ".", "HEAD"), "is in no git repository"),
        (("import", "--repo", "nowhere", "HEAD"), "is in no git repository"),
        (("inject", "p.diff", "--title", "t"), "no run directory"),
        (("export", "--branch", "b", "--repo", "."), "no run directory"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    ended = evolve(tmp_path, *words)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == []
