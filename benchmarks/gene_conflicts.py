"""Count which pairs of genes conflict: token spans, `git apply` and `git merge-file` on the same genes; and time them.

Two sets of 30 genes over 4 files, several to a line and definitions with distant uses: the synthetic commit of the
tests, written by hand, and one drawn by seed from the bundled target. Run as `python benchmarks/gene_conflicts.py`.
"""

from __future__ import annotations

import ast
import json
import platform
import random
import runpy
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from population.compose import GenesConflict, compose, conflict
from population.genes import (
    BaseTree,
    Category,
    Edit,
    Gene,
    Origin,
    gene_from_edits,
    gene_from_files,
    lay,
    render_diff,
)
from population.patches import locate, render_blocks
from population.tokens import spans

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "gene_conflicts.json"
SYNTHETIC = ROOT / "tests" / "synthetic_commit.py"
DRAWN_FROM = ("gpt.py", "optim.py", "base_train.py", "dataloader.py")
TIMED_ON = (*DRAWN_FROM, "attention.py", "loss_eval.py")
GENES, NAMES, CROWDED = 30, 6, 6  # of 30 drawn genes, 6 rename, and 6 lines have two of the others each
TIMED = 20


def main() -> None:
    figures = {
        "synthetic_commit": compared(*synthetic()),
        "drawn_from_the_bundled_target": compared(*drawn(DRAWN_FROM)),
        "speed": speed(*drawn(TIMED_ON)),
        "git": git("--version").stdout.decode().strip(),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    print(RESULT.read_text(), end="")


# genes


def synthetic() -> tuple[BaseTree, list[Gene]]:
    """Return the tests' synthetic commit as genes, one for each of its known changes."""
    commit = runpy.run_path(str(SYNTHETIC))
    base = BaseTree(commit["BEFORE"])
    files = (commit["changed"](commit["BEFORE"], change) for change in commit["CHANGES"].values())
    return base, [
        gene_from_files(base, after, title="", hypothesis="", category=Category.OTHER, origin=Origin.HUMAN)
        for after in files
    ]


def drawn(names: Sequence[str]) -> tuple[BaseTree, list[Gene]]:
    """Return 30 genes of files of the bundled target: numbers doubled, and names changed with all their uses."""
    base = BaseTree({name: (ROOT / "nanochat" / name).read_bytes().decode() for name in names})
    draw = random.Random(0)
    on_line = numbers(base)
    crowded = draw.sample([found for found in on_line.values() if len(found) > 1], CROWDED)
    lonely = draw.sample([found for found in on_line.values() if len(found) == 1], GENES - NAMES - 2 * CROWDED)
    doubled = [(edit,) for found in (*crowded, *lonely) for edit in found[:2]]
    renames = draw.sample(sorted(renamed(base)), NAMES)
    return base, [
        gene_from_edits(base, edits, title="", hypothesis="", category=Category.OTHER, origin=Origin.HUMAN)
        for edits in (*renames, *doubled)
    ]


def numbers(base: BaseTree) -> dict[tuple[str, int], list[Edit]]:
    """Return, for each line, the edits that double one of its numbers."""
    found: dict[tuple[str, int], list[Edit]] = {}
    for path, text in base.files.items():
        for start, end in spans(text, path):
            if text[start].isdigit():
                edit = Edit(path, start, end, f"{text[start:end]} * 2")
                found.setdefault(line_of(base, path, start), []).append(edit)
    return found


def renamed(base: BaseTree) -> Iterator[tuple[Edit, ...]]:
    """Yield, for each function and constant of a file that is used there, the edits that give it another name."""
    for path, text in base.files.items():
        body = ast.parse(text).body
        found = {node.name for node in body if isinstance(node, ast.FunctionDef)}
        found |= {
            t.id for node in body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)
        }
        cut = spans(text, path)
        for name in found:
            edits = tuple(Edit(path, a, b, f"{name}_") for a, b in cut if text[a:b] == name)
            if len(edits) > 1:
                yield edits


def line_of(base: BaseTree, path: str, at: int) -> tuple[str, int]:
    return path, base.files[path].count("\n", 0, at)


# conflicts


def compared(base: BaseTree, genes: Sequence[Gene]) -> dict[str, object]:
    """Count the pairs that conflict by each of the three ways, and those that git lays somewhere else than compose."""
    pairs = list(combinations(genes, 2))
    return {
        "files": len(base.files),
        "genes": len(genes),
        "edits": sum(len(gene.edits) for gene in genes),
        "pairs": len(pairs),
        "pairs_that_share_a_line": sum(bool(lines(base, a) & lines(base, b)) for a, b in pairs),
        "conflicts_by_token_spans": sum(conflict(a, b) is not None for a, b in pairs),
        "git_apply": outcomes(base, pairs, applied),
        "git_merge_file": outcomes(base, pairs, merged),
    }


def lines(base: BaseTree, gene: Gene) -> set[tuple[str, int]]:
    return {line_of(base, edit.path, edit.start) for edit in gene.edits}


def outcomes(
    base: BaseTree, pairs: Sequence[tuple[Gene, Gene]], tool: Callable[..., dict[str, str] | None]
) -> dict[str, int]:
    """Count the pairs that a tool refuses, and those that it lays otherwise than compose does."""
    found = Counter({"conflicts": 0, "other_text_than_compose": 0})
    for a, b in pairs:
        with tempfile.TemporaryDirectory() as folder:
            files = tool(base, a, b, Path(folder))
        if files is None:
            found["conflicts"] += 1
        elif files != composed(base, a, b):
            found["other_text_than_compose"] += 1
    return dict(found)


def composed(base: BaseTree, a: Gene, b: Gene) -> dict[str, str] | None:
    try:
        return compose(base, [a, b])
    except GenesConflict:
        return None


def applied(base: BaseTree, a: Gene, b: Gene, folder: Path) -> dict[str, str] | None:
    """Return the files after `git apply` of one gene's diff and then the other's; None if either is refused."""
    write(folder, base.files)
    for gene in (a, b):
        if git("apply", "-", folder=folder, text=render_diff(base, [gene])).returncode:
            return None
    return {path: (folder / path).read_bytes().decode() for path in base.files}


def merged(base: BaseTree, a: Gene, b: Gene, folder: Path) -> dict[str, str] | None:
    """Return the files after a three-way merge of each file that both genes change; None if one has a conflict."""
    ours, theirs = lay(base, [a]), lay(base, [b])
    for path in {edit.path for edit in a.edits} & {edit.path for edit in b.edits}:
        write(folder, {"base": base.files[path], "ours": ours[path], "theirs": theirs[path]})
        done = git("merge-file", "-p", "ours", "base", "theirs", folder=folder)
        if done.returncode:
            return None
        ours[path] = theirs[path] = done.stdout.decode()
    return {path: ours[path] if ours[path] != text else theirs[path] for path, text in base.files.items()}


def write(folder: Path, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        (folder / path).write_bytes(text.encode())


def git(*words: str, folder: Path | None = None, text: str = "") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *words], cwd=folder, input=text.encode(), capture_output=True, check=False)


# speed


def speed(base: BaseTree, genes: Sequence[Gene]) -> dict[str, object]:
    """Time 20 genes that compose: written as blocks and as a diff, located again, laid on the base."""
    some: list[Gene] = []
    for gene in genes:
        if len(some) < TIMED and all(conflict(gene, other) is None for other in some):
            some.append(gene)
    blocks = [render_blocks(base, gene) for gene in some]
    diffs = [render_diff(base, [gene]) for gene in some]
    located = [remade(base, text) for text in blocks]
    assert [gene.edits for gene in located] == [gene.edits for gene in some]
    return {
        "files": len(base.files),
        "lines": sum(text.count("\n") for text in base.files.values()),
        "genes": len(located),
        "edits": sum(len(gene.edits) for gene in located),
        "compose_ms": milliseconds(lambda: compose(base, located), 500),
        "locate_20_blocks_ms": milliseconds(lambda: [locate(base, text) for text in blocks], 20),
        "locate_20_diffs_ms": milliseconds(lambda: [locate(base, text) for text in diffs], 20),
        "locate_20_and_make_genes_ms": milliseconds(lambda: [remade(base, text) for text in blocks], 10),
    }


def remade(base: BaseTree, text: str) -> Gene:
    edits = locate(base, text)
    return gene_from_edits(base, edits, title="", hypothesis="", category=Category.OTHER, origin=Origin.HUMAN)


def milliseconds(call: Callable[[], object], repeats: int) -> dict[str, float]:
    """Return the median and the 90 % range of the duration of a call."""
    durations: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        durations.append(1000 * (time.perf_counter() - start))
    low, high = statistics.quantiles(durations, n=20)[::18]
    return {"median": round(statistics.median(durations), 4), "p5": round(low, 4), "p95": round(high, 4), "n": repeats}


if __name__ == "__main__":
    main()
