"""The bundled target on real GPUs, small and short: fed, compiled, trained, served, judged, and compiled once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from evolve.hardware import cuda_gpus
from evolve.target_files import load_target
from fitness.evaluation import Evaluation, Job
from fitness.gpus import Gpu
from fitness.pool import LocalPool
from fitness.prepare import prepare
from fitness.workspace import read_base, snapshot
from population.individuals import Genotype, Status

pytestmark = pytest.mark.gpu
SMALL = {"corpus": "stdlib", "vocab_size": "1024", "shards": "0", "sequence_len": "256", "device_batch_size": "8"}
SHOWS = (
    "import torch\nraise SystemExit(f'sees {torch.cuda.device_count()}: {torch.ones(2, device=\"cuda\").sum():.0f}')\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuda")


@pytest.fixture
def score(folder: Path, tmp_path: Path) -> Iterator[object]:
    """Return a function that scores the base, or other files, on the first so many GPUs."""
    pools: list[LocalPool] = []

    def run(name: str, gpus: int = 1, **files: str) -> Evaluation:
        whole = load_target("nanochat", "d4", SMALL)
        command = (*whole.rungs[0].command, "--total-batch-size", "65536")
        rung = replace(whole.rungs[0], command=command, gpus=float(gpus), tokens=16 * 65536, eval_tokens=65536)
        target = replace(whole, rungs=(rung,))
        base = snapshot(target, tmp_path / "base")
        data = prepare(target, base, folder / "data")
        if not pools:
            mine: list[Gpu] = list(cuda_gpus()[:gpus])
            pools.append(LocalPool(target, tmp_path, base, data, 1, gpus=mine, compiled=tmp_path / "compiled"))
        text = {
            **read_base(base, target.editable).files,
            **{f"nanochat/{stem}.py": code for stem, code in files.items()},
        }
        pools[0].submit(Job(name, Genotype(), text, "", "full", 0))
        (found,) = pools[0].wait(900)
        return found

    yield run
    for pool in pools:
        pool.close()


def test_the_base_is_scored_on_a_gpu_and_the_second_time_without_compiling(score) -> None:
    first, second = score("e1"), score("e2")
    assert [first.status, second.status] == [Status.OK, Status.OK], first.log_tail + second.log_tail
    assert (first.integrity, first.tokens) == ("judged", 16 * 65536)
    assert first.kernel in {"fa3", "flash", "flex", "sdpa"}
    assert first.device == cuda_gpus()[0].name
    assert (first.flops or 0) > 0
    assert (first.peak_memory_bytes or 0) > 0
    assert abs((first.score or 0) - (second.score or 9)) < 0.05
    assert (second.train_seconds or 0) < 0.7 * (first.train_seconds or 0)


def test_a_child_of_the_fork_server_can_use_the_one_gpu_that_it_sees(score) -> None:
    assert "sees 1: 2" in score("e1", base_train=SHOWS).log_tail


@pytest.mark.skipif(len(cuda_gpus()) < 2, reason="needs two GPUs")
def test_one_run_trains_on_two_gpus(score) -> None:
    found = score("e1", gpus=2)
    assert found.status is Status.OK, found.log_tail
    assert found.tokens == 16 * 65536
