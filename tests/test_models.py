import pytest
import torch
from torch import nn

from gantune.config import Component
from gantune.errors import PluginError
from gantune.models.networks import ImageShape, Networks
from gantune.trainer import build_networks

SIZES = (8, 9, 12, 16, 28, 31, 32, 50, 64, 128)
SMALL = {"mlp": {"hidden": 4, "depth": 1, "z_dim": 3}, "dcgan": {"width": 4, "z_dim": 3}}
NORMS_G = {"mlp": ("batch", "none"), "dcgan": ("batch", "none")}
NORMS_D = {"mlp": ("layer", "spectral", "none"), "dcgan": ("batch", "layer", "spectral", "none")}
NORM_PAIRS = [
    (name, norm_g, norm_d) for name in SMALL for norm_g in NORMS_G[name] for norm_d in NORMS_D[name]
]  # every choice that a space may make

each_architecture = pytest.mark.parametrize("name", SMALL)
each_norm = pytest.mark.parametrize(("name", "norm_g", "norm_d"), NORM_PAIRS)


def build(name, shape, seed=0, **options):
    chosen = {**SMALL.get(name, {}), **options}
    return build_networks(Component(name=name, options=tuple(sorted(chosen.items()))), shape, seed)


def latents(networks, count=3):
    return torch.randn(count, networks.z_dim, generator=torch.Generator().manual_seed(0))


def noise(shape, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, shape.channels, shape.size, shape.size, generator=generator) * 2 - 1


def assert_keeps_the_contract(networks, shape):
    for training in (True, False):
        networks.generator.train(training)
        networks.discriminator.train(training)
        pictures = networks.generator(latents(networks))
        assert pictures.shape == (3, shape.channels, shape.size, shape.size)
        assert pictures.abs().max() <= 1
        logits = networks.discriminator(pictures)
        assert logits.shape == (3,)
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@each_architecture
def test_networks_of_every_size_draw_and_judge_pictures_of_that_size(name, size, channels):
    shape = ImageShape(channels, size)
    assert_keeps_the_contract(build(name, shape), shape)


@pytest.mark.parametrize("size", [8, 9, 28])
@each_norm
def test_every_normalisation_builds_and_keeps_the_contract(name, norm_g, norm_d, size):
    shape = ImageShape(1, size)
    assert_keeps_the_contract(build(name, shape, norm_g=norm_g, norm_d=norm_d), shape)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_depth_is_the_number_of_hidden_layers_of_each_network(depth):
    networks = build("mlp", ImageShape(1, 8), depth=depth)
    for network in (networks.generator, networks.discriminator):
        assert sum(isinstance(module, nn.Linear) for module in network.modules()) == depth + 1


def test_width_counts_the_channels_next_to_the_picture_and_doubles_inwards_to_eight_times():
    networks = build("dcgan", ImageShape(1, 128), width=4)
    down = [module.out_channels for module in networks.discriminator.modules() if isinstance(module, nn.Conv2d)]
    up = [module.in_channels for module in networks.generator.modules() if isinstance(module, nn.ConvTranspose2d)]
    assert down == [4, 8, 16, 32, 32]
    assert up == down[::-1]


def test_even_a_batch_of_one_gives_one_logit():
    for name in SMALL:
        networks = build(name, ImageShape(1, 8), norm_d="none")
        assert networks.discriminator(noise(ImageShape(1, 8), 1)).shape == (1,)


@each_architecture
def test_pictures_reach_both_ends_of_their_range_and_never_leave_it(name):
    networks = build(name, ImageShape(1, 8))
    with torch.no_grad():
        for weight in networks.generator.parameters():
            weight.mul_(1000)
        pictures = networks.generator(latents(networks))
    assert pictures.min() == -1
    assert pictures.max() == 1


def test_logits_are_not_squashed():
    for name in SMALL:
        networks = build(name, ImageShape(1, 8), norm_d="none")
        with torch.no_grad():
            for weight in networks.discriminator.parameters():
                weight.mul_(1000)
        assert networks.discriminator(noise(ImageShape(1, 8))).abs().max() > 100


@each_norm
def test_the_adversarial_gradient_reaches_every_weight_of_both_networks(name, norm_g, norm_d):
    networks = build(name, ImageShape(1, 16), norm_g=norm_g, norm_d=norm_d)
    networks.discriminator(networks.generator(latents(networks))).sum().backward()
    for network in (networks.generator, networks.discriminator):
        for label, weight in network.named_parameters():
            assert weight.grad is not None, label
            assert torch.isfinite(weight.grad).all(), label


@each_norm
def test_a_layer_without_a_bias_is_followed_by_a_normalisation_that_has_one(name, norm_g, norm_d):
    networks = build(name, ImageShape(1, 28), norm_g=norm_g, norm_d=norm_d)
    for network in (networks.generator, networks.discriminator):
        layers = list(network)
        for place, layer in enumerate(layers):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and layer.bias is None:
                rest = (found for found in layers[place + 1 :] if not isinstance(found, nn.Unflatten))
                assert next(rest).bias is not None


@pytest.mark.parametrize(
    ("name", "norm_d", "mixes"),
    [(name, norm_d, norm_d == "batch") for name in SMALL for norm_d in NORMS_D[name]],
)
def test_only_batch_norm_lets_a_logit_depend_on_the_other_pictures(name, norm_d, mixes):
    shape = ImageShape(1, 16)
    discriminator = build(name, shape, norm_d=norm_d).discriminator
    pictures = noise(shape).requires_grad_(True)
    (slope,) = torch.autograd.grad(discriminator(pictures)[0], pictures)
    assert slope[0].abs().max() > 0
    assert (slope[1:].abs().max() > 1e-9) == mixes


@each_architecture
def test_spectral_norm_bounds_every_layer_of_the_discriminator_by_one(name):
    shape = ImageShape(1, 16)
    discriminator = build(name, shape, norm_d="spectral").discriminator
    for _ in range(100):
        discriminator(noise(shape))
    layers = [module for module in discriminator.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) > 1
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
        assert float(largest.detach()) == pytest.approx(1.0, rel=0.02)


def test_a_dcgan_starts_from_weights_of_standard_deviation_two_hundredths():
    networks = build("dcgan", ImageShape(3, 32), width=16)
    for network in (networks.generator, networks.discriminator):
        weights = torch.cat(
            [
                module.weight.detach().flatten()
                for module in network.modules()
                if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
            ]
        )
        assert float(weights.std()) == pytest.approx(0.02, rel=0.05)
        assert abs(float(weights.mean())) < 0.001


def test_a_dcgan_has_no_batch_norm_next_to_the_picture():
    networks = build("dcgan", ImageShape(1, 16))
    last = [module for module in networks.generator if isinstance(module, nn.ConvTranspose2d | nn.BatchNorm2d)][-1]
    first = [module for module in networks.discriminator if isinstance(module, nn.Conv2d | nn.BatchNorm2d)][:2]
    assert isinstance(last, nn.ConvTranspose2d)
    assert all(isinstance(module, nn.Conv2d) for module in first)


@each_norm
def test_the_same_seed_gives_equal_weights_and_another_seed_others(name, norm_g, norm_d):
    def weights(seed):
        networks = build(name, ImageShape(1, 16), seed, norm_g=norm_g, norm_d=norm_d)
        return [*networks.generator.parameters(), *networks.discriminator.parameters()]

    first = weights(5)
    torch.randn(7)  # the state of the global stream does not matter
    assert all(torch.equal(one, two) for one, two in zip(first, weights(5), strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(first, weights(6), strict=True))


@each_architecture
def test_building_leaves_the_global_stream_of_randomness_alone(name):
    before = torch.get_rng_state()
    build(name, ImageShape(1, 8), norm_d="spectral")
    assert torch.equal(torch.get_rng_state(), before)


@each_architecture
def test_a_failed_build_leaves_the_global_stream_of_randomness_alone(name):
    before = torch.get_rng_state()
    with pytest.raises(PluginError):
        build(name, ImageShape(1, 8), nonsense=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "option"), [("mlp", "width"), ("dcgan", "hidden"), ("dcgan", "depth")])
def test_an_option_of_another_architecture_is_a_plugin_error_that_names_it(name, option):
    with pytest.raises(PluginError, match=option):
        build(name, ImageShape(1, 8), **{option: 4})


@pytest.mark.parametrize("side", ["norm_g", "norm_d"])
@each_architecture
def test_an_unknown_normalisation_is_a_plugin_error_and_never_none_in_silence(name, side):
    with pytest.raises(PluginError, match="spektral"):
        build(name, ImageShape(1, 16), **{side: "spektral"})


def test_an_unknown_architecture_is_a_plugin_error_that_offers_the_nearest():
    with pytest.raises(PluginError, match="did you mean `dcgan`"):
        build("dcgam", ImageShape(1, 8))


def a_pair_of_networks(shape, *, z_dim=2):
    pixels = shape.channels * shape.size**2
    generator = nn.Sequential(
        nn.Linear(z_dim, pixels), nn.Tanh(), nn.Unflatten(1, (shape.channels, shape.size, shape.size))
    )
    return Networks(generator, nn.Sequential(nn.Flatten(), nn.Linear(pixels, 1), nn.Flatten(0)), z_dim)


def a_tuple_of_networks(shape):
    networks = a_pair_of_networks(shape)
    return networks.generator, networks.discriminator


def nothing(shape):
    return None


def a_failing_architecture(shape):
    raise ValueError("needs pictures of 256 pixels")


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
