"""The bundled target, for real and very short: prepared, fed, trained, served and judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from evolve.target_files import load_target
from fitness.evaluation import Evaluation, Job
from fitness.gpus import Gpu
from fitness.pool import LocalPool
from fitness.prepare import prepare
from fitness.workspace import read_base, snapshot
from population.individuals import Genotype, Status

pytestmark = pytest.mark.slow
TRAIN = "nanochat/base_train.py"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalPool, dict[str, str]]]:
    folder = tmp_path_factory.mktemp("nanochat")
    whole = load_target("nanochat", "cpu")
    rung = replace(whole.rungs[0], name="short", tokens=5120, eval_tokens=4096)
    target = replace(whole, rungs=(rung,), prepare=(*whole.prepare, "--limit-files", "60"))
    base = snapshot(target, folder / "base")
    data = prepare(target, base, folder / "data")
    one = LocalPool(target, folder, base, data, workers=2)
    yield one, dict(read_base(base, target.editable).files)
    one.close()


def run(executor: LocalPool, *jobs: Job) -> dict[str, Evaluation]:
    for one in jobs:
        executor.submit(one)
    found: dict[str, Evaluation] = {}
    while len(found) < len(jobs):
        found |= {e.evaluation_id: e for e in executor.wait(60)}
    return found


def test_a_patched_constant_changes_the_score_and_the_empty_patch_set_scores_exactly_as_the_base(
    pool: tuple[LocalPool, dict[str, str]],
) -> None:
    executor, base = pool

    flat = 'add("--warmdown-ratio", type=float, default=0.5'

    patched = {**base, TRAIN: base[TRAIN].replace(flat, flat.replace("0.5", "0.1"))}
    assert patched != base
    jobs = [Job(name, Genotype(), files, "", "short", 0) for name, files in (("a", base), ("b", base), ("c", patched))]
    found = run(executor, *jobs)
    assert {e.status for e in found.values()} == {Status.OK}, [e.log_tail for e in found.values()]
    assert found["a"].score == found["b"].score
    assert found["a"].score != found["c"].score
    assert (found["a"].tokens, found["a"].integrity) == (5120, "judged")
    assert found["a"].n_params == found["c"].n_params
    assert len(found["a"].curve) >= 9


def test_the_modules_that_run_are_those_of_the_workspace(pool: tuple[LocalPool, dict[str, str]]) -> None:
    executor, base = pool
    shows = (
        "import sys\nfor n, m in list(sys.modules.items()):\n    n.startswith('nanochat') and print(n, m.__file__)\n"
    )
    files = {**base, TRAIN: base[TRAIN] + f"\n{shows}raise SystemExit('enough')\n"}
    found = run(executor, Job("where", Genotype(), files, "", "short", 0))["where"]
    assert found.status is Status.CRASHED
    lines = [line for line in found.log_tail.splitlines() if line.startswith("nanochat")]
    assert "nanochat.gpt nanochat/gpt.py" in lines, found.log_tail
    assert all(line.split()[1].startswith("nanochat/") for line in lines)


SMALL = {"corpus": "stdlib", "vocab_size": "1024", "shards": "0", "sequence_len": "128", "device_batch_size": "4"}
NARROW = ("--aspect-ratio", "32", "--head-dim", "32", "--total-batch-size", "1024")


@pytest.mark.parametrize("gpus", [1, 2])
def test_a_gpu_preset_starts_one_process_for_each_gpu(tmp_path: Path, gpus: int) -> None:
    """On the CPU, which plays the GPUs: all but the device is the preset's own command."""
    whole = load_target("nanochat", "d4", SMALL)
    command = [word.replace("cuda", "cpu") for word in whole.rungs[0].command]
    rung = replace(whole.rungs[0], command=(*command, *NARROW), gpus=float(gpus), tokens=5120, eval_tokens=4096)
    target = replace(whole, rungs=(replace(rung, timeout_s=120),), prepare=(*whole.prepare, "--limit-files", "60"))
    base = snapshot(target, tmp_path / "base")
    data = prepare(target, base, tmp_path / "data")
    executor = LocalPool(target, tmp_path, base, data, gpus=[Gpu(str(i), "none") for i in range(gpus)])
    try:
        found = run(executor, Job("e", Genotype(), dict(read_base(base, target.editable).files), "", "full", 0))["e"]
    finally:
        executor.close()
    assert found.status is Status.OK, found.log_tail
    assert (found.tokens, found.kernel, found.integrity) == (5120, "sdpa", "judged")
    assert (found.flops or 0) > 5120 * 6 * (found.n_params or 0) / 4
    log = (tmp_path / "evaluations" / "e" / "log.txt").read_text()
    assert f"world_size {gpus}" in log
