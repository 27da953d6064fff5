import pytest
import torch
from torch import nn

from gantune import plugins
from gantune.penalties import Judged
from gantune.regularizers import lecam_term

REGULARIZERS = [name for name in plugins.BUILTIN["regularizer"] if name != "none"]
each_regularizer = pytest.mark.parametrize("name", REGULARIZERS)


def built(name, **options):
    return plugins.resolve("regularizer", name)(**options)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count=6, side=8, seed=0):
    return torch.randn(count, 1, side, side, generator=stream(seed))


def weigh(samples):
    """A critic that notices every shift and mirroring."""
    weights = torch.randn(samples[0].shape, generator=stream(1), dtype=samples.dtype)
    return (samples * weights).flatten(1).sum(1)


def told(real, fake):
    """What a step has at hand where only the logits matter."""
    real, fake = torch.as_tensor(real), torch.as_tensor(fake)
    return Judged(judge=None, real=None, fake=None, logits_real=real, logits_fake=fake, generator=None)


def judged(real, judge=weigh, seed=0):
    fake = torch.zeros_like(real)
    return Judged(
        judge=judge, real=real, fake=fake, logits_real=judge(real), logits_fake=judge(fake), generator=stream(seed)
    )


def anchors(term):
    return (term.real / term.share).item(), (term.fake / term.share).item()


@pytest.mark.parametrize("real", [-1e4, -50.0, -1.0, 0.0, 2.0, 50.0, 1e4])
@pytest.mark.parametrize("fake", [-1e4, -50.0, -1.0, 0.0, 2.0, 50.0, 1e4])
def test_lecam_equals_its_formula_and_its_slopes_at_any_logits(real, fake):
    logits = torch.tensor([[real], [fake]], dtype=torch.float64, requires_grad=True)
    anchor_real, anchor_fake = torch.tensor(0.75, dtype=torch.float64), torch.tensor(-0.5, dtype=torch.float64)
    values = lecam_term(*logits, anchor_real, anchor_fake)
    (slopes,) = torch.autograd.grad(values.sum(), logits)
    above, below = max(0.0, real + 0.5), max(0.0, 0.75 - fake)
    assert values.tolist() == [pytest.approx(above**2 + below**2, rel=1e-14)]
    assert slopes.flatten().tolist() == pytest.approx([2 * above, -2 * below], rel=1e-14)


def test_lecam_holds_reals_against_the_fakes_anchor_and_fakes_against_the_reals():
    term = built("lecam")
    values = term(told([3.0, 5.0], [-2.0, -4.0]))  # anchors 4 and -3
    torch.testing.assert_close(values, torch.tensor([36.0 + 36.0, 64.0 + 64.0]))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99, 0.99999])
def test_averages_of_constant_logits_are_those_logits_from_the_first_step_on(decay):
    term = built("lecam", decay=decay)
    for _ in range(5):
        term(told([2.0, 4.0], [-1.0, -7.0]))
        assert anchors(term) == (pytest.approx(3.0, rel=1e-2), pytest.approx(-4.0, rel=1e-2))


def test_averages_weigh_every_batch_by_the_decay_and_add_up_to_one():
    term, decay = built("lecam", decay=0.75), 0.75
    means = [1.0, -2.0, 8.0, 0.5]
    for mean in means:
        term(told([mean - 1, mean + 1], [10 * mean]))
    weights = [decay ** (len(means) - 1 - index) for index in range(len(means))]
    expected = sum(weight * mean for weight, mean in zip(weights, means, strict=True)) / sum(weights)
    assert anchors(term) == (pytest.approx(expected, rel=1e-5), pytest.approx(10 * expected, rel=1e-5))


def test_averages_of_lecam_pass_no_gradient_on():
    real, fake = torch.tensor([3.0], requires_grad=True), torch.tensor([-2.0], requires_grad=True)
    term = built("lecam", decay=0.0)  # the anchors are the logits themselves
    term(told(real, fake)).sum().backward()
    assert real.grad.item() == 10.0  # 2 (3 - -2), and not twice that
    assert fake.grad.item() == -10.0
    assert not any(buffer.requires_grad for buffer in term.buffers())


def test_state_of_lecam_is_restored_whole():
    term, fresh = built("lecam", decay=0.5), built("lecam", decay=0.5)
    for mean in (1.0, 5.0, -2.0):
        term(told([mean], [2 * mean]))
    assert len(term.state_dict()) == 3
    fresh.load_state_dict(term.state_dict())
    for mean in (4.0, 0.25):
        assert torch.equal(term(told([mean], [-mean])), fresh(told([mean], [-mean])))


def test_state_of_lecam_is_its_own():
    first, second = built("lecam"), built("lecam")
    first(told([1.0], [2.0]))
    assert not any(buffer.any() for buffer in second.buffers())


def test_consistency_of_a_critic_that_no_shift_changes_is_zero():
    flat = pictures()

    def count(samples):
        return samples.ne(0).flatten(1).any(1).double()

    assert torch.equal(built("consistency", mirror=True)(judged(flat, count)), torch.zeros(6, dtype=torch.float64))


def test_consistency_is_positive_where_a_shift_changes_the_critic():
    assert built("consistency")(judged(pictures(64))).gt(0).float().mean() > 0.8  # 1 in 9 shifts is none


@pytest.mark.parametrize(("mirror", "shift"), [(False, 0.125), (True, 0.125), (False, 0.5)])
def test_consistency_shows_the_critic_reals_shifted_by_whole_pixels_and_mirrored_only_if_asked(mirror, shift):
    real, shown = pictures(128), []
    term = built("consistency", mirror=mirror, shift=shift)
    at = judged(real, lambda samples: shown.append(samples.detach()) or weigh(samples))
    shown.clear()
    term(at)
    (moved,), most = shown, round(shift * 8)
    mirrored, shifts = 0, set()
    for before, after in zip(real, moved, strict=True):
        padded = nn.functional.pad(before, [most] * 4)
        found = [
            (down, right, way)
            for down in range(2 * most + 1)
            for right in range(2 * most + 1)
            for way in (False, True)
            if torch.equal(_turned(padded[:, down : down + 8, right : right + 8], way), after)
        ]
        assert len(found) == 1
        mirrored += found[0][2]
        shifts.add(found[0][:2])
    assert len(shifts) > (8 if shift == 0.125 else 50)
    assert (40 < mirrored < 88) if mirror else mirrored == 0


def _turned(picture, way):
    return picture.flip(2) if way else picture


def test_consistency_teaches_through_both_logits():
    scale = torch.tensor(1.0, requires_grad=True)
    real = pictures()
    values = built("consistency")(judged(real, lambda samples: scale * weigh(samples)))
    values.sum().backward()
    torch.testing.assert_close(scale.grad, 2 * values.sum().detach())  # (s a - s b)^2 has slope 2 (a - b)^2 at s = 1


def test_consistency_moves_a_copy_of_the_reals_that_is_cut_off_from_them():
    real, seen = pictures().requires_grad_(True), []
    before = real.detach().clone()
    built("consistency")(judged(real, lambda samples: seen.append(samples) or weigh(samples)))
    assert torch.equal(real.detach(), before)
    assert not seen[-1].requires_grad


@each_regularizer
def test_regularizer_gives_one_value_a_sample_and_leaves_the_global_stream_alone(name):
    before = torch.get_rng_state()
    values = built(name)(judged(pictures(5)))
    assert values.shape == (5,)
    assert values.min() >= 0
    assert torch.equal(torch.get_rng_state(), before)


def test_consistency_depends_on_its_generator_alone():
    first, again, other = (built("consistency", mirror=True)(judged(pictures(), seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@each_regularizer
def test_regularizer_has_its_published_weight_and_shows_every_option(name):
    term = built(name)
    assert (term.weight, term.every) == ({"lecam": 0.3, "consistency": 10.0}[name], 1)
    assert name != "lecam" or term.decay == 0.99
    changed = {
        "lecam": {"weight": 1.0, "decay": 0.5},
        "consistency": {"weight": 1.0, "every": 4, "shift": 0.25, "mirror": True},
    }[name]
    assert set(changed) == set(plugins.options(plugins.resolve("regularizer", name)))
    for option, value in changed.items():
        other = built(name, **{option: value})
        assert getattr(other, option) == value
        assert repr(other) != repr(term)


def test_no_regularizer_is_nothing():
    assert built("none") is None
