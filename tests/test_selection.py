"""Selection: failures never win, the smaller patch wins within the noise, nothing leaks."""

import random

from population.individuals import Genotype, Individual, Operator
from population.selection import archive, candidates, tournament


def individual(birth: int, n_genes: int) -> Individual:
    genes = (f"{birth:02d}-{i}" for i in range(n_genes))
    return Individual(str(birth), Genotype.of(genes), Operator.KNOB, (), 1, birth)


def test_failures_win_no_tournament_and_enter_no_archive():
    pool = candidates([(individual(b, 2), None if b % 2 else float(b)) for b in range(20)], 0.0)
    winners = {tournament(pool, 4, key).individual.birth for key in range(300)}
    assert winners
    assert all(birth % 2 == 0 for birth in winners)
    assert [c.individual.birth for c in archive(pool, 30)] == list(range(18, -1, -2))


def test_within_the_margin_of_the_best_the_smaller_patch_wins():
    pool = candidates([(individual(1, 9), 5.0), (individual(2, 3), 4.6), (individual(3, 1), 3.0)], 0.5)
    assert [c.individual.birth for c in archive(pool, 3)] == [2, 1, 3]


def test_without_a_margin_the_larger_gain_wins():
    pool = candidates([(individual(1, 9), 5.0), (individual(2, 3), 4.999)], 0.0)
    assert archive(pool, 1)[0].individual.birth == 1


def test_equally_good_and_large_the_larger_gain_wins_within_the_margin():
    pool = candidates([(individual(1, 3), 4.8), (individual(2, 3), 5.0)], 0.5)
    assert archive(pool, 1)[0].individual.birth == 2


def test_a_tournament_follows_from_its_key_and_leaves_the_global_generator_alone():
    pool = candidates([(individual(b, 1), float(b)) for b in range(50)], 0.0)
    random.seed(5)
    expected = random.random()
    random.seed(5)
    first = [tournament(pool, 2, key).individual.birth for key in range(20)]
    assert random.random() == expected
    random.seed(99)
    assert [tournament(pool, 2, key).individual.birth for key in range(20)] == first
    assert len(set(first)) > 5


def test_an_archive_keeps_one_of_each_genotype():
    twin = Individual("twin", individual(1, 2).genotype, Operator.RECOMBINE, (), 2, 30)
    pool = candidates([(individual(1, 2), 3.0), (twin, 3.0), (individual(2, 2), 1.0)], 0.0)
    assert [c.individual.individual_id for c in archive(pool, 3)] == ["1", "2"]
