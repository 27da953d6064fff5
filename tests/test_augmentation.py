from functools import partial

import pytest
import torch

from gantune import plugins
from gantune.augmentation import Adaptive, DiffAugment, cutout, flip, recolour, translate

TRANSFORMS = {"recolour": recolour, "translate": partial(translate, share=0.125), "cutout": cutout, "flip": flip}
AUGMENTATIONS = {
    "diffaugment": DiffAugment,
    "ada": lambda **options: at_probability(0.5, **options),
}
OFF = {"color": False, "translation": False, "cutout": False}
SWITCHES = {"color": recolour, "translation": TRANSFORMS["translate"], "cutout": cutout}

each_transform = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
each_augmentation = pytest.mark.parametrize("build", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
each_switch = pytest.mark.parametrize("switch", SWITCHES)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count=64, channels=3, side=8, dtype=torch.float32):
    """No pixel is 0."""
    return torch.rand(count, channels, side, side, generator=stream(7), dtype=dtype) + 0.5


def at_probability(probability, **options):
    augmentation = Adaptive(**options)
    augmentation.probability.fill_(probability)
    return augmentation


def changed(before, after):
    """Which pictures are not what they were."""
    return (before != after).flatten(1).any(1)


def shift_of(before, after, most):
    """The shift that a slow loop finds to explain a picture; None where there is not exactly one."""
    side, found = before.shape[-1], []
    for down in range(-most, most + 1):
        for right in range(-most, most + 1):
            moved = torch.zeros_like(before)
            for row in range(side):
                for column in range(side):
                    if 0 <= row - down < side and 0 <= column - right < side:
                        moved[:, row, column] = before[:, row - down, column - right]
            if torch.equal(moved, after):
                found.append((down, right))
    return found[0] if len(found) == 1 else None


@pytest.mark.parametrize(("side", "share", "most"), [(4, 0.125, 1), (8, 0.125, 1), (5, 0.4, 2)])
def test_translate_shifts_each_picture_by_whole_pixels_and_fills_with_zero(side, share, most):
    before = pictures(150, side=side)
    after = translate(before, share, stream())
    shifts = [shift_of(*pair, most) for pair in zip(before, after, strict=True)]
    assert set(shifts) == {(down, right) for down in range(-most, most + 1) for right in range(-most, most + 1)}


def test_translate_reaches_an_eighth_of_the_side_both_ways_and_no_further():
    before = torch.ones(400, 1, 32, 32)
    after = translate(before, 0.125, stream())
    filled = (after == 0).sum((1, 2, 3))
    assert filled.max() == 32 * 32 - 28 * 28
    assert (filled == 0).any()


@pytest.mark.parametrize("side", [8, 9, 16, 25, 28])
def test_cutout_zeroes_one_square_of_half_the_side_and_nothing_else(side):
    before = pictures(200, side=side)
    after = cutout(before, stream())
    zero = (after == 0).any(1)  # [B, S, S]
    assert torch.equal((after == 0).all(1), zero)
    assert torch.equal(after, torch.where(zero[:, None], torch.zeros(()), before))
    whole = 0
    for hole in zero:
        spans = []
        for along in (hole.any(1), hole.any(0)):
            places = along.nonzero().flatten()
            assert len(places) == places[-1] - places[0] + 1  # without gaps
            spans.append((int(places[0]), int(places[-1])))
        assert hole.sum() == (spans[0][1] - spans[0][0] + 1) * (spans[1][1] - spans[1][0] + 1)
        for first, last in spans:
            length, inside = last - first + 1, first > 0 and last < side - 1
            assert length <= side / 2 + 0.5
            assert not inside or abs(length - side / 2) <= 0.5
            whole += inside
    assert whole > 50


def test_cutout_reaches_every_pixel_and_spares_every_pixel():
    after = cutout(torch.ones(400, 1, 8, 8), stream())
    assert (after == 0).any(0).all()
    assert (after == 1).any(0).all()


def recolouring_of(before, after):
    """The brightness, saturation and contrast that lie in a picture's means, its greys and its colours."""
    grey, grey_after = before.mean(0), after.mean(0)
    brightness = after.mean() - before.mean()
    deviation = (grey - grey.mean()).flatten()
    contrast = (grey_after - grey_after.mean()).flatten() @ deviation / (deviation @ deviation)
    colour = (before - grey).flatten()
    saturation = (after - grey_after).flatten() @ colour / (colour @ colour) / contrast
    return brightness, saturation, contrast


@pytest.mark.parametrize("channels", [1, 3])
def test_recolour_adds_then_scales_colours_about_grey_then_all_about_the_mean(channels):
    before = pictures(channels=channels)
    for old, new in zip(before, recolour(before, stream()), strict=True):
        brightness, saturation, contrast = recolouring_of(old, new)
        step = old + brightness
        if channels == 3:
            step = (step - step.mean(0)) * saturation + step.mean(0)
        step = (step - step.mean()) * contrast + step.mean()
        torch.testing.assert_close(new, step, rtol=1e-4, atol=1e-5)


def test_recolour_draws_its_three_numbers_apart_and_over_their_whole_ranges():
    before = pictures(500, side=4)
    pairs = zip(before, recolour(before, stream()), strict=True)
    found = torch.stack([torch.stack(recolouring_of(*pair)) for pair in pairs]).T  # [3, B]
    for numbers, low, high in zip(found, (-0.5, 0.0, 0.5), (0.5, 2.0, 1.5), strict=True):
        share = (numbers - low) / (high - low)
        assert -1e-3 < share.min() < 0.02
        assert 0.98 < share.max() < 1 + 1e-3
        assert share.mean().item() == pytest.approx(0.5, abs=0.05)
    assert (torch.corrcoef(found) - torch.eye(3)).abs().max() < 0.2


def test_flip_mirrors_left_and_right_in_half_of_the_pictures():
    before = pictures(200)
    after = flip(before, stream())
    mirrored = changed(before, after)
    assert torch.equal(after[mirrored], before[mirrored].flip(-1))
    assert 70 < mirrored.sum() < 130


@each_transform
def test_transform_passes_on_a_gradient_equal_to_differences(transform):
    before = pictures(4, side=6, dtype=torch.float64).requires_grad_(True)
    weights, direction = (torch.randn(before.shape, generator=stream(seed), dtype=torch.float64) for seed in (1, 2))

    def score(samples):
        return (transform(samples, generator=stream()) * weights).sum()

    (slope,) = torch.autograd.grad(score(before), before)
    with torch.no_grad():
        expected = (score(before + 1e-4 * direction) - score(before - 1e-4 * direction)) / 2e-4
    assert (slope * direction).sum().item() == pytest.approx(expected.item(), rel=1e-8)
    assert slope.ne(0).flatten(1).any(1).all()


@each_transform
def test_transform_draws_from_its_generator_alone_and_anew_for_every_picture(transform):
    before, rng = pictures(1).expand(64, -1, -1, -1), torch.get_rng_state()
    first, again, other = (transform(before, generator=stream(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first.unique(dim=0)) >= 2 if transform is flip else len(first.unique(dim=0)) >= 8


@each_transform
def test_transform_keeps_shape_and_precision_and_never_writes_to_its_input(transform):
    for dtype in (torch.float32, torch.float64):
        before = pictures(5, channels=1, side=7, dtype=dtype)
        kept = before.clone()
        after = transform(before, generator=stream())
        assert (after.shape, after.dtype) == (before.shape, dtype)
        assert torch.equal(before, kept)


@each_augmentation
@each_switch
def test_augmentation_with_one_transform_changes_pictures_by_that_one_alone(build, switch):
    augmentation, before = build(**{**OFF, switch: True}), pictures()
    after = augmentation(before, stream())
    touched = changed(before, after)
    full = SWITCHES[switch](before, generator=stream())  # a transform draws first, the probability after it
    assert touched.any()
    assert torch.equal(after[touched], full[touched])


@each_augmentation
def test_augmentation_without_transforms_changes_nothing(build):
    assert torch.equal(build(**OFF)(pictures(), stream()), pictures())


@each_augmentation
def test_augmentation_has_all_transforms_by_default_and_shows_every_option(build):
    augmentation = build()
    assert (augmentation.color, augmentation.translation, augmentation.cutout) == (True, True, True)
    texts = {repr(augmentation), *(repr(build(**{switch: False})) for switch in SWITCHES)}
    assert len(texts) == 4


@each_augmentation
def test_augmentation_passes_the_gradient_on_to_every_picture(build):
    before = pictures().requires_grad_(True)
    build()(before, stream()).sum().backward()
    assert before.grad.isfinite().all()
    assert before.grad.ne(0).flatten(1).any(1).all()


@each_augmentation
def test_augmentation_draws_from_its_generator_alone(build):
    before, rng = pictures(), torch.get_rng_state()
    first, again, other = (build()(before, stream(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_diffaugment_changes_all_pictures_whatever_it_hears():
    augmentation = DiffAugment()
    augmentation.observe(-torch.ones(4), 3)
    assert changed(pictures(), augmentation(pictures(), stream())).all()
    assert augmentation.state_dict() == {}


def test_no_augmentation_is_nothing():
    assert plugins.resolve("augmentation", "none")() is None


def test_adaptive_augmentation_starts_by_leaving_pictures_exactly_as_they_are():
    augmentation = Adaptive()
    assert augmentation.probability == 0
    assert torch.equal(augmentation(pictures(), stream()), pictures())


@each_switch
def test_adaptive_augmentation_changes_the_share_of_pictures_that_its_probability_says(switch):
    before = pictures(1000, side=16)
    full = changed(before, SWITCHES[switch](before, generator=stream()))
    for probability in (0.0, 0.25, 0.75, 1.0):
        after = at_probability(probability, **{**OFF, switch: True})(before, stream())
        share = changed(before, after)[full].float().mean().item()
        assert share == pytest.approx(probability, abs=0.05 if 0 < probability < 1 else 0)


def test_adaptive_augmentation_at_probability_one_changes_all_pictures():
    before = pictures(200)
    assert changed(before, at_probability(1.0)(before, stream())).all()


def test_adaptive_augmentation_decides_on_each_transform_apart():
    before = torch.ones(500, 1, 16, 16)
    after = at_probability(0.5, translation=False)(before, stream())
    recoloured, cut = (after.amax((1, 2, 3)) != 1), (after == 0).any(1).flatten(1).any(1)
    for one in (False, True):
        for other in (False, True):
            assert ((recoloured == one) & (cut == other)).sum() > 60


def heard(augmentation, signs, steps, start=0):
    for step in range(start, start + steps):
        augmentation.observe(torch.tensor(signs), step)
    return augmentation.probability.item()


def test_probability_moves_every_four_steps_by_the_pictures_seen_over_the_speed():
    augmentation = Adaptive(speed_samples=160)
    found = [heard(augmentation, [1.0] * 8, 1, step) for step in range(12)]
    assert found == pytest.approx([0.0] * 3 + [0.2] * 4 + [0.4] * 4 + [0.6])


@pytest.mark.parametrize(
    ("signs", "target", "direction"),
    [
        ([1.0, 1.0, 1.0, 1.0], 0.6, 1),
        ([1.0, 1.0, 1.0, -1.0], 0.6, -1),  # a mean of 0.5
        ([1.0, 1.0, 1.0, -1.0], 0.4, 1),
        ([-1.0, -1.0, -1.0, -1.0], 0.6, -1),
        ([1.0, 1.0, 1.0, -1.0], 0.5, 0),
    ],
)
def test_probability_rises_where_the_mean_sign_exceeds_the_target_and_falls_where_it_does_not(signs, target, direction):
    augmentation = at_probability(0.5, speed_samples=160, target=target)
    assert heard(augmentation, signs, 4) == pytest.approx(0.5 + direction * 0.1)


def test_probability_hears_the_mean_of_the_whole_interval_and_forgets_it_afterwards():
    augmentation = at_probability(0.5, speed_samples=160)
    for step, sign in enumerate([-1.0, 1.0, 1.0, 1.0]):  # a mean of 0.5
        augmentation.observe(torch.full((4,), sign), step)
    assert augmentation.probability.item() == pytest.approx(0.4)
    assert heard(augmentation, [1.0] * 4, 4, start=4) == pytest.approx(0.5)


def test_probability_stays_between_zero_and_one():
    augmentation = Adaptive(speed_samples=10)
    assert heard(augmentation, [-1.0] * 8, 4) == 0.0
    assert heard(augmentation, [1.0] * 8, 8) == 1.0
    assert heard(augmentation, [1.0] * 8, 4) == 1.0


def test_probability_of_the_published_speed_crosses_its_range_in_half_a_million_pictures():
    augmentation = Adaptive()
    assert (augmentation.target, augmentation.speed_samples) == (0.6, 500_000)
    assert heard(augmentation, [1.0] * 2500, 100) == pytest.approx(0.5, rel=1e-4)


def test_state_of_adaptive_augmentation_is_restored_whole_in_the_middle_of_an_interval():
    augmentation, fresh = Adaptive(speed_samples=160), Adaptive(speed_samples=160)
    heard(augmentation, [1.0] * 8, 6)
    fresh.load_state_dict(augmentation.state_dict())
    for one in (augmentation, fresh):
        heard(one, [-1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], 2, start=6)
    assert fresh.probability == augmentation.probability
    assert fresh.probability > 0.3
    assert torch.equal(fresh(pictures(), stream()), augmentation(pictures(), stream()))


def test_adaptive_augmentation_shows_its_target_and_its_speed():
    assert len({repr(Adaptive()), repr(Adaptive(target=0.5)), repr(Adaptive(speed_samples=9))}) == 3
