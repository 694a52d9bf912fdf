"""GPU slots: never oversubscribed, nobody starves, everything ends; and what a child sees of them."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from fitness_cases import ALONE, RECIPE, eventually, job, running, with_rung
from hypothesis import given, settings
from hypothesis import strategies as st

from fitness.gpus import Gpu, GpuSlots, SlotsClosed, check_gpus, jobs_at_once
from fitness.mistakes import TooFewGpus
from fitness.pool import LocalPool
from fitness.target import Target
from fitness.workspace import snapshot
from population.individuals import Status

WANTED = st.sampled_from([0.0, 0.25, 0.5, 1 / 3, 1.0, 2.0, 3.0])


class Ledger:
    """Jobs that hold GPUs, each in a thread of its own, and what they held at the same time."""

    def __init__(self, slots: GpuSlots) -> None:
        self.slots = slots
        self.load: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.held: list[tuple[float, tuple[str, ...]]] = []
        self.lock = threading.Lock()

    def work(self, wanted: float) -> None:
        share = Fraction(wanted).limit_denominator(1000) if wanted < 1 else Fraction(1)
        with self.slots.hold(wanted) as names:
            with self.lock:
                self.held.append((wanted, names))
                for name in names:
                    self.load[name] += share
                    self.most[name] = max(self.most[name], self.load[name])
            time.sleep(0.0005)
            with self.lock:
                for name in names:
                    self.load[name] -= share

    def run(self, wanted: Sequence[float]) -> None:
        threads = [threading.Thread(target=self.work, args=(one,), daemon=True) for one in wanted]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive(), "a job waits for ever"


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 5), st.lists(WANTED, max_size=12))
def test_no_gpu_is_ever_oversubscribed_and_everybody_gets_what_was_wanted(n_gpus: int, wanted: list[float]) -> None:
    ledger = Ledger(GpuSlots([str(i) for i in range(n_gpus)]))
    ledger.run(wanted)
    assert all(load <= 1 for load in ledger.most.values())
    assert Counter(one for one, _ in ledger.held) == Counter(wanted)
    for one, names in ledger.held:
        assert len(set(names)) == len(names) == (0 if one == 0 else max(1, int(one)))
    with ledger.slots.hold(n_gpus) as names:  # all of them are free again
        assert len(names) == n_gpus


def test_two_halves_share_a_gpu_and_a_third_waits() -> None:
    slots = GpuSlots(["0"])
    got: list[tuple[str, ...]] = []

    def third() -> None:
        with slots.hold(0.5) as names:
            got.append(names)

    thread = threading.Thread(target=third)
    with slots.hold(0.5) as first:
        with slots.hold(0.5) as second:
            thread.start()
            time.sleep(0.05)
            assert (first, second, got) == (("0",), ("0",), [])
        thread.join(5)
    assert got == [("0",)]


def test_shares_go_to_the_emptiest_gpu_and_whole_ones_to_nobody_elses() -> None:
    slots = GpuSlots(["a", "b", "c"])
    with slots.hold(0.5) as one, slots.hold(0.5) as two, slots.hold(1) as whole, slots.hold(0.25) as three:
        assert (one, two, whole, three) == (("a",), ("b",), ("c",), ("a",))


def test_who_wants_all_is_not_overtaken_by_those_who_want_one() -> None:
    slots = GpuSlots(["0", "1"])
    order: list[str] = []
    threads: list[threading.Thread] = []

    def hold(name: str, wanted: float) -> None:
        def work() -> None:
            with slots.hold(wanted):
                order.append(name)

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        assert eventually(lambda: len(slots._line) == len(threads))

    with slots.hold(1):
        hold("all", 2)
        for i in range(3):
            hold(f"one {i}", 1)  # a GPU is free, and stays so
        time.sleep(0.02)
        assert order == []
    for thread in threads:
        thread.join(5)
    assert order[0] == "all"
    assert len(order) == 4


def test_closing_sends_everybody_away_who_waits_and_who_comes_later() -> None:
    slots = GpuSlots(["0"])
    ended: list[str] = []

    def wait() -> None:
        try:
            with slots.hold(1):
                ended.append("held")
        except SlotsClosed:
            ended.append("sent away")

    with slots.hold(1):
        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        slots.close()
        for thread in threads:
            thread.join(5)
    assert ended == ["sent away"] * 3
    with pytest.raises(SlotsClosed), slots.hold(1):
        pass


def test_a_gpu_is_free_again_when_its_job_fails() -> None:
    slots = GpuSlots(["0"])
    with pytest.raises(ZeroDivisionError), slots.hold(1):
        _ = 1 / 0
    with slots.hold(1) as names:
        assert names == ("0",)


@pytest.mark.parametrize(
    ("wanted", "n_gpus", "jobs"),
    [((0,), 4, None), ((1,), 4, 4), ((2,), 5, 2), ((0.5,), 3, 6), ((0.3,), 1, 3), ((1, 4), 4, 4), ((0.5, 2), 2, 4)],
)
def test_as_many_jobs_run_at_once_as_the_gpus_hold(wanted: tuple[float, ...], n_gpus: int, jobs: int | None) -> None:
    assert jobs_at_once([replace(ALONE.rungs[0], gpus=one) for one in wanted], n_gpus) == jobs


def test_a_rung_that_wants_more_gpus_than_there_are_is_one_sentence(tmp_path: Path) -> None:
    target = with_rung(ALONE, gpus=2.0)
    check_gpus(target, [Gpu("0", "H100"), Gpu("1", "H100")])
    with pytest.raises(
        TooFewGpus, match=r'The rung "screen" of tiny wants 2 CUDA GPU\(s\) and this process may use 1;'
    ):
        LocalPool(target, tmp_path, snapshot(target, tmp_path / "base"), gpus=[Gpu("0", "H100")])


# children

SHOWS = """import json, os, time
names = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
with open(f"{FOLDER}/{os.getpid()}", "w") as file:
    json.dump([time.monotonic(), *(os.environ.get(name) for name in names)], file)
time.sleep(0.1)
json.dump({"loss": 1.0}, open("result.json", "w"))
"""


def seen(target: Target, tmp_path: Path, gpus: Sequence[Gpu], n_jobs: int) -> list[list[object]]:
    """Run jobs at once, as many as there are workers; return when each began and what it saw, in that order."""
    (tmp_path / "seen").mkdir()
    files = {RECIPE: SHOWS.replace("{FOLDER}", str(tmp_path / "seen"))}
    pool = LocalPool(target, tmp_path, snapshot(target, tmp_path / "base"), None, n_jobs, gpus=gpus)
    try:
        for i in range(n_jobs):
            pool.submit(job(files, f"e{i}", i))
        ended: list[Status] = []
        while len(ended) < n_jobs:
            ended += [e.status for e in pool.wait(20)]
    finally:
        pool.close()
    assert set(ended) == {Status.OK}
    return sorted(json.loads(path.read_text()) for path in (tmp_path / "seen").iterdir())


def test_runs_at_the_same_time_see_one_gpu_each_by_its_own_name(tmp_path: Path) -> None:
    target, _ = running("")
    gpus = [Gpu("3", "H100"), Gpu("GPU-abc", "H100")]
    found = seen(with_rung(target, gpus=1.0), tmp_path, gpus, 4)
    assert Counter(names for _, names, _ in found) == {"3": 2, "GPU-abc": 2}
    assert {order for _, _, order in found} == {"PCI_BUS_ID"}
    began = [start for start, _, _ in found]
    assert began[2] - began[0] > 0.1  # the third waited for the first to end


def test_a_run_on_several_gpus_sees_all_of_its_own(tmp_path: Path) -> None:
    target, _ = running("")
    gpus = [Gpu(str(i), "H100") for i in (5, 1, 7)]
    assert [names for _, names, _ in seen(with_rung(target, gpus=2.0), tmp_path, gpus, 1)] == ["5,1"]


def test_a_run_that_wants_no_gpu_sees_none(tmp_path: Path) -> None:
    target, _ = running("")
    assert [names for _, names, _ in seen(target, tmp_path, [Gpu("0", "H100")], 1)] == [""]
    assert os.environ.get("CUDA_VISIBLE_DEVICES") != ""


def test_closing_ends_jobs_that_wait_for_a_gpu(tmp_path: Path) -> None:
    target, files = running("import time; time.sleep(60)")
    target = with_rung(target, gpus=1.0)
    base = snapshot(target, tmp_path / "base")
    pool = LocalPool(target, tmp_path, base, None, 3, gpus=[Gpu("0", "H100")])
    for i in range(3):
        pool.submit(job(files, f"e{i}", i))
    assert eventually(lambda: len(list((tmp_path / "evaluations").glob("*"))) == 1, 5)
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 3
    assert pool.wait(0.01) == []


def test_what_is_in_the_cache_waits_for_no_gpu(tmp_path: Path) -> None:
    from fitness.cache import Cache

    target, files = running("import json; json.dump({'loss': 1.0}, open('result.json', 'w'))")
    target = with_rung(target, gpus=1.0)
    base = snapshot(target, tmp_path / "base")
    pool = LocalPool(target, tmp_path, base, None, 1, Cache(tmp_path / "cache"), [Gpu("0", "H100")])
    try:
        pool.submit(job(files, "first"))
        assert [e.status for e in pool.wait(20)] == [Status.OK]
        with pool._gpus.hold(1):
            pool.submit(job(files, "again"))
            (hit,) = pool.wait(5)
    finally:
        pool.close()
    assert hit.source_evaluation_id == "first"
    assert hit.device == "H100"
