import itertools
import math

import pytest
import torch
from torch import nn

from gantune import plugins
from gantune.building import build_networks
from gantune.config import Component
from gantune.errors import PluginError
from gantune.models import r3gan
from gantune.models.networks import ImageShape, Networks, PointShape, ToMaps, halvings, residual_width, shape_of

SIZES = (8, 9, 13, 15, 16, 28, 31, 32, 50, 64, 128)
SMALL = {
    "mlp": {"hidden": 4, "depth": 1, "z_dim": 3},
    "dcgan": {"width": 4, "z_dim": 3},
    "resnet": {"width_g": 4, "width_d": 4, "depth": 1, "z_dim": 3},
    "r3gan": {"width": 4, "z_dim": 3, "group_width": 4},
}
NORMED = ("mlp", "dcgan", "resnet")
NORMALISATIONS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d, nn.LocalResponseNorm
)  # fmt: skip


def choices(name, option):
    return plugins.options(plugins.resolve("architecture", name))[option].choices


NORM_PAIRS = [
    (name, norm_g, norm_d)
    for name in NORMED
    for norm_g in choices(name, "norm_g")
    for norm_d in choices(name, "norm_d")
]  # every choice that a space may make
CONDITIONAL = [
    *((name, {}) for name in SMALL),
    ("resnet", {"norm_g": "none", "norm_d": "none"}),
    ("resnet", {"norm_g": "layer"}),
    ("dcgan", {"norm_d": "spectral"}),
    ("mlp", {"norm_d": "spectral"}),
]

each_architecture = pytest.mark.parametrize("name", SMALL)
each_norm = pytest.mark.parametrize(("name", "norm_g", "norm_d"), NORM_PAIRS)
each_conditional = pytest.mark.parametrize(("name", "options"), CONDITIONAL, ids=str)


def build(name, shape, seed=0, **options):
    chosen = {**SMALL.get(name, {}), **options}
    return build_networks(Component(name=name, options=tuple(sorted(chosen.items()))), shape, seed)


def pair(networks):
    return networks.generator, networks.discriminator


def latents(networks, count=3):
    return torch.randn(count, networks.z_dim, generator=torch.Generator().manual_seed(0))


def noise(shape, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *shape.dims, generator=generator) * 2 - 1


def modules(network, *kinds):
    return [module for module in network.modules() if isinstance(module, kinds)]


def tensors(networks):
    return [tensor for network in pair(networks) for tensor in network.state_dict().values()]


def enlarge(network):
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1000)


def assert_keeps_the_contract(networks, shape):
    labels = (torch.arange(3) % shape.classes,) if networks.conditional else ()
    for training in (True, False):
        networks.generator.train(training)
        networks.discriminator.train(training)
        samples = networks.generator(latents(networks), *labels)
        assert samples.shape == (3, *shape.dims)
        assert len(shape.dims) == 1 or samples.abs().max() <= 1
        logits = networks.discriminator(samples, *labels)
        assert logits.shape == (3,)
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@each_architecture
def test_networks_of_every_size_draw_and_judge_pictures_of_that_size(name, size, channels):
    shape = ImageShape(channels, size)
    assert_keeps_the_contract(build(name, shape), shape)


@pytest.mark.parametrize("size", [8, 15, 50])
@each_conditional
def test_conditional_networks_of_every_size_draw_and_judge_pictures_of_that_size(name, options, size):
    shape = ImageShape(3, size, classes=2)
    networks = build(name, shape, conditional=True, **options)
    assert networks.conditional
    assert_keeps_the_contract(networks, shape)


@pytest.mark.parametrize("size", [8, 9, 28])
@each_norm
def test_every_normalisation_builds_and_keeps_the_contract(name, norm_g, norm_d, size):
    shape = ImageShape(1, size)
    assert_keeps_the_contract(build(name, shape, norm_g=norm_g, norm_d=norm_d), shape)


@pytest.mark.parametrize("group_width", [1, 3, 5, 7, 64])
def test_groups_that_do_not_divide_the_channels_keep_the_contract(group_width):
    shape = ImageShape(1, 16)
    assert_keeps_the_contract(build("r3gan", shape, width=5, expansion=3, group_width=group_width), shape)


def others(option):
    """Values of an option other than its default."""
    if option.kind is bool:
        return [not option.default]
    if option.choices:
        return [choice for choice in option.choices if choice != option.default]
    return [2 * max(option.default, 4)]


ALTERNATIVES = [
    (name, option.name, value)
    for name in SMALL
    for option in plugins.options(plugins.resolve("architecture", name)).values()
    for value in others(option)
]


@pytest.mark.parametrize("size", [8, 15, 16])
@pytest.mark.parametrize(("name", "option", "value"), ALTERNATIVES)
def test_no_option_of_an_architecture_is_idle(name, option, value, size):
    shape = ImageShape(1, size, classes=2)
    usual = {**SMALL[name], **{key: 8 for key in ("group_width",) if name == "r3gan"}}
    usual.pop(option, None)
    plain, changed = build(name, shape, **usual), build(name, shape, **{**usual, option: value})
    assert repr(pair(plain)) != repr(pair(changed))


@each_norm
def test_the_gradient_of_a_game_reaches_every_weight_of_both_networks(name, norm_g, norm_d):
    networks = build(name, ImageShape(1, 16), norm_g=norm_g, norm_d=norm_d)
    networks.discriminator(networks.generator(latents(networks))).sum().backward()
    for network in pair(networks):
        for label, weight in network.named_parameters():
            assert weight.grad is not None, label
            assert torch.isfinite(weight.grad).all(), label


@pytest.mark.parametrize(
    ("name", "options"), [*CONDITIONAL, ("resnet", {"attention": True, "spectral_g": True})], ids=str
)
def test_the_gradient_of_a_conditional_game_reaches_every_weight_of_both_networks(name, options):
    networks = build(name, ImageShape(1, 16, classes=3), conditional=True, **options)
    labels = torch.tensor([0, 1, 2])
    networks.discriminator(networks.generator(latents(networks), labels), labels).sum().backward()
    for network in pair(networks):
        for label, weight in network.named_parameters():
            assert weight.grad is not None, label
            assert torch.isfinite(weight.grad).all(), label


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_depth_is_the_number_of_hidden_layers_of_each_network(depth):
    for network in pair(build("mlp", ImageShape(1, 8), depth=depth)):
        assert len(modules(network, nn.Linear)) == depth + 1


def test_width_counts_the_channels_next_to_the_picture_and_doubles_inwards_to_eight_times():
    networks = build("dcgan", ImageShape(1, 128), width=4)
    down = [module.out_channels for module in modules(networks.discriminator, nn.Conv2d)]
    up = [module.in_channels for module in modules(networks.generator, nn.ConvTranspose2d)]
    assert down == [4, 8, 16, 32, 32]
    assert up == down[::-1]


@pytest.mark.parametrize("size", range(8, 129))
def test_sides_halve_rounded_up_until_four_to_seven_pixels(size):
    sides = halvings(size)
    assert sides[0] == size
    assert all(inner == math.ceil(outer / 2) for outer, inner in itertools.pairwise(sides))
    assert 4 <= sides[-1] <= 7 < sides[-2]


@pytest.mark.parametrize("side", [4, 8, 31, 32, 33, 50, 64, 65, 100, 128])
@pytest.mark.parametrize("width", [4, 16, 100, 1024])
def test_residual_widths_are_constant_to_32_pixels_and_halve_for_each_doubling_beyond(width, side):
    doublings = max(0, math.ceil(math.log2(side / 32)))
    assert residual_width(width, side) == max(4, width // 2**doublings)


@pytest.mark.parametrize(("size", "channels"), [(16, 32), (32, 32), (64, 16), (128, 8)])
def test_residual_networks_have_their_widths_channels_inside_and_fewer_next_to_large_pictures(size, channels):
    shape = ImageShape(1, size)
    narrow = build("r3gan", shape, width=32)
    assert modules(narrow.discriminator, nn.Conv2d)[0].out_channels == channels
    assert modules(narrow.generator, nn.Conv2d)[-1].in_channels == channels
    assert modules(narrow.discriminator, nn.Linear)[-1].in_features == 32
    plain = build("resnet", shape, width_g=32, width_d=16)
    assert modules(plain.generator, nn.Conv2d)[-1].in_channels == channels
    assert modules(plain.discriminator, nn.Linear)[-1].in_features == 16


@each_architecture
def test_even_a_batch_of_one_gives_one_logit(name):
    networks = build(name, ImageShape(1, 8))
    assert networks.discriminator(noise(ImageShape(1, 8), 1)).shape == (1,)


@each_architecture
def test_pictures_reach_both_ends_of_their_range_and_never_leave_it(name):
    networks = build(name, ImageShape(1, 8))
    enlarge(networks.generator)
    pictures = networks.generator(latents(networks))
    assert pictures.min() == -1
    assert pictures.max() == 1


@pytest.mark.parametrize("conditional", [False, True])
def test_points_are_unbounded(conditional):
    shape = PointShape(2, classes=3)
    networks = build("mlp", shape, conditional=conditional)
    assert_keeps_the_contract(networks, shape)
    enlarge(networks.generator)
    labels = (torch.arange(3),) if conditional else ()
    assert networks.generator(latents(networks), *labels).abs().max() > 100


@pytest.mark.parametrize("coordinates", [1, 2, 7])
@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_points_of_any_number_of_coordinates_keep_the_contract_under_every_normalisation(coordinates, norm):
    shape = PointShape(coordinates)
    assert_keeps_the_contract(build("mlp", shape, norm_g=norm, norm_d=norm), shape)


@pytest.mark.parametrize("name", [name for name in SMALL if name != "mlp"])
def test_convolutions_refuse_points_with_a_plugin_error(name):
    with pytest.raises(PluginError, match=f"`{name}`.*points of 2 coordinates"):
        build(name, PointShape(2))


def test_shapes_are_pictures_or_points_and_nothing_else():
    assert shape_of((3, 8, 8), 2) == ImageShape(3, 8, 2)
    assert shape_of((2,), 0) == PointShape(2, 0)
    for dims in [(), (3, 8), (3, 8, 9), (1, 3, 8, 8)]:
        with pytest.raises(ValueError, match="pictures"):
            shape_of(dims, 0)


@each_architecture
def test_logits_are_not_squashed(name):
    networks = build(name, ImageShape(1, 8), **({"norm_d": "none"} if name in NORMED else {}))
    enlarge(networks.discriminator)
    assert networks.discriminator(noise(ImageShape(1, 8))).abs().max() > 100


@pytest.mark.parametrize(("name", "norm_g", "norm_d"), [pair for pair in NORM_PAIRS if pair[0] != "resnet"])
def test_a_layer_without_a_bias_is_followed_by_a_normalisation_that_has_one(name, norm_g, norm_d):
    for network in pair(build(name, ImageShape(1, 28), norm_g=norm_g, norm_d=norm_d)):
        layers = list(network)
        for place, layer in enumerate(layers):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and layer.bias is None:
                rest = (found for found in layers[place + 1 :] if not isinstance(found, ToMaps))
                assert next(rest).bias is not None


@pytest.mark.parametrize(
    ("name", "options", "mixes"),
    [
        *((name, {"norm_d": norm_d}, norm_d == "batch") for name in NORMED for norm_d in choices(name, "norm_d")),
        ("resnet", {"attention": True}, False),
        ("r3gan", {}, False),
    ],
)
def test_only_batch_norm_lets_a_logit_depend_on_the_other_pictures(name, options, mixes):
    shape = ImageShape(1, 16)
    discriminator = build(name, shape, **options).discriminator
    pictures = noise(shape).requires_grad_(True)
    (slope,) = torch.autograd.grad(discriminator(pictures)[0], pictures)
    assert slope[0].abs().max() > 0
    assert (slope[1:].abs().max() > 1e-9) == mixes


@pytest.mark.parametrize("size", [8, 9, 13, 14, 16])
@pytest.mark.parametrize("side", ["norm_g", "norm_d"])
@pytest.mark.parametrize("name", NORMED)
def test_every_normalisation_makes_another_network_at_the_smallest_sizes_too(name, side, size):
    shape = ImageShape(1, size)
    kinds = choices(name, side)
    built = [pair(build(name, shape, **{side: kind}))[side == "norm_d"] for kind in kinds]
    assert len({repr(network) for network in built}) == len(kinds)
    counts = {kind: len(modules(network, *NORMALISATIONS)) for kind, network in zip(kinds, built, strict=True)}
    assert all((count > 0) == (kind not in ("none", "spectral")) for kind, count in counts.items())


@pytest.mark.parametrize("norm_d", ["batch", "layer", "instance"])
def test_a_dcgan_of_eight_pixels_judges_otherwise_under_a_normalisation(norm_d):
    shape = ImageShape(1, 8)
    plain, normed = (build("dcgan", shape, norm_d=kind).discriminator for kind in ("none", norm_d))
    for network in (plain, normed):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.constant_(module.weight, 0.1)
    assert not torch.allclose(plain(noise(shape)), normed(noise(shape)))


SPECTRAL = {
    "mlp": {"norm_d": "spectral", "depth": 3},
    "dcgan": {"norm_d": "spectral"},
    "resnet": {"norm_d": "spectral", "attention": True},
}


def spectral_layers(network, conditional):
    """Every layer with a weight matrix of both kinds, and the embedding of a projection."""
    return modules(network, nn.Conv2d, nn.ConvTranspose2d, nn.Linear, *([nn.Embedding] if conditional else []))


def assert_bounded_by_one(layers):
    assert len(layers) > 1
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
        assert float(largest.detach()) == pytest.approx(1.0, rel=0.02), layer


@pytest.mark.parametrize("size", [8, 16])
@pytest.mark.parametrize("name", SPECTRAL)
def test_spectral_norm_bounds_every_layer_of_the_discriminator_by_one(name, size):
    shape = ImageShape(1, size, classes=3)
    conditional = name == "resnet"
    discriminator = build(name, shape, conditional=conditional, **SPECTRAL[name]).discriminator
    with torch.no_grad():
        for weight in discriminator.parameters():
            weight.mul_(30)
    labels = (torch.arange(3),) if conditional else ()
    for _ in range(100):
        discriminator(noise(shape), *labels)
    assert_bounded_by_one(spectral_layers(discriminator, conditional))


def test_spectral_norm_bounds_every_layer_of_a_generator_that_asks_for_it():
    networks = build("resnet", ImageShape(1, 16), spectral_g=True, attention=True)
    for _ in range(100):
        networks.generator(latents(networks))
    assert_bounded_by_one(spectral_layers(networks.generator, False))
    free = build("resnet", ImageShape(1, 16), norm_d="none", attention=True)
    assert not any(hasattr(layer, "parametrizations") for network in pair(free) for layer in network.modules())


def attentions(network):
    """The modules whose own weight is one number."""
    return [module for module in network.modules() if getattr(getattr(module, "weight", None), "shape", None) == ()]


def passed(module, call):
    """What goes into a module and what comes out of it during a call."""
    kept = []
    handle = module.register_forward_hook(lambda module, given, returned: kept.append((given[0], returned)))
    call()
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("size", SIZES)
def test_attention_starts_as_the_identity_and_looks_at_no_more_than_32_pixels_a_side(size):
    shape = ImageShape(1, size)
    networks = build("resnet", shape, attention=True)
    calls = (lambda: networks.generator(latents(networks)), lambda: networks.discriminator(noise(shape)))
    for network, call in zip(pair(networks), calls, strict=True):
        (attention,) = attentions(network)
        given, returned = passed(attention, call)
        assert torch.equal(given, returned)
        assert given.shape[-1] <= 32
        assert given.shape[-1] >= min(32, size // 2)
        with torch.no_grad():
            attention.weight.fill_(1.0)
        given, returned = passed(attention, call)
        assert not torch.equal(given, returned)


def test_attention_lets_every_position_see_every_other():
    (attention,) = attentions(build("resnet", ImageShape(1, 16), attention=True).discriminator)
    maps = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    with torch.no_grad():
        attention.weight.fill_(1.0)
    (slope,) = torch.autograd.grad(attention(maps)[0, :, 0, 0].sum(), maps)
    assert (slope.abs().sum(1) > 0).all()


@pytest.mark.parametrize("depth", [1, 3])
def test_blocks_of_r3gan_start_as_the_identity(depth):
    shape = ImageShape(1, 16)
    networks = build("r3gan", shape, depth=depth)
    calls = (lambda: networks.generator(latents(networks)), lambda: networks.discriminator(noise(shape)))
    for network, call in zip(pair(networks), calls, strict=True):
        blocks = modules(network, r3gan._Block)
        assert len(blocks) == depth * len(halvings(16))
        for block in blocks:
            given, returned = passed(block, call)
            assert given.abs().max() > 0
            assert torch.equal(given, returned)
            with torch.no_grad():
                block.layers[-1].weight.fill_(0.1)
            given, returned = passed(block, call)
            assert not torch.equal(given, returned)


@pytest.mark.parametrize("conditional", [False, True])
def test_r3gan_contains_no_normalisation(conditional):
    for network in pair(build("r3gan", ImageShape(3, 64, classes=2), conditional=conditional)):
        assert modules(network, *NORMALISATIONS) == []
        assert not any(hasattr(module, "parametrizations") for module in network.modules())
        assert {name.rpartition(".")[2] for name, _ in network.named_buffers()} <= {"taps"}


def test_r3gan_keeps_the_variance_of_its_maps_at_the_start():
    shape = ImageShape(1, 32)
    networks = build("r3gan", shape, width=64, z_dim=64)
    basis = networks.generator.layers[0]
    given, _ = passed(basis, lambda: networks.generator(latents(networks, 64)))
    assert float(given.detach().std()) == pytest.approx(1.0, rel=0.2)


@each_conditional
def test_a_conditional_generator_depends_on_each_samples_own_label(name, options):
    networks = build(name, ImageShape(1, 8, classes=3), conditional=True, **options)
    generator = networks.generator.eval()
    for embedding in modules(generator, nn.Embedding):
        nn.init.normal_(embedding.weight, generator=torch.Generator().manual_seed(1))
    same = latents(networks, 1).expand(4, -1)
    pictures = generator(same, torch.tensor([0, 1, 2, 1]))
    assert torch.allclose(pictures[1], pictures[3], atol=1e-6)
    for one, two in ((0, 1), (0, 2), (1, 2)):
        assert (pictures[one] - pictures[two]).abs().max() > 1e-4


@each_conditional
def test_the_logits_of_a_conditional_discriminator_depend_on_each_samples_own_label(name, options):
    shape = ImageShape(1, 8, classes=3)
    discriminator = build(name, shape, conditional=True, **options).discriminator.eval()
    logits = discriminator(noise(shape, 1).expand(4, -1, -1, -1), torch.tensor([0, 1, 2, 1])).tolist()
    assert logits[1] == pytest.approx(logits[3], rel=1e-4)
    assert len({round(logit, 7) for logit in logits[:3]}) == 3


@pytest.mark.parametrize("name", SMALL)
def test_networks_that_are_not_conditional_know_no_classes(name):
    networks = build(name, ImageShape(1, 8, classes=3))
    assert not networks.conditional
    assert all(modules(network, nn.Embedding) == [] for network in pair(networks))
    assert_keeps_the_contract(networks, ImageShape(1, 8))


@each_architecture
def test_a_conditional_architecture_refuses_data_without_labels_and_says_so(name):
    with pytest.raises(PluginError, match=rf"`{name}`.*needs labels.*the data have none; use conditional: false"):
        build(name, ImageShape(1, 8), conditional=True)


def test_a_conditional_mlp_refuses_points_without_labels_and_says_so():
    with pytest.raises(PluginError, match="needs labels"):
        build("mlp", PointShape(2), conditional=True)


@pytest.mark.parametrize("norm_g", ["batch", "layer", "instance"])
def test_a_class_conditional_normalisation_has_no_scale_and_shift_of_its_own(norm_g):
    shape = ImageShape(1, 16, classes=3)
    told = build("resnet", shape, norm_g=norm_g, conditional=True).generator
    norms = modules(told, *NORMALISATIONS)
    assert norms
    assert all(norm.weight is None and norm.bias is None for norm in norms)
    assert len(modules(told, nn.Embedding)) == 2 * len(norms)
    untold = modules(build("resnet", shape, norm_g=norm_g).generator, *NORMALISATIONS)
    assert len(untold) == len(norms)
    assert all(norm.weight is not None and norm.bias is not None for norm in untold)


@pytest.mark.parametrize("norm_g", ["batch", "layer", "instance"])
def test_a_class_conditional_normalisation_starts_without_a_preference(norm_g):
    networks = build("resnet", ImageShape(1, 16, classes=3), norm_g=norm_g, conditional=True)
    generator, same = networks.generator.eval(), latents(networks)
    assert torch.equal(generator(same, torch.zeros(3, dtype=torch.int64)), generator(same, torch.tensor([2, 1, 0])))
    assert generator(same, torch.tensor([2, 1, 0])).std() > 0


@pytest.mark.parametrize("size", [8, 9, 16])
@pytest.mark.parametrize("name", ["dcgan", "resnet"])
def test_kinds_of_upsampling_draw_other_pictures_from_the_same_weights(name, size):
    shape = ImageShape(1, size)
    nearest, bilinear = (build(name, shape, upsampling=kind) for kind in ("nearest", "bilinear"))
    assert all(torch.equal(one, two) for one, two in zip(tensors(nearest), tensors(bilinear), strict=True))
    one, two = (networks.generator.eval()(latents(networks)) for networks in (nearest, bilinear))
    assert not torch.allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("upsampling", ["transposed", "nearest", "bilinear"])
def test_every_kind_of_upsampling_draws_pictures_of_every_size(upsampling, size):
    shape = ImageShape(1, size)
    networks = build("dcgan", shape, upsampling=upsampling)
    assert_keeps_the_contract(networks, shape)
    assert bool(modules(networks.generator, nn.ConvTranspose2d)) == (upsampling == "transposed")


def test_a_dcgan_starts_from_weights_of_standard_deviation_two_hundredths():
    for network in pair(build("dcgan", ImageShape(3, 32), width=16)):
        layers = modules(network, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
        weights = torch.cat([layer.weight.detach().flatten() for layer in layers])
        assert float(weights.std()) == pytest.approx(0.02, rel=0.05)
        assert abs(float(weights.mean())) < 0.001


@pytest.mark.parametrize("size", [8, 16])
def test_a_dcgan_has_no_batch_norm_next_to_the_picture(size):
    networks = build("dcgan", ImageShape(1, size))
    last = modules(networks.generator, nn.ConvTranspose2d, nn.BatchNorm2d)[-1]
    first = modules(networks.discriminator, nn.Conv2d, nn.BatchNorm2d)[:2]
    assert isinstance(last, nn.ConvTranspose2d)
    assert all(isinstance(module, nn.Conv2d) for module in first)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {"norm_g": norm_g, "norm_d": norm_d}) for name, norm_g, norm_d in NORM_PAIRS),
        ("r3gan", {}),
        ("resnet", {"attention": True, "spectral_g": True}),
        *((name, {"conditional": True}) for name in SMALL),
    ],
)
def test_the_same_seed_gives_equal_weights_and_another_seed_others(name, options):
    shape = ImageShape(1, 16, classes=2)
    first = tensors(build(name, shape, 5, **options))
    torch.randn(7)  # the state of the global stream does not matter
    again, other = (tensors(build(name, shape, seed, **options)) for seed in (5, 6))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(first, other, strict=True))


@pytest.mark.parametrize("conditional", [False, True])
@each_architecture
def test_building_leaves_the_global_stream_of_randomness_alone(name, conditional):
    before = torch.get_rng_state()
    build(name, ImageShape(1, 8, classes=2), conditional=conditional, **SPECTRAL.get(name, {}))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("conditional", [False, True])
@each_architecture
def test_the_check_of_the_contract_leaves_the_networks_as_they_were_built(name, conditional):
    shape = ImageShape(1, 16, classes=2)
    options = {**SMALL[name], **SPECTRAL.get(name, {}), "conditional": conditional}
    built = build(name, shape, 3, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        plain = plugins.resolve("architecture", name)(shape, **options)
    assert all(torch.equal(one, two) for one, two in zip(tensors(built), tensors(plain), strict=True))
    assert all(module.training for network in pair(built) for module in network.modules())
    assert all(weight.grad is None for network in pair(built) for weight in network.parameters())


@each_architecture
def test_a_failed_build_leaves_the_global_stream_of_randomness_alone(name):
    before = torch.get_rng_state()
    with pytest.raises(PluginError):
        build(name, ImageShape(1, 8), nonsense=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "option"),
    [("mlp", "width"), ("dcgan", "hidden"), ("dcgan", "depth"), ("resnet", "width"), ("r3gan", "norm_d")],
)
def test_an_option_of_another_architecture_is_a_plugin_error_that_names_it(name, option):
    with pytest.raises(PluginError, match=option):
        build(name, ImageShape(1, 8), **{option: 4})


@pytest.mark.parametrize("side", ["norm_g", "norm_d"])
@pytest.mark.parametrize("name", NORMED)
def test_an_unknown_normalisation_is_a_plugin_error_and_never_none_in_silence(name, side):
    with pytest.raises(PluginError, match="spektral"):
        build(name, ImageShape(1, 16), **{side: "spektral"})


@pytest.mark.parametrize("name", ["dcgan", "resnet"])
def test_an_unknown_kind_of_upsampling_is_a_plugin_error_that_names_the_architecture(name):
    with pytest.raises(PluginError, match=name):
        build(name, ImageShape(1, 16), upsampling="sharp")


def test_an_unknown_architecture_is_a_plugin_error_that_offers_the_nearest():
    with pytest.raises(PluginError, match="did you mean `dcgan`"):
        build("dcgam", ImageShape(1, 8))


class Calls(nn.Module):
    """A network that is a function of its arguments."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *given):
        return self.function(*given)


def pictures_of(shape, size=None, z_dim=2):
    size = size or shape.size
    pixels = nn.Linear(z_dim, shape.channels * size**2)
    return nn.Sequential(pixels, nn.Tanh(), nn.Unflatten(1, (shape.channels, size, size)))


def logits_of(shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape.channels * shape.size**2, 1), nn.Flatten(0))


def a_pair_of_networks(shape, *, z_dim=2):
    return Networks(pictures_of(shape, z_dim=z_dim), logits_of(shape), z_dim)


def a_tuple_of_networks(shape):
    networks = a_pair_of_networks(shape)
    return networks.generator, networks.discriminator


def nothing(shape):
    return None


def a_failing_architecture(shape):
    raise ValueError("needs pictures of 256 pixels")


def pictures_too_large(shape):
    return Networks(pictures_of(shape, shape.size + 1), Calls(lambda seen: seen.flatten(1).sum(1)), 2)


def points_for_pictures(shape):
    return Networks(nn.Linear(2, 2), Calls(lambda seen: seen.flatten(1).sum(1)), 2)


def pictures_out_of_range(shape):
    return Networks(Calls(lambda latents: torch.full((len(latents), *shape.dims), 1.5)), logits_of(shape), 2)


def a_column_of_logits(shape):
    return Networks(pictures_of(shape), nn.Sequential(nn.Flatten(), nn.Linear(shape.size**2, 1)), 2)


def one_logit_for_all(shape):
    return Networks(pictures_of(shape), Calls(lambda seen: seen.mean()), 2)


def a_logit_a_pixel(shape):
    return Networks(pictures_of(shape), nn.Identity(), 2)


def a_generator_that_ignores_labels(shape):
    return Networks(pictures_of(shape), Calls(lambda seen, labels: seen.flatten(1).sum(1)), 2, True)


def latents_of_another_size(shape):
    return Networks(pictures_of(shape), logits_of(shape), 5)


def pictures_and_a_mask(shape):
    generator = pictures_of(shape)
    return Networks(Calls(lambda latents: (generator(latents), None)), Calls(lambda seen: seen[0].flatten(1).sum(1)), 2)


def logits_and_features(shape):
    return Networks(pictures_of(shape), Calls(lambda seen: (seen.flatten(1).sum(1), seen)), 2)


def test_an_architecture_of_ones_own_keeps_the_same_contract():
    shape = ImageShape(3, 9)
    networks = build(f"{__name__}:a_pair_of_networks", shape, z_dim=5)
    assert networks.z_dim == 5
    assert_keeps_the_contract(networks, shape)


@pytest.mark.parametrize(("function", "got"), [(a_tuple_of_networks, "tuple"), (nothing, "NoneType")])
def test_an_architecture_that_returns_something_else_than_networks_is_a_plugin_error(function, got):
    with pytest.raises(PluginError, match=rf"{function.__name__}.*must return Networks, got {got}"):
        build(f"{__name__}:{function.__name__}", ImageShape(1, 8))


def test_an_architecture_that_fails_is_a_plugin_error_with_its_reason_and_the_shape():
    with pytest.raises(PluginError, match=r"cannot be built for 1x8x8: needs pictures of 256 pixels"):
        build(f"{__name__}:a_failing_architecture", ImageShape(1, 8))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (pictures_too_large, r"must give \(2, 1, 8, 8\), got \(2, 1, 9, 9\)"),
        (points_for_pictures, r"must give \(2, 1, 8, 8\), got \(2, 2\)"),
        (pictures_out_of_range, r"must give pictures in \[-1, 1\], got 1\.5"),
        (a_column_of_logits, r"one logit a sample, \(2,\), got \(2, 1\)"),
        (one_logit_for_all, r"one logit a sample, \(2,\), got \(\)"),
        (a_logit_a_pixel, r"one logit a sample, \(2,\), got \(2, 1, 8, 8\)"),
        (a_generator_that_ignores_labels, "fails on a batch of 2 for 1x8x8"),
        (latents_of_another_size, "fails on a batch of 2 for 1x8x8"),
        (pictures_and_a_mask, "tuple"),
        (logits_and_features, "tuple"),
    ],
)
def test_networks_that_do_not_keep_the_contract_are_a_plugin_error_that_names_them(function, reason):
    with pytest.raises(PluginError, match=f"{function.__name__}`.*{reason}"):
        build(f"{__name__}:{function.__name__}", ImageShape(1, 8, classes=2))


FAILURES = (ValueError, TypeError, RuntimeError, KeyError, IndexError, ZeroDivisionError, AssertionError, OSError)
CRASH = {"error": ValueError}


def crash(*given):
    raise CRASH["error"]("of all things")


def a_generator_that_crashes(shape):
    return Networks(Calls(crash), logits_of(shape), 2)


def a_discriminator_that_crashes(shape):
    return Networks(pictures_of(shape), Calls(crash), 2)


def an_architecture_that_crashes(shape):
    return crash()


@pytest.mark.parametrize("error", FAILURES)
@pytest.mark.parametrize(
    "function", [a_generator_that_crashes, a_discriminator_that_crashes, an_architecture_that_crashes]
)
def test_networks_that_crash_are_a_plugin_error_that_names_them_and_the_reason(monkeypatch, function, error):
    monkeypatch.setitem(CRASH, "error", error)
    before = torch.get_rng_state()
    with pytest.raises(PluginError, match=f"{function.__name__}`.*of all things"):
        build(f"{__name__}:{function.__name__}", ImageShape(1, 8))
    assert torch.equal(torch.get_rng_state(), before)


def unbounded_points(shape):
    return Networks(Calls(lambda latents: 100 * latents), Calls(lambda seen: seen.sum(1)), 2)


def test_points_of_ones_own_architecture_may_lie_anywhere():
    shape = PointShape(2)
    assert_keeps_the_contract(build(f"{__name__}:unbounded_points", shape), shape)
