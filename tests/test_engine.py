"""The loop, traced with the scripted executor: order, budgets, stopping, resuming, determinism."""

import random
from pathlib import Path

import pytest
from landscape_run import ScriptedRun, law

from evolve.errors import OnlyFailures
from fitness.evaluation import Job
from population.individuals import Genotype, Operator, Status


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[object, ...]]:
    run = ScriptedRun(tmp_path_factory.mktemp("whole"), slots=1)
    assert run.engine.run() is not None
    return run.lineage_told()


def test_a_run_bred_by_every_local_operator_carries_many_genes_at_once(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, births=97)
    run.engine.run()
    people = run.lineage.individuals()
    assert [person.birth for person in people[:97]] == list(range(97))
    assert len(people) <= 98, "at most one more, the last challenger"
    local = {Operator.BASELINE, Operator.KNOB, Operator.RECOMBINE, Operator.DROP}
    assert {person.operator for person in people} == local
    assert max(len(person.genotype.genes) for person in people) >= 4
    assert all(person.parents for person in people if person.birth)


@pytest.mark.parametrize(("slots", "order"), [(2, 1), (4, 2), (4, 3)])
def test_workers_and_the_order_of_endings_do_not_change_the_lineage(
    tmp_path: Path, uninterrupted: list[tuple[object, ...]], slots: int, order: int
) -> None:
    run = ScriptedRun(tmp_path, slots=slots, order=order)
    run.engine.run()
    assert run.lineage_told() == uninterrupted


class Cut(Exception):
    """Stands for kill -9 in a process that must live on."""


@pytest.mark.parametrize("seed", range(4))
def test_a_run_cut_at_random_moments_ends_as_if_it_had_not_been(
    tmp_path: Path, uninterrupted: list[tuple[object, ...]], seed: int
) -> None:
    draw = random.Random(seed)
    ran: list[str] = []
    for _ in range(50):
        run = ScriptedRun(tmp_path, slots=3, order=draw.random())
        script, left = law(0), draw.randrange(5, 40)

        def cutting(job: Job, script=script, left=left, done=[0]) -> float | Status:  # noqa: B006
            done[0] += 1
            if done[0] > left:
                raise Cut
            ran.append(job.evaluation_id)
            return script(job)

        run.executor._script = cutting
        try:
            run.engine.run()
        except Cut:
            run.lineage.close()
            continue
        break
    assert run.lineage_told() == uninterrupted
    assert len(ran) == len(set(ran)), "a recorded evaluation was run again"


def test_stopping_in_order_records_what_was_done_and_confirms_nothing(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    run.engine._watch = lambda progress: run.engine.stop() if progress.births >= 20 else None
    assert run.engine.run() is None
    assert run.engine.stopping
    assert not any(e.split == "lockbox" for e in run.lineage.evaluations().values())


def test_the_evaluation_budget_is_never_exceeded_and_decides_alike_at_any_number_of_workers(tmp_path: Path) -> None:
    told = []
    for slots in (1, 4):
        (folder := tmp_path / str(slots)).mkdir()
        run = ScriptedRun(folder, slots=slots, order=slots, evaluations=60)
        run.engine.run()
        assert 45 <= len(run.lineage.evaluations()) <= 60
        told.append(run.lineage_told())
    assert told[0] == told[1]


def test_a_base_that_cannot_be_scored_ends_the_run_with_its_log(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    run.executor._script = lambda _job: Status.CRASHED
    with pytest.raises(OnlyFailures, match="could not be scored"):
        run.engine.run()


def test_failures_of_candidates_are_data_and_the_run_goes_on(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    script = run.executor._script
    run.executor._script = lambda job: Status.CRASHED if job.genotype.genes and hash(job.patch) % 3 else script(job)
    assert run.engine.run() is not None
    evaluations = run.lineage.evaluations().values()
    assert sum(e.status is Status.CRASHED for e in evaluations) > 10
    assert all(e.score is None for e in evaluations if e.status is not Status.OK)


def test_no_birth_sees_results_later_than_its_lag_allows(tmp_path: Path) -> None:
    """Change what birth 20 scored: births up to 31 stay as they were."""
    tampered: list[list[tuple[object, ...]]] = []
    for shift in (0.0, 0.5):
        (folder := tmp_path / str(shift)).mkdir()
        run = ScriptedRun(folder, slots=1)
        strategy, script = run.engine._strategy, law(0)

        def shifted(job: Job, strategy=strategy, script=script, shift=shift) -> float | Status:
            born = strategy._births
            is_20 = len(born) > 20 and job.genotype == born[20].genotype
            answer = script(job)
            return answer - shift if is_20 and isinstance(answer, float) else answer

        run.executor._script = shifted
        run.engine.run()
        tampered.append([(i.birth, i.genotype) for i in run.lineage.individuals()])
    assert tampered[0][:32] == tampered[1][:32]
    assert tampered[0][32:] != tampered[1][32:]


def test_confirmation_uses_fresh_seeds_and_the_lockbox_for_both_arms(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, births=121, slots=4)
    confirmation = run.engine.run()
    assert confirmation is not None
    assert confirmation.champion.genes
    fresh = [e for e in run.lineage.evaluations().values() if e.split == "lockbox"]
    searched = {e.seed for e in run.lineage.evaluations().values() if e.split != "lockbox"}
    assert {e.genotype for e in fresh} == {confirmation.champion, Genotype()}
    assert not searched & {e.seed for e in fresh}
    assert confirmation.lockbox_uses == len(fresh)
    assert confirmation.contrast is not None
    assert confirmation.contrast.estimate < 0


def test_the_forecast_is_near_what_the_run_takes(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, births=121)
    run.engine.score_base()
    forecast = run.engine.forecast()
    run.engine.evolve()
    assert forecast.evaluations == pytest.approx(len(run.lineage.evaluations()), rel=0.3)
    assert forecast.detectable is not None
    assert forecast.detectable > run.engine.noise_floor.sd / 2
