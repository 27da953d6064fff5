"""The best so far, from rows."""

from dataclasses import replace

import pytest

from gantune.curve import best_so_far
from gantune.results import Row


def row(trial, samples_seen, score, at, **given):
    """A healthy report at so many hours."""
    nothing = {"metrics": {}, "seed": 0, "config": "{}", "cause": "", "verdict": "healthy", "evidence": {}}
    told = {"trial": trial, "state": "running", "samples_seen": samples_seen, "score": score, "best_score": score}
    return Row(**told, trial_seconds=0.0, run_seconds=3600.0 * at, **nothing | given)


def steps_of(rows):
    return [(step.trial, step.samples, step.score) for step in best_so_far(rows)]


ROWS = [row(0, 100, 9.0, 1), row(1, 100, 8.0, 2), row(0, 200, 8.5, 3), row(1, 200, 7.0, 4), row(0, 300, 6.0, 5)]


def test_steps_are_where_the_best_falls_with_what_all_trials_had_spent():
    assert steps_of(ROWS) == [(0, 100, 9.0), (1, 200, 8.0), (1, 400, 7.0), (0, 500, 6.0)]
    assert best_so_far(ROWS)[1].hours == pytest.approx(2.0)


def test_trials_that_died_later_were_never_the_best():
    dead = replace(row(1, 300, 99.0, 6), state="collapsed", best_score=7.0)
    assert steps_of([*ROWS, dead]) == [(0, 100, 9.0), (0, 300, 8.5), (0, 500, 6.0)]


def test_a_member_that_died_and_took_over_another_counts_from_there():
    revived = replace(row(1, 200, None, 6), best_score=None, cause="takes over #0 at 300 samples: nothing changed")
    assert steps_of([*ROWS, revived, row(1, 300, 5.0, 7)]) == [
        (0, 100, 9.0),
        (0, 300, 8.5),
        (0, 500, 6.0),
        (1, 600, 5.0),
    ]


def test_finalists_repeats_are_not_of_the_search():
    assert steps_of([*ROWS, replace(ROWS[0], repeat=1, best_score=1.0)]) == steps_of(ROWS)


def test_reports_against_the_constraints_are_no_best():
    assert best_so_far([replace(ROWS[0], best_score=None)]) == ()
