import errno
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gantune.building import build_networks
from gantune.checkpoint import read_checkpoint, write_checkpoint
from gantune.config import (
    CollapseConfig,
    Component,
    Constraint,
    DataConfig,
    ObjectiveConfig,
    SampleCounts,
    TrialConfig,
)
from gantune.errors import CheckpointError, GantuneError
from gantune.export import WEIGHTS, Generator, export, load_generator, snippets
from gantune.export import folder as folder_module
from gantune.models.networks import ImageShape, PointShape
from gantune.pictures import (
    GAP,
    MOMENT_WIDTH,
    PICTURES,
    POINTS,
    REACH,
    TARGET_WIDTH,
    cloud,
    enough_of_a_moment,
    grid,
    save_samples,
)
from gantune.space import load_trial
from gantune.writing import dump, trial_document

CONFIG = TrialConfig(
    data=DataConfig(dataset="digits", size=16),
    objective=ObjectiveConfig(
        samples=SampleCounts(report=500, final=900),
        reports=7,
        constraints=(Constraint(metric="recall", relation=">=", bound=0.25),),
    ),
    collapse=CollapseConfig(patience=3, warmup=0.1),
    samples=12_345,
    target=1.5,
    seed=2**61 + 7,
    architecture=Component(name="dcgan", options=(("norm_d", "none"), ("norm_g", "batch"), ("width", 4), ("z_dim", 8))),
    loss=Component(name="non_saturating", options=(("label_smoothing", 0.1),)),
    penalty=Component(name="r1", options=(("every", 4), ("weight", 0.3))),
    optimizer=Component(name="adam", options=(("beta1", 0.1 + 0.2), ("beta2", 0.999))),
    optimizer_d=Component(name="sgd", options=(("momentum", 0.0),)),
    lr_g=1.234567890123456e-5,
    lr_d_ratio=2.0,
    batch_size=48,
    ema_halflife_samples=0,
)
GREY, COLOUR, PLANE = ImageShape(1, 16), ImageShape(3, 16), PointShape(2)
MLP = Component(name="mlp", options=(("depth", 2), ("hidden", 16), ("z_dim", 6)))


def told_classes(architecture):
    return replace(architecture, options=(("conditional", True), *architecture.options))


def write_best(path, config=CONFIG, shape=GREY, class_counts=(), class_names=()):
    """A checkpoint of a generator whose weights and running statistics are not those of a fresh one."""
    networks = build_networks(config.architecture, shape, seed=5)
    generator = networks.generator.train()
    stream = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in generator.parameters():
            weight.add_(torch.randn(weight.shape, generator=stream), alpha=0.1)
        labels = (torch.arange(16) % len(class_counts),) if networks.conditional else ()
        for _ in range(3):
            generator(torch.randn(16, networks.z_dim, generator=stream), *labels)
    meta = {
        "config": trial_document(config),
        "dims": list(shape.dims),
        "class_counts": list(class_counts),
        "class_names": list(class_names),
        "z_dim": networks.z_dim,
        "samples_seen": 5000,
        "score": 3.25,
        "metrics": {"recall": 0.5},
        "reference": "abc",
    }
    write_checkpoint(path, "generator", generator.state_dict(), meta)
    return path, generator.eval()


@pytest.fixture
def best(tmp_path):
    return write_best(tmp_path / "best.safetensors")[0]


# The export


def test_an_export_holds_what_it_says_and_nothing_else(best, tmp_path):
    exported = export(best, tmp_path / "winner", report="<!doctype html>")
    names = sorted(path.name for path in (tmp_path / "winner").iterdir())
    assert names == sorted(exported.files)
    assert names == sorted(snippets.HOLDS)
    assert exported.left_out == {}


@pytest.mark.parametrize(
    ("architecture", "shape", "class_counts"),
    [
        (CONFIG.architecture, GREY, ()),
        (CONFIG.architecture, COLOUR, ()),
        (MLP, GREY, ()),
        (MLP, COLOUR, ()),
        (MLP, PLANE, ()),
        (told_classes(CONFIG.architecture), replace(COLOUR, classes=3), (30, 20, 10)),
        (told_classes(MLP), replace(PLANE, classes=3), (30, 20, 10)),
    ],
    ids=["dcgan-1", "dcgan-3", "mlp-1", "mlp-3", "mlp-points", "dcgan-classes", "mlp-points-classes"],
)
def test_an_export_draws_what_its_checkpoint_draws_bit_for_bit(tmp_path, architecture, shape, class_counts):
    config = replace(CONFIG, architecture=architecture)
    path, generator = write_best(tmp_path / "best.safetensors", config, shape, class_counts)
    export(path, tmp_path / "winner")
    expected = load_generator(path).draw(70, seed=3)
    assert expected.shape == (70, *shape.dims)
    assert expected.dtype == (np.float32 if shape.dims == (2,) else np.uint8)
    assert expected.std() > (0.01 if shape.dims == (2,) else 1)
    z_dim = load_generator(path).z_dim
    trained = Generator(generator.requires_grad_(False), z_dim, class_counts, {"dims": shape.dims}).draw(70, seed=3)
    assert np.array_equal(trained, expected)
    for where in (tmp_path / "winner", tmp_path / "winner" / WEIGHTS):
        assert np.array_equal(load_generator(where).draw(70, seed=3), expected)
    exported = load_generator(tmp_path / "winner").net.state_dict()
    assert exported.keys() == generator.state_dict().keys()
    assert all(torch.equal(value, exported[name]) for name, value in generator.state_dict().items())


@pytest.mark.parametrize(
    "config",
    [CONFIG, replace(CONFIG, target=None, optimizer_d=None, architecture=MLP, data=DataConfig(dataset="digits"))],
    ids=["everything", "defaults"],
)
def test_the_configuration_of_an_export_loads_to_an_equal_value(tmp_path, config):
    (tmp_path / "trial.yaml").write_text(dump(trial_document(config)))
    config = load_trial(tmp_path / "trial.yaml")  # as a search writes it, with every option
    path, _ = write_best(tmp_path / "best.safetensors", config)
    export(path, tmp_path / "winner")
    assert load_trial(tmp_path / "winner" / "config.yaml") == config


def test_the_picture_of_an_export_is_the_grid_of_its_first_samples(best, tmp_path):
    export(best, tmp_path / "winner")
    drawn = load_generator(tmp_path / "winner").draw(PICTURES)
    with Image.open(tmp_path / "winner" / "samples.png") as picture:
        assert picture.format == "PNG"
        assert np.array_equal(np.asarray(picture), np.asarray(grid(drawn)))


def test_the_picture_of_points_is_the_cloud_of_many_samples(tmp_path):
    path, _ = write_best(tmp_path / "best.safetensors", replace(CONFIG, architecture=MLP), PLANE)
    export(path, tmp_path / "winner")
    drawn = load_generator(tmp_path / "winner").draw(POINTS)
    with Image.open(tmp_path / "winner" / "samples.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(cloud(drawn)))


def test_an_export_keeps_what_the_checkpoint_says_of_itself(best, tmp_path):
    export(best, tmp_path / "winner")
    assert read_checkpoint(tmp_path / "winner" / WEIGHTS, "generator")[1] == read_checkpoint(best, "generator")[1]


def test_exporting_again_replaces_the_export(tmp_path):
    for shape in (GREY, COLOUR):
        path, _ = write_best(tmp_path / "best.safetensors", shape=shape)
        export(path, tmp_path / "winner")
    assert load_generator(tmp_path / "winner").draw(1).shape == (1, 3, 16, 16)
    with Image.open(tmp_path / "winner" / "samples.png") as picture:
        assert picture.mode == "RGB"


def test_an_export_that_fails_half_way_leaves_the_earlier_one_as_it_was(best, tmp_path, monkeypatch):
    folder = tmp_path / "winner"
    export(best, folder, report="its search")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other, _ = write_best(tmp_path / "other.safetensors", shape=COLOUR)

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "model_card", full)  # the last thing that is made
        with pytest.raises(GantuneError, match=f"^{folder}: cannot be written: No space left on device$"):
            export(other, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    export(other, folder)
    assert {path.name for path in folder.iterdir()} == {*before} - {"report.html"}  # which was of another network


@pytest.mark.parametrize("name", ["README.md", "config.yaml", "samples.png"])
def test_files_that_no_export_wrote_are_not_written_over(best, tmp_path, name):
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / name).write_text("mine")
    with pytest.raises(GantuneError, match=f"^{folder}: has {name} already, and is no earlier export; name a new"):
        export(best, folder)
    assert [path.name for path in folder.iterdir()] == [name]
    assert (folder / name).read_text() == "mine"


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_a_folder_that_cannot_be_written_is_an_error_a_user_can_act_on(best, tmp_path, inside):
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / inside if inside else tmp_path / "file"
    with pytest.raises(GantuneError) as caught:
        export(best, folder)
    assert str(folder) in str(caught.value)
    assert "cannot be written" in str(caught.value)
    assert (tmp_path / "file").read_text() == "in the way"


# Drawing


def test_drawing_depends_on_the_seed_alone(best):
    generator = load_generator(best)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = generator.draw(20, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(load_generator(best).draw(20, seed=4), first)
    assert not np.array_equal(generator.draw(20, seed=5), first)


class Painter(nn.Module):
    """A conditional generator that paints its label over the picture, in steps of ten."""

    def forward(self, latents, labels):
        assert labels.dtype == torch.int64
        return ((10.0 * labels) / 127.5 - 1).reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8)


def test_a_conditional_generator_draws_classes_in_the_real_datas_proportions():
    counts = (600, 0, 300, 100)
    drawn = Generator(Painter(), 4, counts, {"dims": [1, 8, 8]}).draw(4000)
    found = np.bincount(drawn[:, 0, 0, 0] // 10, minlength=4) / 4000
    assert found[1] == 0
    assert found == pytest.approx(np.array(counts) / 1000, abs=0.03)  # four deviations


def test_the_classes_a_seed_draws_depend_on_it_alone():
    generator = Generator(Painter(), 4, (1, 1, 1), {"dims": [1, 8, 8]})
    first = generator.draw(1100, seed=1)
    torch.manual_seed(8)
    assert np.array_equal(generator.draw(1100, seed=1), first)
    assert not np.array_equal(generator.draw(1100, seed=2), first)


def test_a_generator_that_draws_nothing_finite_is_refused(tmp_path):
    path, generator = write_best(tmp_path / "best.safetensors")
    _, meta = read_checkpoint(path, "generator")
    broken = {name: value * math.nan for name, value in generator.named_parameters()}
    broken = {**generator.state_dict(), **broken}
    write_checkpoint(path, "generator", broken, meta)
    with pytest.raises(CheckpointError, match="not finite"):
        load_generator(path).draw(4)
    with pytest.raises(CheckpointError, match="not finite"):
        export(path, tmp_path / "winner")


def test_weights_of_another_architecture_are_refused_by_name(tmp_path):
    path, generator = write_best(tmp_path / "best.safetensors")
    _, meta = read_checkpoint(path, "generator")
    meta["config"]["space"]["architecture"] = {"mlp": {"hidden": 16}}
    write_checkpoint(path, "generator", generator.state_dict(), meta)
    with pytest.raises(CheckpointError) as caught:
        load_generator(path)
    assert f"{path}: its weights do not fit its configuration" in str(caught.value)


@pytest.mark.parametrize("key", ["config", "dims", "class_counts", "z_dim"])
def test_a_checkpoint_that_lacks_what_drawing_needs_is_refused_by_name(tmp_path, key):
    path, generator = write_best(tmp_path / "best.safetensors")
    _, meta = read_checkpoint(path, "generator")
    del meta[key]
    write_checkpoint(path, "generator", generator.state_dict(), meta)
    with pytest.raises(CheckpointError) as caught:
        load_generator(path)
    assert str(path) in str(caught.value)


def test_a_missing_export_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere: there is no such checkpoint"):
        load_generator(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"generator\.safetensors: there is no such checkpoint"):
        load_generator(tmp_path / "empty")


# Grids


def pictures(count, channels, side=8):
    shape = (count, channels, side, side)
    return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)  # 255 is the background's


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("count", "side", "shape"),
    [(64, 16, (8, 8)), (1, 8, (1, 1)), (10, 8, (4, 3)), (5, 28, (3, 2))],
)
def test_a_grid_is_laid_out_in_rows_and_enlarged_by_a_whole_factor(channels, count, side, shape):
    pixels = pictures(count, channels, side)
    picture = grid(pixels)
    width, height = (number * (side + GAP) - GAP for number in shape)
    factor = TARGET_WIDTH // width
    assert picture.size == (width * factor, height * factor)
    assert picture.mode == ("L" if channels == 1 else "RGB")

    small = np.asarray(picture).reshape(height, factor, width, factor, channels)
    assert (small == small[:, :1, :, :1]).all()  # enlarging blurs nothing
    sheet = small[:, 0, :, 0]
    covered = np.zeros((height, width), bool)
    for index in range(count):
        top, left = index // shape[0] * (side + GAP), index % shape[0] * (side + GAP)
        where = slice(top, top + side), slice(left, left + side)
        assert np.array_equal(sheet[where].transpose(2, 0, 1), pixels[index])
        covered[where] = True
    assert (sheet[~covered] == 255).all()


def test_a_grid_wider_than_the_screen_is_not_enlarged():
    assert grid(pictures(100, 1, 128)).size == (10 * (128 + GAP) - GAP,) * 2


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_saved_to_the_last_bit(tmp_path, channels):
    pixels = pictures(12, channels)
    save_samples(pixels, tmp_path / "deeper" / "grid.png")
    with Image.open(tmp_path / "deeper" / "grid.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(grid(pixels)))


# Clouds


def ink(points):
    """How dark a cloud is at each of its dots, 0 for white; dots are two pixels wide."""
    pixels = 255 - np.asarray(cloud(np.array(points, np.float32).reshape(len(points), -1))).astype(int)
    assert pixels.shape == (TARGET_WIDTH, TARGET_WIDTH)
    dots = pixels.reshape(TARGET_WIDTH // 2, 2, TARGET_WIDTH // 2, 2)
    assert (dots == dots[:, :1, :, :1]).all()
    return dots[:, 0, :, 0]


@pytest.mark.parametrize("point", [(0.01, 0.01), (1.01, 2.01), (-1.01, 2.01), (-2.99, -2.99), (2.99, -1.01)])
def test_a_point_stands_at_its_place_with_the_second_coordinate_upwards(point):
    ((row, column),) = np.argwhere(ink([point]))
    dot = 2 * REACH / (TARGET_WIDTH // 2)
    assert abs((column + 0.5) * dot - REACH - point[0]) <= dot / 2 + 1e-6
    assert abs(REACH - (row + 0.5) * dot - point[1]) <= dot / 2 + 1e-6


def test_a_cloud_is_darker_where_it_is_denser():
    darkness = [ink([(0.01, 0.01)] * count).max() for count in (1, 2, 3, 4)]
    assert darkness[0] > 0
    assert all(one < two for one, two in pairwise(darkness))
    assert darkness[-1] == 255


def test_points_beyond_the_frame_and_further_coordinates_leave_no_trace():
    inside = [(0.5, -0.5, 0.0)]
    far = [(REACH + 0.01, 0.0, 0.0), (0.0, -1e9, 0.0), (-50.0, 50.0, 0.0)]
    assert np.array_equal(ink(inside + far), ink(inside))
    assert np.array_equal(ink([(0.5, -0.5, 77.0)]), ink([(0.5, -0.5)]))


def test_points_are_saved_as_a_cloud(tmp_path):
    points = np.random.default_rng(0).standard_normal((300, 2)).astype(np.float32)
    save_samples(points, tmp_path / "deeper" / "cloud.png")
    with Image.open(tmp_path / "deeper" / "cloud.png") as picture:
        assert picture.format == "PNG"
        assert np.array_equal(np.asarray(picture), np.asarray(cloud(points)))


@pytest.mark.parametrize("samples", [pictures(4, 1), np.zeros((4, 2), np.float32)], ids=["pictures", "points"])
def test_samples_that_cannot_be_written_say_where(tmp_path, samples):
    (tmp_path / "file").write_text("in the way")
    where = tmp_path / "file" / "samples.png"
    with pytest.raises(GantuneError) as caught:
        save_samples(samples, where)
    assert str(where) in str(caught.value)
    assert "cannot be written" in str(caught.value)


@pytest.mark.parametrize("side", [8, 16, 32, 64, 128])
def test_a_picture_of_a_moment_is_small_and_shows_several(side):
    count = enough_of_a_moment((3, side, side))
    sheet = grid(np.zeros((count, 3, side, side), np.uint8), at_most=0)
    assert 4 <= count <= 25
    assert max(sheet.size) <= MOMENT_WIDTH + (5 - 1) * GAP
