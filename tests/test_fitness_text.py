"""The parts of scoring that start no candidate: snapshots, placeholders, the ladder, reports, prepared data."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from fitness_cases import RECIPE, ROOT, TINY, job
from hypothesis import given
from hypothesis import strategies as st

from fitness.commands import fill, placeholders
from fitness.evaluation import Point
from fitness.ladder import next_step, passes
from fitness.mistakes import EmptyGlob, NotText, PrepareFailed, UnknownPlaceholder
from fitness.prepare import prepare
from fitness.reports import read_start, thin
from fitness.workspace import OutsideWorkspace, lay, read_base, snapshot
from population.individuals import Genotype, Result, Status, Step

# snapshots and workspaces


def test_a_snapshot_is_kept_even_if_the_users_tree_changes_later(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "tiny").mkdir(parents=True)
    (root / RECIPE).write_text("first")
    target = replace(TINY, root=root)
    base = snapshot(target, tmp_path / "run" / "base")
    (root / RECIPE).write_text("second")
    assert snapshot(target, tmp_path / "run" / "base") == base
    assert read_base(base, target.editable).files == {RECIPE: "first"}
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["base"]


def test_a_run_directory_inside_the_root_is_not_part_of_the_base(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("pass\n")
    (tmp_path / "runs" / "1").mkdir(parents=True)
    (tmp_path / "runs" / "1" / "old.log").write_text("x")
    base = snapshot(
        replace(TINY, root=tmp_path, editable=("a.py",), frozen=("**/*",)), tmp_path / "runs" / "1" / "base"
    )
    assert [path.name for path in base.rglob("*")] == ["a.py"]


def test_newlines_and_modes_survive(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"a = 1\r\nb = 2\rc = '\xc3\xa9'")
    (tmp_path / "go.sh").write_text("echo")
    (tmp_path / "go.sh").chmod(0o555)
    base = snapshot(replace(TINY, root=tmp_path, editable=("a.py",), frozen=("go.sh",)), tmp_path / "run" / "base")
    files = read_base(base, ("a.py",)).files
    assert files == {"a.py": "a = 1\r\nb = 2\rc = 'é'"}
    lay(base, files, tmp_path / "w", ("a.py",))
    assert (tmp_path / "w/a.py").read_bytes() == b"a = 1\r\nb = 2\rc = '\xc3\xa9'"
    assert (tmp_path / "w/go.sh").stat().st_mode & 0o111


@pytest.mark.parametrize("pattern", ["nothing/*.py", "../*.py", "/etc/passwd", ""])
def test_a_pattern_that_matches_nothing_inside_the_root_is_a_mistake(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(EmptyGlob, match="matches no file under"):
        snapshot(replace(TINY, frozen=(pattern,)), tmp_path / "base")


def test_an_editable_file_that_is_no_text_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\xff\xfe")
    with pytest.raises(NotText, match="is not UTF-8 text"):
        read_base(tmp_path, ("a.bin",))


@pytest.mark.parametrize("path", ["../a", "/a", "tiny/../../a", "a\0b", "tiny", "unknown.py"])
def test_a_workspace_refuses_paths_outside_the_base(tmp_path: Path, path: str) -> None:
    base = snapshot(TINY, tmp_path / "base")
    with pytest.raises(OutsideWorkspace):
        lay(base, {path: "x"}, tmp_path / "w", TINY.editable)
    assert not (tmp_path / "w").exists()


def test_a_workspace_has_the_files_that_genes_add_and_not_those_they_delete(tmp_path: Path) -> None:
    for name in ("a.py", "b.py", "frozen.txt"):
        (tmp_path / name).write_text(name)
    target = replace(TINY, root=tmp_path, editable=("*.py", "new/**/*.py"), frozen=("*.txt",))
    base = snapshot(replace(target, editable=("*.py",)), tmp_path / "run" / "base")
    lay(base, {"b.py": "B", "new/c/d.py": "D\r\n", "e.py": ""}, tmp_path / "w", target.editable)
    laid = {path.relative_to(tmp_path / "w").as_posix(): path for path in (tmp_path / "w").rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in laid.items()} == {
        "b.py": b"B",
        "e.py": b"",
        "frozen.txt": b"frozen.txt",
        "new/c/d.py": b"D\r\n",
    }


@pytest.mark.parametrize("files", [["folder"], ["a.py/b"], ["x", "x/y"], ["frozen.txt/x"], ["frozen.txt"]])
def test_a_workspace_refuses_a_file_where_a_folder_is_and_a_folder_where_a_file_is(
    tmp_path: Path, files: list[str]
) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("a.py", "frozen.txt", "folder/f"):
        (tmp_path / name).write_text("x")
    globs = ("a.py", "folder/*", "folder", "x", "*/*")
    with pytest.raises(OutsideWorkspace):
        lay(tmp_path, {"a.py": "", **dict.fromkeys(files, "")}, tmp_path / "w", globs)
    assert not (tmp_path / "w").exists()


# commands


@pytest.mark.parametrize(("gpus", "shown"), [(0, "1"), (0.5, "1"), (1.0, "1"), (8.0, "8")])
def test_a_launcher_is_told_how_many_gpus_the_run_sees(gpus: float, shown: str) -> None:
    values = placeholders(TINY, replace(TINY.rungs[0], gpus=gpus), job(), Path("w"), None)
    assert fill(("{gpus}",), values) == (shown,)


def test_placeholders_are_filled_and_other_braces_stay() -> None:
    values = placeholders(replace(TINY, variables={"width": "64"}), TINY.rungs[0], job(seed=3), Path("w d"), None)
    command = ("{python}", "{seed}{split}", "{width}", "{workspace}", '{"a": {"b": 1}}', "{}", "{eval_tokens}")
    assert fill(command, values) == (sys.executable, "3val", "64", "w d", '{"a": {"b": 1}}', "{}", "3")


@pytest.mark.parametrize("name", ["depth", "data", "checkpoint"])
def test_a_placeholder_without_a_value_is_a_mistake_that_names_those_that_have_one(name: str) -> None:
    values = placeholders(TINY, TINY.rungs[0], job(), Path("w"), None)
    with pytest.raises(
        UnknownPlaceholder, match=rf"\{{{name}\}}.*known here are eval_tokens, gpus, python, seed, split"
    ):
        fill((f"--x={{{name}}}",), values)


# the ladder

CLIMB = (Step("screen", (0,), worst=2.0), Step("full", (0, 1, 2)), Step("full", (3,)))


def result(rung: str, seed: int, score: float | None = 1.0) -> Result:
    return Result(Genotype(), rung, seed, Status.CRASHED if score is None else Status.OK, score)


def test_a_climb_goes_up_step_by_step_and_ends_at_the_top() -> None:
    results: list[Result] = []
    visited: list[tuple[str, tuple[int, ...]]] = []
    while (step := next_step(CLIMB, results, "minimize")) is not None:
        visited.append((step.rung, step.seeds))
        results += [result(step.rung, seed) for seed in step.seeds]
    assert visited == [("screen", (0,)), ("full", (0, 1, 2)), ("full", (3,))]


def test_a_failure_of_any_seed_ends_a_climb() -> None:
    results = [result("screen", 0), result("full", 0), result("full", 1, None), result("full", 2)]
    assert next_step(CLIMB, results, "minimize") is None


def test_only_missing_seeds_are_asked_for() -> None:
    step = next_step(CLIMB, [result("screen", 0), result("full", 1)], "minimize")
    assert step == Step("full", (0, 2))


@pytest.mark.parametrize(
    ("direction", "score", "goes_on"),
    [("minimize", 2.0, True), ("minimize", 2.1, False), ("maximize", 2.0, True), ("maximize", 1.9, False)],
)
def test_the_mean_must_not_be_worse_than_the_worst(direction: str, score: float, goes_on: bool) -> None:
    assert (next_step(CLIMB, [result("screen", 0, score)], direction) is not None) == goes_on


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=5), st.floats(-10, 10))
def test_maximizing_is_minimizing_of_the_negative(scores: list[float], worst: float) -> None:
    down = passes(Step("a", (), worst), [result("a", i, s) for i, s in enumerate(scores)], "minimize")
    up = passes(Step("a", (), -worst), [result("a", i, -s) for i, s in enumerate(scores)], "maximize")
    assert up == down


# reports


@given(st.integers(0, 1000))
def test_a_thinned_curve_keeps_both_ends_and_the_order(count: int) -> None:
    points = [Point(step, None, None, 1.0) for step in range(count)]
    thinned = thin(points)
    assert len(thinned) == min(count, 200)
    assert list(thinned) == sorted(set(thinned), key=lambda point: point.step)
    assert thinned[:1] + thinned[-1:] == tuple(points[:1] + points[-1:])


def test_only_regular_files_are_read_and_nothing_blocks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "secret").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    assert [read_start(tmp_path / name) for name in ("pipe", "link", "missing", ".", "secret")] == ["", "", "", "", "x"]


# prepared data

PREPARING = replace(
    TINY,
    prepare=("sh", "-c", 'echo run >> "$1/../count"; sleep 0.2; cp tiny/recipe.py "$1/data"', "sh", "{data}"),
)


def test_data_is_prepared_once_even_by_callers_at_the_same_time(tmp_path: Path) -> None:
    base = snapshot(PREPARING, tmp_path / "base")
    made: list[Path | None] = []
    threads = [
        threading.Thread(target=lambda: made.append(prepare(PREPARING, base, tmp_path / "c d"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 1
    assert made[0] is not None
    assert (made[0] / "data").read_text() == (ROOT / RECIPE).read_text()
    assert (tmp_path / "c d" / "count").read_text() == "run\n"


def test_another_command_or_frozen_file_is_other_data_and_an_editable_one_is_not(tmp_path: Path) -> None:
    base = snapshot(PREPARING, tmp_path / "base")
    folder = tmp_path / "cache"
    first = prepare(PREPARING, base, folder)
    (base / RECIPE).write_text("changed")
    assert prepare(PREPARING, base, folder) == first
    (base / "tiny/judge.py").write_text("changed")
    assert prepare(PREPARING, base, folder) != first
    assert prepare(replace(PREPARING, prepare=("true",)), base, folder) != first
    assert prepare(TINY, base, folder) is None


def test_only_the_variables_in_the_command_make_other_data(tmp_path: Path) -> None:
    target = replace(PREPARING, prepare=("sh", "-c", "true", "{size}"), variables={"size": "1", "batch": "8"})
    base = snapshot(target, tmp_path / "base")
    first = prepare(target, base, tmp_path / "cache")
    assert prepare(replace(target, variables={"size": "1", "batch": "4"}), base, tmp_path / "cache") == first
    assert prepare(replace(target, variables={"size": "2", "batch": "8"}), base, tmp_path / "cache") != first


def test_preparing_says_where_to_watch_and_keeps_downloads_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    target = replace(PREPARING, prepare=("sh", "-c", "echo $XDG_CACHE_HOME $HOME"))
    base = snapshot(target, tmp_path / "base")
    said: list[str] = []
    for _ in range(2):
        prepare(target, base, tmp_path / "cache", said.append)
    (line,) = said
    users, home = Path(line.split("watch ")[1]).read_text().split()
    assert users == str(tmp_path / "users")
    assert home != str(Path.home())


def test_a_prepare_command_that_fails_is_a_mistake_with_the_end_of_its_log(tmp_path: Path) -> None:
    failing = replace(TINY, prepare=("sh", "-c", "echo the disk is on fire; exit 3"))
    base = snapshot(failing, tmp_path / "base")
    with pytest.raises(PrepareFailed, match=r"failed with exit code 3(.|\n)*the disk is on fire"):
        prepare(failing, base, tmp_path / "cache")
    assert prepare(replace(TINY, prepare=("true",)), base, tmp_path / "cache")
