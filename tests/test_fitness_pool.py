"""The local executor, its cache, and what stops it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from fitness_cases import ALONE, RECIPE, TINY, edited, eventually, is_alive, job, running, with_rung

from fitness.cache import Cache, cache_key, device_model, fingerprint
from fitness.evaluation import Evaluation, Executor, Job
from fitness.mistakes import MachineFailed, UnknownPlaceholder
from fitness.pool import LocalPool
from fitness.target import Target
from fitness.workspace import snapshot
from population.individuals import Genotype, Status


@contextmanager
def pool(target: Target, run_dir: Path, workers: int = 1, cache: Path | None = None) -> Iterator[LocalPool]:
    base = snapshot(target, run_dir / "base")
    one = LocalPool(target, run_dir, base, None, workers, None if cache is None else Cache(cache))
    try:
        yield one
    finally:
        one.close()


def run(executor: Executor, *jobs: Job) -> list[Evaluation]:
    for one in jobs:
        executor.submit(one)
    found: list[Evaluation] = []
    while len(found) < len(jobs):
        ended: Sequence[Evaluation] = executor.wait(20)
        assert ended, "nothing ended in time"
        found.extend(ended)
    return found


def test_jobs_run_in_the_order_they_were_submitted_on_one_slot(tmp_path: Path) -> None:
    with pool(TINY, tmp_path) as executor:
        names = [f"e{i}" for i in range(4)]
        assert [e.evaluation_id for e in run(executor, *(job(name=name) for name in names))] == names
        assert executor.wait(0.01) == []


def test_two_slots_run_two_jobs_at_the_same_time_and_score_as_one_slot_does(tmp_path: Path) -> None:
    meet = "open(f'{DIR}/{SEED}', 'w').close()\nwhile len(os.listdir(DIR)) < 2: time.sleep(0.01)\n"
    code = f"import json, os, sys, time\nDIR, SEED = {str(tmp_path / 'm')!r}, sys.argv[1]\n{meet}"
    target, files = running(code + "json.dump({'loss': int(SEED)}, open('result.json', 'w'))\n")
    (tmp_path / "m").mkdir()
    with pool(with_rung(target, command=("{python}", RECIPE, "{seed}")), tmp_path, workers=2) as executor:
        assert executor.slots == 2
        found = run(executor, *(job(files, f"e{seed}", seed) for seed in (0, 1)))
    assert {e.evaluation_id: e.score for e in found} == {"e0": 0.0, "e1": 1.0}


def test_closing_kills_what_runs_and_reports_nothing_of_it(tmp_path: Path) -> None:
    code = f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    target, files = running(code)
    with pool(target, tmp_path, workers=2, cache=tmp_path / "cache") as executor:
        executor.submit(job(files, "running"))
        executor.submit(job(files, "waiting", seed=1))
        assert eventually(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text()), 5)
        began = time.monotonic()
        executor.close()
        assert time.monotonic() - began < 2
        assert not is_alive(int((tmp_path / "pid").read_text()))
        assert executor.wait(0.01) == []
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_a_lost_keeper_costs_one_more_try_and_no_result(tmp_path: Path) -> None:
    code = f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'a').write(f'{{os.getppid()}} ')\n"
    target, files = running(code + f"if len(open({str(tmp_path / 'pid')!r}).read().split()) == 1: time.sleep(60)\n")
    with pool(target, tmp_path) as executor:
        executor.submit(job(files))
        assert eventually(lambda: (tmp_path / "pid").exists() and " " in (tmp_path / "pid").read_text(), 5)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        (found,) = executor.wait(10)
    assert "has no number 'loss'" in found.log_tail


def test_a_candidate_that_kills_its_keeper_is_data(tmp_path: Path) -> None:
    target, files = running("import os, signal, time\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(60)\n")
    with pool(target, tmp_path) as executor:
        (found,) = run(executor, job(files))
        assert found.status is Status.CRASHED
        (found,) = run(executor, job(name="e2"))  # the base has no result.json either, but it ends by itself
        assert "has no number 'loss'" in found.log_tail


def test_an_error_of_the_engine_is_reported_as_such(tmp_path: Path) -> None:
    with pool(TINY, tmp_path) as executor:
        (tmp_path / "evaluations").write_text("in the way")
        (found,) = run(executor, job())
    assert found.status is Status.CRASHED
    assert found.log_tail.startswith("the engine failed to evaluate this")
    assert "NotADirectoryError" in found.log_tail


def test_an_unknown_placeholder_stops_the_run_with_one_sentence(tmp_path: Path) -> None:
    with pool(with_rung(TINY, command=("{python}", "{sed}")), tmp_path) as executor:
        executor.submit(job())
        with pytest.raises(UnknownPlaceholder, match=r"\{sed\} in '\{sed\}' has no value on this rung"):
            executor.wait(10)


def test_what_ended_well_is_reported_before_what_stops_the_run(tmp_path: Path) -> None:
    broken = replace(TINY.rungs[0], name="broken", command=("{nothing}",))
    with pool(replace(TINY, rungs=(*TINY.rungs, broken)), tmp_path) as executor:
        executor.submit(job())
        executor.submit(replace(job(name="e2"), rung="broken"))
        assert [e.evaluation_id for e in executor.wait(10)] == ["e1"]
        with pytest.raises(UnknownPlaceholder):
            executor.wait(10)


def test_a_cache_that_can_not_be_written_is_the_machines_failure(tmp_path: Path) -> None:
    with pool(TINY, tmp_path, cache=Path("/dev/full/cache")) as executor:
        executor.submit(job())
        with pytest.raises(MachineFailed, match="This machine can not go on scoring"):
            executor.wait(10)


# the cache


def test_the_same_text_is_scored_once_and_a_hit_costs_nothing(tmp_path: Path) -> None:
    with pool(TINY, tmp_path, cache=tmp_path / "cache") as executor:
        (first,) = run(executor, job())
        (hit,) = run(executor, replace(job(name="e2"), genotype=Genotype(("g",))))
    assert (hit.score, hit.status, hit.curve, hit.n_params) == (first.score, first.status, first.curve, 1)
    assert (hit.evaluation_id, hit.genotype, hit.source_evaluation_id) == ("e2", Genotype(("g",)), "e1")
    assert (hit.wall_seconds, hit.train_seconds) == (0.0, 0.0)
    assert first.source_evaluation_id is None
    assert (tmp_path / "evaluations/e2/patch.diff").read_text() == "the patch\n"


def test_another_run_hits_too_and_a_hit_of_a_hit_names_the_evaluation_that_was_paid(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        with pool(TINY, tmp_path / str(number), cache=tmp_path / "cache") as executor:
            (found,) = run(executor, job(name=f"e{number}"))
    assert found.source_evaluation_id == "e1"


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"status": "ok"}', "\xff", None])
def test_a_damaged_entry_is_ignored_and_written_anew(tmp_path: Path, damage: str | None) -> None:
    with pool(TINY, tmp_path, cache=tmp_path / "cache") as executor:
        (first,) = run(executor, job())
        (entry,) = (tmp_path / "cache").rglob("*.json")
        without_score = json.dumps({**json.loads(entry.read_text()), "score": None})
        entry.write_text(without_score if damage is None else damage, encoding="latin-1")
        (again,) = run(executor, job(name="e2"))
        assert (again.source_evaluation_id, again.score) == (None, first.score)
        (hit,) = run(executor, job(name="e3"))
    assert hit.source_evaluation_id == "e2"


def test_a_job_that_must_not_use_the_cache_neither_reads_nor_writes_it(tmp_path: Path) -> None:
    with pool(TINY, tmp_path, cache=tmp_path / "cache") as executor:
        run(executor, job(use_cache=False))
        (second,) = run(executor, job(name="e2"))
        (third,) = run(executor, job(name="e3", use_cache=False))
    assert second.source_evaluation_id is None
    assert third.source_evaluation_id is None


def test_failures_are_kept_only_if_they_would_happen_again(tmp_path: Path) -> None:
    crash, endless = edited("RATE = 0.5", "RATE = 1 / 0"), edited("RATE = 0.5", "while True: pass")
    with pool(with_rung(TINY, timeout_s=1), tmp_path, cache=tmp_path / "cache") as executor:
        for files, hits in ((crash, 1), (edited("RATE = 0.5", "RATE = ="), 1), (endless, 0)):
            first, second = run(executor, job(files, "a"), job(files, "b"))
            assert first.status is second.status
            assert first.status is not Status.OK
            assert [second.source_evaluation_id, first.source_evaluation_id].count("a") == hits


def test_a_key_depends_on_everything_that_a_score_depends_on(tmp_path: Path) -> None:
    base = snapshot(TINY, tmp_path / "base")
    other_base = snapshot(TINY, tmp_path / "other")
    (other_base / "tiny/judge.py").write_text("changed\n")
    data = tmp_path / "data"
    data.mkdir()

    def fixed(target: Target = TINY, base: Path = base, data: Path | None = None, device: str = "cpu") -> str:
        return fingerprint(target, base, [RECIPE], data, device)

    plain = fixed()
    variants = {fixed(base=other_base), fixed(data=data), fixed(device="H200"), fixed(replace(TINY, threads=2))}
    variants |= {fixed(replace(TINY, variables={"x": "1"})), fixed(replace(TINY, judge=("other",))), plain}
    (data / "manifest.json").write_text("{}")
    variants.add(fixed(data=data))
    assert len(variants) == 8
    rung = TINY.rungs[0]
    jobs = [job(), job(seed=1), job(edited("RATE = 0.5", "RATE = 0.6")), replace(job(), split="lockbox")]
    jobs.append(replace(job(), replicate=1))
    keys = {cache_key(plain, rung, one) for one in jobs}
    keys |= {cache_key(plain, replace(rung, tokens=9), job()), cache_key("other", rung, job())}
    assert len(keys) == 7
    assert cache_key(plain, rung, job(name="e9")) in keys


def test_a_key_depends_on_what_decides_the_attention_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = snapshot(TINY, tmp_path / "base")
    without = fingerprint(TINY, base, [RECIPE], None, "H100")
    for package in ("flash_attn", "flash_attn_3"):
        folder = tmp_path / package
        (folder / f"{package}-2.8.dist-info").mkdir(parents=True)
        (folder / f"{package}-2.8.dist-info" / "METADATA").write_text(f"Name: {package}\nVersion: 2.8\n")
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder)
            assert fingerprint(TINY, base, [RECIPE], None, "H100") != without
    (tmp_path / "flash_attn_interface.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert fingerprint(TINY, base, [RECIPE], None, "H100") != without


def test_checkpoints_that_are_asked_for_are_there_although_the_score_was_known(tmp_path: Path) -> None:
    with pool(TINY, tmp_path / "first", cache=tmp_path / "cache") as executor:
        run(executor, job())
    base = snapshot(TINY, tmp_path / "second" / "base")
    executor = LocalPool(TINY, tmp_path / "second", base, cache=Cache(tmp_path / "cache"), keep_checkpoints=True)
    try:
        (found,) = run(executor, job(name="e2"))
    finally:
        executor.close()
    assert found.source_evaluation_id is None
    assert (tmp_path / "second/evaluations/e2/model.json").is_file()


def test_the_device_model_is_the_gpus_or_the_processors() -> None:
    assert device_model(["H200", "H200"]) == "H200"
    assert device_model([])


ENGINE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from fitness_cases import job, running
from fitness.pool import LocalPool
from fitness.workspace import snapshot
folder = Path(sys.argv[1])
target, files = running(f"import os, time; open({str(folder)!r} + '/pid', 'w').write(str(os.getpid())); time.sleep(60)")
executor = LocalPool(target, folder, snapshot(target, folder / "base"), None, 1)
executor.submit(job(files))
executor.wait(1.5)
raise SystemExit
"""


def test_an_engine_that_ends_without_closing_leaves_nothing_running(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", ENGINE, str(tmp_path), str(Path(__file__).parent)], check=True, timeout=20)
    pid = int((tmp_path / "pid").read_text())
    assert eventually(lambda: not is_alive(pid))


def test_a_target_without_feeder_counts_its_wall_time(tmp_path: Path) -> None:
    target, files = running("import json; json.dump({'loss': 1}, open('result.json', 'w'))")
    with pool(target, tmp_path) as executor:
        (found,) = run(executor, job(files))
    assert found.tokens is None
    assert found.train_seconds is not None
    assert 0 < found.train_seconds <= found.wall_seconds
    assert ALONE.judge == ()
