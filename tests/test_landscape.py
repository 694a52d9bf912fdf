"""The landscape keeps its promises: what is planted can be measured, and nothing else is there."""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from evolve.target_files import load_target, skip_flags
from evolve.targets.landscape import score as landscape
from evolve.targets.landscape.score import BASE, BASE_LOSS, RESIDUAL_SD, TooFar, law, score, truth
from fitness.workspace import read_base
from population.knobs import find_knobs, moves

ROOT = Path(landscape.__file__).parent
SEEDS = range(400)


def of_kind(instance: int, kind: str) -> list[str]:
    """Return the knobs of this kind that never crash."""
    knobs, crashing, _ = law(instance)
    return [name for name, knob in knobs.items() if knob.kind == kind and name not in crashing]


def at(name: str, z: float) -> float:
    """Return the value of a knob at z doublings."""
    if name in ("KNOB_07", "KNOB_09", "KNOB_16", "KNOB_34", "KNOB_35"):  # near 1
        return 1 - (1 - BASE[name]) * 2**z
    return BASE[name] * 2**z


def contrasts(instance: int, values: dict[str, float], steps: int = 1000) -> list[float]:
    """Return the score of these values minus that of the base, seed by seed."""
    return [score(instance, values, str(values), s, steps) - score(instance, {}, "base", s, steps) for s in SEEDS]


def assert_mean(sample: list[float], expected: float) -> None:
    """Assert that the mean lies within four standard errors of what is expected."""
    assert abs(statistics.fmean(sample) - expected) < 4 * statistics.stdev(sample) / math.sqrt(len(sample))


def test_the_base_in_the_score_is_the_base_in_the_knobs() -> None:
    assert landscape.read_values((ROOT / "knobs.py").read_text()) == BASE
    assert len(BASE) == 40


def test_main_effects_are_recovered_by_averaging_over_seeds() -> None:
    for name in of_kind(0, "improvable")[:4] + of_kind(0, "tuned")[:4]:
        values = {name: at(name, 1)}
        assert_mean(contrasts(0, values), law(0)[0][name].effect(1.0))


def test_a_planted_pair_acts_only_when_both_knobs_are_moved() -> None:
    knobs, crashing, strengths = law(0)
    (a, b), strength = max(
        ((pair, s) for pair, s in strengths.items() if not crashing & set(pair)), key=lambda found: abs(found[1])
    )
    both = {a: at(a, 1), b: at(b, 1)}
    mains = knobs[a].effect(1.0) + knobs[b].effect(1.0)
    epistasis = strength * landscape.moved(1.0) ** 2
    assert abs(strength) > RESIDUAL_SD
    assert truth(0, {a: both[a]}) + truth(0, {b: both[b]}) - 2 * BASE_LOSS == pytest.approx(mains)
    assert_mean(contrasts(0, both), mains + epistasis)


def test_the_same_tree_on_the_same_seed_scores_the_same_and_a_comment_is_another_tree() -> None:
    assert score(0, {}, "tree", 1) == score(0, {}, "tree", 1)
    assert score(0, {}, "tree", 1) != score(0, {}, "tree with a comment", 1)


def test_an_unread_knob_changes_the_residual_and_nothing_else() -> None:
    name = of_kind(0, "unread")[0]
    moved = {name: at(name, 6)}
    assert truth(0, moved) == truth(0, {})
    assert score(0, moved, "tree", 1) == score(0, {}, "tree", 1)
    sample = contrasts(0, moved)
    assert_mean(sample, 0.0)
    assert statistics.stdev(sample) == pytest.approx(math.sqrt(2) * RESIDUAL_SD, rel=0.15)


def test_each_read_knob_has_a_slope_over_seeds_of_its_planted_size() -> None:
    knobs = law(0)[0]
    for name in of_kind(0, "neutral"):
        slope_sd = knobs[name].slope_sd
        assert 0.1 * RESIDUAL_SD <= slope_sd <= 1.5 * RESIDUAL_SD
        expected = math.hypot(math.sqrt(2) * RESIDUAL_SD, slope_sd * landscape.moved(1.0))
        assert statistics.stdev(contrasts(0, {name: at(name, 1)})) == pytest.approx(expected, rel=0.15)


def test_slopes_spread_over_their_whole_range() -> None:
    sds = [k.slope_sd / RESIDUAL_SD for i in range(20) for k in law(i)[0].values() if k.kind != "unread"]
    logs = [math.log(sd / 0.1) / math.log(15) for sd in sds]  # uniform on (0, 1)
    assert statistics.fmean(logs) == pytest.approx(0.5, abs=0.05)
    assert statistics.pstdev(logs) == pytest.approx(math.sqrt(1 / 12), abs=0.02)


def test_fewer_steps_are_noisier_and_biased() -> None:
    name = of_kind(0, "unread")[0]
    full, screen = (contrasts(0, {name: at(name, 1)}, steps) for steps in (1000, 100))
    assert statistics.stdev(screen) > 1.5 * statistics.stdev(full)
    knob = max((law(0)[0][n] for n in of_kind(0, "neutral")), key=lambda k: abs(k.bias))
    neutral = next(n for n, k in law(0)[0].items() if k is knob)
    assert_mean(contrasts(0, {neutral: at(neutral, 1)}, 100), knob.bias * landscape.moved(1.0) * (math.sqrt(10) - 1))


def test_a_knob_moved_too_far_crashes() -> None:
    knobs, crashing, _ = law(0)
    assert len(crashing) == 6
    for name in crashing:
        cliff = knobs[name].cliff
        assert math.isfinite(truth(0, {name: at(name, 0.99 * cliff)}))
        with pytest.raises(TooFar, match=name):
            truth(0, {name: at(name, 1.01 * cliff)})


@pytest.mark.parametrize(("name", "value"), [("KNOB_00", 0.0), ("KNOB_00", -0.3), ("KNOB_07", 1.0), ("KNOB_16", 0.99)])
def test_a_knob_moved_across_zero_or_one_crashes(name: str, value: float) -> None:
    with pytest.raises(TooFar, match=f"{name} = {value}: must stay on its side of"):
        landscape.doublings(name, value)


def test_doublings_of_a_knob_near_one_are_those_of_its_distance() -> None:
    assert landscape.doublings("KNOB_07", 0.9) == pytest.approx(1.0)
    assert landscape.doublings("KNOB_16", 1.01) == pytest.approx(-1.0)
    assert landscape.doublings("KNOB_29", 2.0) == 1.0


def test_a_hundred_instances_differ_and_all_can_be_improved_by_doubling_or_halving_one_knob() -> None:
    best = [min(_moves(instance)) for instance in range(100)]
    assert max(best) < BASE_LOSS - RESIDUAL_SD
    assert len(set(best)) == 100


def test_most_moves_that_matter_do_harm_and_about_44_percent_do_nothing() -> None:
    gains = [BASE_LOSS - loss for instance in range(20) for loss in _moves(instance)]
    neutral = sum(abs(gain) < 1e-12 for gain in gains) / len(gains)
    harmful = sum(gain < -1e-12 for gain in gains) / len(gains)
    assert 0.40 < neutral < 0.48
    assert 0.38 < harmful < 0.50


def _moves(instance: int) -> list[float]:
    """Return the true loss after each single doubling or halving that does not crash."""
    return [loss for name in BASE for loss in _true(instance, name, (at(name, 1), at(name, -1)))]


def _true(instance: int, name: str, values: Iterable[float]) -> list[float]:
    """Return the true loss of each value of one knob that does not crash."""
    losses = []
    for value in values:
        with contextlib.suppress(TooFar):
            losses.append(truth(instance, {name: value}))
    return losses


def run(folder: Path, steps: int = 1000) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "score.py", "--instance", "3", "--seed", "2", "--steps", str(steps)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    for name in ("knobs.py", "score.py"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    return tmp_path


def test_the_command_writes_the_same_number_as_the_function(workspace: Path) -> None:
    knobs = workspace / "knobs.py"
    name = of_kind(3, "improvable")[0]
    knobs.write_text(knobs.read_text() + "# a comment\n")
    assert run(workspace).returncode == 0
    loss = json.loads((workspace / "result.json").read_text())["loss"]
    tree_key = landscape.hashlib.sha256(knobs.read_bytes()).hexdigest()
    assert loss == score(3, {name: BASE[name]}, tree_key, 2)


def test_the_command_reads_knobs_wherever_they_stand(workspace: Path) -> None:
    text = (workspace / "knobs.py").read_text()
    moved = text.replace("KNOB_00 = 0.3", "KNOB_00 = 0.6").replace("knob_31 = 150", "knob_31 = 75")
    moved = moved.replace("KNOB_37=0.2", "KNOB_37=0.4")
    assert landscape.read_values(moved) == {**BASE, "KNOB_00": 0.6, "KNOB_31": 75, "KNOB_37": 0.4}


def test_the_command_ends_badly_when_a_knob_crashes(workspace: Path) -> None:
    knobs = workspace / "knobs.py"
    knobs.write_text(knobs.read_text().replace("KNOB_00 = 0.3", 'KNOB_00 = "fast"'))
    ended = run(workspace)
    assert ended.returncode == 1
    assert "TypeError" in ended.stderr
    assert not (workspace / "result.json").exists()


def test_breeding_finds_forty_knobs_and_every_instance_has_a_reachable_improvement() -> None:
    target = load_target("landscape")
    knobs = find_knobs(read_base(target.root, target.editable), skip_flags(target))
    assert [knob.name.upper() for knob in knobs] == list(BASE)
    for instance in range(100):
        gains = [BASE_LOSS - loss for knob in knobs for loss in _true(instance, knob.name.upper(), moves(knob))]
        assert max(gains) > RESIDUAL_SD


def test_the_bundled_rungs_are_screen_and_full() -> None:
    target = load_target("landscape")
    assert [(rung.name, rung.seeds) for rung in target.rungs] == [("screen", (0,)), ("full", (0, 1, 2, 3))]
