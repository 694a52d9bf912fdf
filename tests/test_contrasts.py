"""Contrasts and spreads: their intervals cover what they promise."""

import numpy as np
import pytest

from population.contrasts import NoiseFloor, TooFewScores, noise_floor, paired, spread


def test_paired_uses_only_seeds_that_both_have():
    contrast = paired({0: 5.0, 1: 6.0, 2: 9.0, 7: 100.0}, {0: 4.0, 1: 4.0, 2: 6.0, 8: -100.0})
    assert (contrast.estimate, contrast.n, contrast.df) == (2.0, 3, 2)


def test_paired_agrees_with_a_table_of_students_t():
    contrast = paired({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.0, 1: 0.0, 2: 0.0})
    half = 4.302653 / 3**0.5  # t(0.975, 2 df) times an se of 1 / sqrt(3)
    assert contrast.ci_low == pytest.approx(2 - half, abs=1e-5)
    assert contrast.ci_high == pytest.approx(2 + half, abs=1e-5)
    assert contrast.p_value == pytest.approx(0.0742, abs=1e-4)


def test_equal_scores_give_a_contrast_of_zero_without_doubt():
    assert paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).p_value == 1.0


def test_one_common_seed_is_too_few():
    with pytest.raises(TooFewScores, match="1 common seeds"):
        paired({0: 1.0, 1: 2.0}, {1: 1.0, 2: 2.0})


def test_paired_interval_covers_the_difference_at_four_seeds_with_large_blocks():
    draw = np.random.default_rng(1)
    blocks = draw.normal(0, 10, (1500, 4))
    a, b = blocks + draw.normal(0.7, 1, (1500, 4)), blocks + draw.normal(0, 1, (1500, 4))
    contrasts = [paired(dict(enumerate(x)), dict(enumerate(y))) for x, y in zip(a, b, strict=True)]
    assert np.mean([c.ci_low < 0.7 < c.ci_high for c in contrasts]) == pytest.approx(0.95, abs=0.02)


def test_spread_interval_covers_the_sd():
    draws = np.random.default_rng(2).normal(3, 2, (1500, 5))
    spreads = [spread(list(scores)) for scores in draws]
    assert np.mean([s.sd_low < 2 < s.sd_high for s in spreads]) == pytest.approx(0.95, abs=0.02)


def test_null_genes_measure_the_sd_of_a_paired_difference_though_they_share_one_base():
    draw = np.random.default_rng(3)
    covered = []
    for _ in range(800):
        blocks = draw.normal(0, 5, 4)
        arms = [dict(enumerate(blocks + draw.normal(0, 1, 4))) for _ in range(4)]
        null = noise_floor(arms[0], arms[1:]).null
        assert null is not None
        covered.append(null.sd_low < 2**0.5 < null.sd_high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.025)


def test_without_null_genes_the_floor_is_the_baseline_over_seeds():
    floor = noise_floor({0: 1.0, 1: 3.0}, [])
    assert floor.null is None
    assert floor.sd == pytest.approx(2**0.5)


def test_one_baseline_seed_promises_no_floor():
    assert noise_floor({0: 1.0}, []) == NoiseFloor(None, None)
