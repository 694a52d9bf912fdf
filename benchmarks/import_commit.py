"""Import the synthetic commit of the tests by the command line, and back by a branch: what is found, how fast.

Run as `python benchmarks/import_commit.py`; nothing is trained.
"""

from __future__ import annotations

import json
import os
import platform
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from population.genes import BaseTree, Category, Origin, gene_from_files

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "import_commit.json"
REPEATS = 5
AUTHOR = ("-c", "user.name=evolve", "-c", "user.email=evolve@localhost")


def main() -> None:
    synthetic = runpy.run_path(str(ROOT / "tests" / "synthetic_commit.py"))
    with tempfile.TemporaryDirectory() as folder:
        repo = committed(Path(folder) / "repo", synthetic["BEFORE"], synthetic["after"]())
        rounds = [imported(repo, "HEAD", f"run{k}") for k in range(REPEATS)]
        found = rounds[0][1]
        evolve(repo, "export", "../run0", "--branch", "stack", "--repo", ".")
        _, again = imported(repo, "HEAD~1..stack", "again")
        same_tree = git(repo, "rev-parse", "stack^{tree}") == git(repo, "rev-parse", "HEAD^{tree}")
    wall, cpu = ([times[k] for times, _ in rounds] for k in (0, 1))
    ids = {gene["gene_id"] for gene in found["genes"]}
    known = known_ids(synthetic)
    figures = {
        "known_changes": len(known),
        "genes": len(ids),
        "recovered": len(ids & known),
        "exact": found["exact"],
        "conflicts": len(found["conflicts"]),
        "wall_s": {"median": round(statistics.median(wall), 2), "max": round(max(wall), 2), "n": REPEATS},
        "cpu_s": {"median": round(statistics.median(cpu), 2), "max": round(max(cpu), 2), "n": REPEATS},
        "exported_branch_has_the_commits_tree": same_tree,
        "same_ids_after_export_and_import": ids == {gene["gene_id"] for gene in again["genes"]},
        "load_1min": round(os.getloadavg()[0], 1),
        "git": git(ROOT, "--version"),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    print(RESULT.read_text(), end="")


def committed(repo: Path, before: dict[str, str], after: dict[str, str]) -> Path:
    """Make a repository whose last commit is the synthetic one."""
    repo.mkdir()
    git(repo, "init", "--quiet")
    for files in (before, after):
        for name, text in files.items():
            (repo / name).write_text(text)
        git(repo, "add", "--all")
        git(repo, *AUTHOR, "commit", "--quiet", "--message", "A commit")
    return repo


def imported(repo: Path, revision: str, run: str) -> tuple[tuple[float, float], dict[str, object]]:
    """Import a revision and return (wall seconds, CPU seconds) and what was found."""
    began, spent = time.monotonic(), sum(os.times()[2:4])
    said = evolve(repo, "import", "--repo", ".", revision, "--no-verify", "--json", "--run-dir", f"../{run}")
    return (time.monotonic() - began, sum(os.times()[2:4]) - spent), json.loads(said)


def known_ids(synthetic: dict[str, object]) -> set[str]:
    """Return the ids of the changes that the commit was made of."""
    base, words = BaseTree(synthetic["BEFORE"]), {"category": Category.OTHER, "origin": Origin.IMPORT}
    trees = [synthetic["changed"](synthetic["BEFORE"], change) for change in synthetic["CHANGES"].values()]
    return {gene_from_files(base, files, title="t", hypothesis="h", **words).gene_id for files in trees}


def evolve(folder: Path, *words: str) -> str:
    return output(folder, sys.executable, "-m", "evolve", *words)


def git(folder: Path, *words: str) -> str:
    return output(folder, "git", *words).strip()


def output(folder: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
