"""The loop, traced with the scripted executor: order, budgets, stopping, resuming, determinism."""

import random
from pathlib import Path

import pytest
from landscape_run import ScriptedRun, law

from evolve.engine import CONFIRM_SEED
from evolve.errors import OnlyFailures, TooFewEvaluations
from evolve.query import run_query
from evolve.summary import champion_lines
from evolve.target_files import load_target
from fitness.evaluation import Job
from population.individuals import Genotype, Operator, Status


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[object, ...]]:
    run = ScriptedRun(tmp_path_factory.mktemp("whole"), slots=1)
    assert run.engine.run() is not None
    return run.lineage_told()


def test_a_run_bred_by_every_local_operator_carries_many_genes_at_once(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, births=73)
    run.engine.run()
    people = run.lineage.individuals()
    assert [person.birth for person in people] == list(range(73))
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


@pytest.mark.parametrize("seed", range(3))
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


def test_the_last_challenger_is_replicated_without_being_a_birth(
    tmp_path: Path,
) -> None:
    short = ScriptedRun(tmp_path, births=61)
    short.engine.run()
    replicated = {e.genotype for e in short.lineage.evaluations().values() if e.seed >= 1000 and e.split == "val"}
    assert len(replicated) > 1, "a challenger was replicated at the end"
    short.lineage.close()
    longer = ScriptedRun(tmp_path, births=73)
    longer.engine.run()
    (tmp_path / "whole").mkdir()
    whole = ScriptedRun(tmp_path / "whole", births=73)
    whole.engine.run()
    born = [[(i.birth, i.operator, i.genotype) for i in run.lineage.individuals()] for run in (longer, whole)]
    assert born[0] == born[1]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_replicate_seeds_do_not_derail_the_strategy(tmp_path: Path, n: int) -> None:
    run = ScriptedRun(tmp_path, births=97, replicates=n)
    run.engine.run()
    replications = [e for e in run.lineage.evaluations().values() if e.seed in range(1000, 1004) and e.genotype.genes]
    assert len(replications) <= 4 * n


def test_a_champion_that_fails_on_fresh_seeds_is_no_improvement(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, births=121)
    script = law(0)
    run.executor._script = lambda job: (
        Status.CRASHED if job.genotype.genes and job.seed == CONFIRM_SEED else script(job)
    )
    confirmation = run.engine.run()
    assert confirmation is not None
    assert confirmation.failures == 1
    said = champion_lines(confirmation, run.lineage.genes(), run.engine.posterior(), load_target("landscape"))
    assert "not an improvement: 1 of its runs on fresh seeds failed" in said[-1]


def test_a_limit_below_what_the_noise_floor_takes_is_refused_before_anything_runs(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, evaluations=5)
    with pytest.raises(TooFewEvaluations, match="5 evaluations are too few"):
        run.engine.run()
    assert not run.executor.jobs


def test_a_base_that_fails_on_the_cheap_rung_alone_ends_the_run(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    script = law(0)
    run.executor._script = lambda job: Status.CRASHED if job.rung == "screen" else script(job)
    with pytest.raises(OnlyFailures, match='rung "screen"'):
        run.engine.run()


def test_conflicts_and_trees_are_recorded(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, births=97)
    run.engine.run()
    run.engine.publish()
    count = "SELECT (SELECT count(*) FROM conflicts), (SELECT count(*) FROM genotypes WHERE tree_id IS NOT NULL)"
    conflicts, trees = (int(n) for n in str(run_query(tmp_path, count, "csv")).splitlines()[1].split(","))
    assert conflicts > 0
    assert trees > 50
