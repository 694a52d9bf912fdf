"""Credit: planted effects come back, and posterior intervals cover them."""

import numpy as np
import pytest

from population.credit import SHARED_MEAN, Credit, Design, Observation, Scales, estimate, fit

TRUTH = Scales(noise=1.0, effect=1.0, slope=0.3)
SEEDS = 4


def plant(number: int, n: int = 160, p: int = 24) -> tuple[dict[str, float], list[Observation]]:
    draw = np.random.default_rng(number)
    names = [f"g{j:02d}" for j in range(p)]
    effects, slopes = draw.normal(0, TRUTH.effect, p), draw.normal(0, TRUTH.slope, (p, SEEDS))
    blocks = draw.normal(50, 5, SEEDS)
    rows: list[Observation] = []
    for i in range(n):
        seed, carried = i % SEEDS, np.flatnonzero(draw.random(p) < 0.5)
        gain = blocks[seed] + (effects + slopes[:, seed])[carried].sum() + draw.normal(0, TRUTH.noise)
        rows.append(Observation(tuple(names[j] for j in carried), seed, float(gain)))
    return dict(zip(names, effects, strict=True)), rows


def learn(rows: list[Observation]) -> Credit:
    design = Design.of(rows)
    return fit(design, estimate(design, Scales.guess(2.0), 2.0))


def test_intervals_of_planted_effects_cover_them_with_estimated_scales():
    covered, errors = [], []
    for number in range(30):
        truth, rows = plant(number)
        credit = learn(rows)
        for gene, value in truth.items():
            effect = credit.effect(gene)
            covered.append(abs(value - effect.mean) < 1.645 * effect.sd)
            errors.append(value - effect.mean)
    assert np.mean(covered) == pytest.approx(0.90, abs=0.035)
    assert np.mean(errors) == pytest.approx(0.0, abs=0.05)


def test_intervals_of_whole_genotypes_cover_them():
    covered = []
    for number in range(30):
        truth, rows = plant(number + 100)
        credit = learn(rows)
        for row in rows[:20]:
            gain = credit.predict(row.genes)
            covered.append(abs(sum(truth[g] for g in row.genes) - gain.mean) < 1.645 * gain.sd)
    assert np.mean(covered) == pytest.approx(0.90, abs=0.06)


def test_scales_come_back_from_data():
    found = [estimate(Design.of(plant(n, 400)[1]), Scales.guess(3.0), 3.0) for n in range(8)]
    assert np.mean([s.noise for s in found]) == pytest.approx(1.0, abs=0.15)
    assert np.mean([s.effect for s in found]) == pytest.approx(1.0, abs=0.25)
    assert np.mean([s.slope for s in found]) == pytest.approx(0.3, abs=0.12)


def test_the_posterior_is_that_of_the_whole_model_written_out():
    _, rows = plant(7, 40, 6)
    credit = fit(Design.of(rows), TRUTH)
    x = np.array([[float(g in row.genes) for g in credit.genes] for row in rows])
    same = np.array([[float(a.seed == b.seed) for a in rows] for b in rows])
    blocks = np.array([[float(row.seed == seed) for seed in range(SEEDS)] for row in rows])
    shared = x @ x.T
    prior = TRUTH.effect**2 * (np.eye(6) + SHARED_MEAN)
    v = np.eye(40) + TRUTH.slope**2 * shared * same + x @ prior @ x.T
    inverse = np.linalg.inv(v)
    projected = inverse - inverse @ blocks @ np.linalg.inv(blocks.T @ inverse @ blocks) @ blocks.T @ inverse
    mean = prior @ x.T @ projected @ np.array([row.gain for row in rows])
    covariance = prior - prior @ x.T @ projected @ x @ prior
    assert credit.mean == pytest.approx(mean, abs=1e-9)
    assert credit.covariance == pytest.approx(covariance, abs=1e-9)


def test_a_shift_of_all_scores_at_one_seed_changes_nothing():
    _, rows = plant(3)
    moved = [Observation(r.genes, r.seed, r.gain + 1000.0 * (r.seed == 2)) for r in rows]
    assert fit(Design.of(moved), TRUTH).mean == pytest.approx(fit(Design.of(rows), TRUTH).mean, abs=1e-6)


def test_a_gene_never_evaluated_has_the_prior():
    effect = learn(plant(1)[1]).effect("unheard of")
    assert (effect.mean, effect.n, effect.p_positive) == (0.0, 0, 0.5)


def test_little_evidence_is_shrunk_towards_zero():
    rows = [Observation((), 0, 0.0), Observation(("a",), 0, 2.0)]
    effect = fit(Design.of(rows), TRUTH).effect("a")
    assert 0 < effect.mean < 1


def test_what_two_genotypes_share_cancels_in_their_difference():
    credit = learn(plant(2)[1])
    difference = credit.difference(("g00", "g01", "g02"), ("g01", "g02"))
    assert difference.mean == pytest.approx(credit.effect("g00").mean)
    assert difference.sd == pytest.approx(credit.effect("g00").sd)


def test_no_evaluations_leave_the_scales_where_they_start():
    assert estimate(Design.of([]), TRUTH, 1.0) == TRUTH
