"""The street has one direction: which package may import what, checked on every file's own imports."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"nanochat", "population", "fitness", "evolve"}
ALLOWED = {
    "nanochat": {"nanochat", "torch", "numpy", "tiktoken", "rustbpe", "pyarrow", "safetensors", "tqdm"},
    "population": {"population", "numpy", "scipy", "statsmodels"},
    "fitness": {"fitness", "population", "numpy"},
    "evolve": {"evolve", "fitness", "population", "numpy", "pydantic", "tomli_w"},
}
DOORS = {
    "flash_attn_interface": "nanochat/attention.py",
    "deap": "population/selection.py",
    "duckdb": "evolve/lineage.py",
    "anthropic": "evolve/llm.py",
    "click": "evolve/cli.py",
    "rich": "evolve/terminal.py",
}
FILES = sorted(path for package in OURS for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_its_package_may(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    package = name.split("/")[0]
    through_a_door = {library for library, door in DOORS.items() if door == name}
    assert imports(path) <= ALLOWED[package] | through_a_door


def test_every_door_is_used_where_it_exists() -> None:
    unused = [door for library, door in DOORS.items() if (ROOT / door).exists() and library not in imports(ROOT / door)]
    assert not unused


def test_the_six_top_level_entries_are_there_and_nothing_a_repository_does_not_need() -> None:
    needed = {"evolve", "population", "nanochat", "fitness", "tests", "pyproject.toml", "README.md"}
    allowed = needed | {"Makefile", "LICENSE", "LOG.md", "constraints.txt", "docs", "benchmarks"}
    present = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    present -= {"runs", "build", "dist"} | {name for name in present if name.endswith(".egg-info")}
    assert needed <= present <= allowed
