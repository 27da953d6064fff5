import random

import pytest

from gantune.standings import DRAWS, rank


def test_a_finalist_far_ahead_of_its_scatter_is_the_winner():
    first, second = rank({3: [10.0, 10.4, 9.8], 7: [20.0, 21.0, 19.5]})
    assert (first.number, second.number) == (3, 7)
    assert first.probability > 0.99
    assert not first.tied
    assert not second.tied
    assert first.mean == pytest.approx(10.0667, abs=1e-4)
    assert first.deviation == pytest.approx(0.3055, abs=1e-4)


def test_finalists_within_the_scatter_of_their_seeds_are_a_tie():
    standings = rank({1: [10.0, 13.0, 11.0], 2: [10.5, 12.5, 11.2], 3: [40.0, 48.0, 44.0]})
    assert [standing.number for standing in standings if standing.tied] == [1, 2] or {
        standing.number for standing in standings if standing.tied
    } == {1, 2}
    assert standings[-1].number == 3
    assert standings[-1].probability < 0.01


def test_equal_scores_are_a_tie_between_equals():
    standings = rank({1: [5.0, 5.0], 2: [5.0, 5.0]})
    assert all(standing.tied for standing in standings)
    assert standings[0].probability == pytest.approx(0.5, abs=0.05)


def test_probabilities_add_up_and_order_does_not_matter():
    scores = {1: [4.0, 5.0, 6.0], 2: [5.0, 5.5, 6.5], 9: [4.5, 7.0, 6.0]}
    forward, backward = rank(scores), rank(dict(reversed(scores.items())))
    assert sum(standing.probability for standing in forward) == pytest.approx(1)
    assert [standing.number for standing in forward] == [standing.number for standing in backward]
    for one in forward:
        (other,) = [standing for standing in backward if standing.number == one.number]
        assert one.probability == pytest.approx(other.probability, abs=4 / DRAWS**0.5)


def test_a_run_without_a_score_counts_as_the_worst_there_was():
    steady, lucky = rank({1: [6.0, 6.2, 6.1], 2: [5.0, 5.1, None], 3: [30.0, 31.0, 29.0]})[:2]
    assert steady.number == 1
    assert lucky.collapsed == 1
    assert lucky.scores == (5.0, 5.1)
    assert lucky.mean == pytest.approx((5.0 + 5.1 + 31.0) / 3)


def test_scores_below_zero_are_ranked_as_they_are():
    assert [standing.number for standing in rank({1: [-0.1, 0.1], 2: [3.0, 3.1]})] == [1, 2]


@pytest.mark.parametrize("scores", [{}, {1: []}, {1: [4.0]}, {1: [None, None]}])
def test_what_was_not_repeated_or_never_scored_is_not_ranked(scores):
    assert rank(scores) == []


def test_one_finalist_alone_is_no_tie():
    (only,) = rank({4: [3.0, 4.0, 5.0]})
    assert only.probability == 1
    assert not only.tied


def test_the_probability_of_being_best_is_about_how_often_it_is():
    """Two configurations of known means: among searches that gave one 60 to 90%, it was the better as often."""
    stream = random.Random(0)
    right, told = 0, []
    for _ in range(300):
        means = {1: stream.gauss(0, 0.1), 2: stream.gauss(0, 0.1)}
        runs = {number: [2.718 ** stream.gauss(mean, 0.1) for _ in range(3)] for number, mean in means.items()}
        first = rank(runs)[0]
        if 0.6 < first.probability < 0.9:
            told.append(first.probability)
            right += first.number == min(means, key=means.get)
    assert right / len(told) == pytest.approx(sum(told) / len(told), abs=0.1)
