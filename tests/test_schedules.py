import math
from itertools import pairwise

import pytest

from gantune import plugins
from gantune.schedules import constant, cosine, linear

SHARES = [index / 200 for index in range(201)]
FALLING = {
    "linear": linear(),
    "linear_late": linear(start=0.5, final=0.1),
    "linear_latest": linear(start=0.99, final=0.25),
    "cosine": cosine(),
    "cosine_early": cosine(end=0.2, final=0.1),
}

each_falling = pytest.mark.parametrize("schedule", FALLING.values(), ids=FALLING)


def test_constant_is_one_at_all_times():
    assert {constant()(share) for share in SHARES} == {1.0}


@pytest.mark.parametrize(
    ("schedule", "at"),
    [
        (linear(), {0: 1, 0.25: 0.75, 0.5: 0.5, 1: 0}),
        (linear(final=0.2), {0: 1, 0.25: 0.8, 0.5: 0.6, 1: 0.2}),
        (linear(start=0.5), {0: 1, 0.5: 1, 0.75: 0.5, 1: 0}),
        (linear(start=0.5, final=3.0), {0: 1, 0.5: 1, 0.75: 2, 1: 3}),
        (cosine(), {0: 1, 1 / 3: 0.75, 0.5: 0.5, 2 / 3: 0.25, 1: 0}),
        (cosine(final=0.2), {0: 1, 1 / 3: 0.8, 0.5: 0.6, 1: 0.2}),
        (cosine(end=0.5, final=0.2), {0: 1, 0.25: 0.6, 0.5: 0.2, 0.75: 0.2, 1: 0.2}),
        (cosine(final=3.0), {0: 1, 0.5: 2, 1: 3}),
    ],
)
def test_schedule_equals_its_formula(schedule, at):
    assert {share: schedule(share) for share in at} == pytest.approx(at, abs=1e-12)


def test_cosine_is_half_a_wave():
    for share in SHARES:
        assert cosine()(share) == pytest.approx(math.cos(math.pi * share / 2) ** 2, abs=1e-12)


@each_falling
def test_schedule_falls_from_one_without_rising_or_jumping(schedule):
    values = [schedule(share) for share in SHARES]
    assert values[0] == 1.0
    assert all(after <= before for before, after in pairwise(values))
    assert all(schedule(share) - schedule(share + 1e-6) < 1e-3 for share in SHARES)


@pytest.mark.parametrize("final", [2.0, 100.0])
@pytest.mark.parametrize("shape", [linear, cosine])
def test_schedule_to_a_higher_factor_rises_throughout(shape, final):
    values = [shape(final=final)(share) for share in SHARES]
    assert all(after > before for before, after in pairwise(values))


@pytest.mark.parametrize("final", [0.0, 0.1, 0.25, 1.0, 100.0])
@pytest.mark.parametrize(
    ("shape", "reached"), [(linear, 1.0), (cosine, 1.0), (lambda final: cosine(end=0.2, final=final), 0.2)]
)
def test_final_factor_is_reached_and_kept(shape, reached, final):
    for share in (reached, (reached + 1.1) / 2, 1.0, 1.1):
        assert shape(final=final)(max(share, reached)) == pytest.approx(final, abs=1e-12)


@pytest.mark.parametrize("name", plugins.BUILTIN["schedule"])
def test_every_schedule_starts_at_one_and_is_never_negative(name):
    schedule = plugins.resolve("schedule", name)()
    assert schedule(0.0) == 1.0
    assert min(schedule(share) for share in SHARES) >= 0.0
