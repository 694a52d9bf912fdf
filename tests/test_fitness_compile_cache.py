"""Compiled code: made by the base, copied to everybody, written by nobody."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from fitness_cases import RECIPE, job, running, with_rung

from fitness.compile_cache import LISTING, CompileCache, compile_key, is_whole
from fitness.evaluation import Evaluation
from fitness.pool import LocalPool
from fitness.target import Target
from fitness.workspace import snapshot
from population.individuals import Status

# a program that "compiles": it counts what it finds in its folder, and adds a file of its own
COMPILES = """import json, os
from pathlib import Path
folder = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", "nowhere"))
found = len(list(folder.rglob("*.so")))
if folder.is_dir():
    assert os.environ["TRITON_CACHE_DIR"].startswith(str(folder))
    for old in folder.rglob("*.so"):
        old.write_text("poison")
    (folder / "ab").mkdir(exist_ok=True)
    (folder / "ab" / f"{found}.so").write_text("code")
json.dump({"loss": found}, open("result.json", "w"))
"""


@contextmanager
def pool(tmp_path: Path, code: str = COMPILES, **rung: object) -> Iterator[LocalPool]:
    """A pool whose base is this program."""
    root = tmp_path / "root"
    (root / "tiny").mkdir(parents=True, exist_ok=True)
    (root / RECIPE).write_text(code)
    target = with_rung(running("")[0], **{"compiles": True, **rung})
    target = replace(target, root=root, frozen=())
    one = LocalPool(target, tmp_path, snapshot(target, tmp_path / "base"), None, 1, compiled=tmp_path / "compiled")
    try:
        yield one
    finally:
        one.close()


def run(executor: LocalPool, files: Mapping[str, str], name: str) -> Evaluation:
    executor.submit(replace(job(name=name), files=dict(files)))
    (found,) = executor.wait(20)
    return found


def shared(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "compiled").rglob("*.so"))


BASE = {RECIPE: COMPILES}
PATCHED = {RECIPE: COMPILES + "# patched\n"}


def test_the_base_is_compiled_once_and_everybody_starts_from_it(tmp_path: Path) -> None:
    with pool(tmp_path) as executor:
        scores = [run(executor, files, f"e{i}").score for i, files in enumerate((BASE, PATCHED, BASE, PATCHED))]
    assert scores == [0, 1, 1, 1]
    assert [path.name for path in shared(tmp_path)] == ["0.so"]


def test_a_patched_program_is_never_shared(tmp_path: Path) -> None:
    with pool(tmp_path) as executor:
        assert [run(executor, PATCHED, f"e{i}").score for i in range(2)] == [0, 0]
        assert shared(tmp_path) == []


def test_a_base_that_fails_is_not_shared(tmp_path: Path) -> None:
    code = COMPILES.replace("json.dump", "raise SystemExit(1)\njson.dump")
    with pool(tmp_path, code) as executor:
        assert run(executor, {RECIPE: code}, "e0").status is Status.CRASHED
    assert shared(tmp_path) == []


def test_what_is_shared_is_read_only_and_what_candidates_write_stays_theirs(tmp_path: Path) -> None:
    with pool(tmp_path) as executor:
        run(executor, BASE, "e0")
        run(executor, PATCHED, "e1")
    (file,) = shared(tmp_path)
    assert file.read_text() == "code"
    folder = file.parent.parent
    assert not any(path.stat().st_mode & 0o222 for path in (folder, *folder.rglob("*")))


def test_private_copies_are_gone_when_an_evaluation_is_over(tmp_path: Path) -> None:
    with pool(tmp_path) as executor:
        run(executor, BASE, "e0")
    assert sorted(path.name for path in (tmp_path / "evaluations" / "e0").iterdir()) == [
        "events.jsonl",
        "log.txt",
        "patch.diff",
    ]


def test_a_rung_that_compiles_nothing_copies_nothing_and_sends_nothing_elsewhere(tmp_path: Path) -> None:
    with pool(tmp_path, compiles=False) as executor:
        assert [run(executor, BASE, f"e{i}").score for i in range(2)] == [0, 0]
    assert not (tmp_path / "compiled").exists()


@pytest.mark.parametrize("damage", ["shorter", "missing", "listing", "folder"])
def test_damage_is_no_error_and_is_mended_by_the_next_base(tmp_path: Path, damage: str) -> None:
    with pool(tmp_path) as executor:
        run(executor, BASE, "e0")
        (file,) = shared(tmp_path)
        key = file.parent.parent
        for path in (key, *key.rglob("*")):
            path.chmod(0o700)
        if damage == "shorter":
            file.write_text("c")
        elif damage == "missing":
            file.unlink()
        elif damage == "listing":
            (key / LISTING).write_text("[1")
        else:
            os.rename(key, tmp_path / "away")
        assert not is_whole(key)
        assert [run(executor, files, f"f{i}").score for i, files in enumerate((PATCHED, BASE, PATCHED))] == [0, 0, 1]
    assert is_whole(key)
    assert [path.read_text() for path in shared(tmp_path)] == ["code"]
    assert [path.name for path in (tmp_path / "compiled").iterdir()] == [key.name]


def test_a_folder_that_can_not_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "compiled").write_text("in the way")
    with pool(tmp_path) as executor:
        assert [run(executor, BASE, f"e{i}").score for i in range(2)] == [0, 0]


def test_links_are_not_followed_into_what_is_shared(tmp_path: Path) -> None:
    private = tmp_path / "private"
    (private / "ab").mkdir(parents=True)
    (private / "ab" / "real.so").write_text("code")
    (private / "ab" / "link").symlink_to("/etc/passwd")
    (private / "up").symlink_to("/etc")
    os.mkfifo(private / "pipe")
    cache = CompileCache(tmp_path / "compiled")
    cache.publish("k", private)
    assert is_whole(tmp_path / "compiled" / "k")
    cache.copy("k", tmp_path / "copy")
    assert [str(path.relative_to(tmp_path / "copy")) for path in sorted((tmp_path / "copy").rglob("*"))] == [
        "ab",
        "ab/real.so",
    ]
    (tmp_path / "copy" / "ab" / "real.so").write_text("mine")


def test_a_key_depends_on_what_the_program_compiles_to_and_on_nothing_else(tmp_path: Path) -> None:
    target: Target = with_rung(running("")[0], compiles=True)
    base = snapshot(target, tmp_path / "base")
    files = {RECIPE: (base / RECIPE).read_text()}
    rung = target.rungs[0]

    def key(
        target: Target = target, files: Mapping[str, str] = files, software: str = "2.9", device: str = "H100", **more
    ):
        return compile_key(target, base, files, replace(rung, **more), software, device)

    plain = key()
    assert key(seeds=(7,), tokens=5, eval_tokens=5, timeout_s=5) == plain
    others = [key(software="2.10"), key(device="A100"), key(files={RECIPE: "x"}), key(depth=4), key(gpus=8.0)]
    others += [key(command=("x",)), key(env={"A": "1"}), key(replace(target, variables={"batch": "8"}))]
    assert len({plain, *others}) == 9
