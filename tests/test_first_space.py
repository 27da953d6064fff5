import io
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from gantune import first_space as first_space_module
from gantune import pace as pace_module
from gantune import probe as probe_module
from gantune.audit import audit_space
from gantune.cli.main import cli
from gantune.data.cache import cache_directory
from gantune.data.data_set import open_data
from gantune.errors import DataError, GantuneError
from gantune.first_space import CPU_SIDE, choose_size, first_space
from gantune.metrics import features as features_module
from gantune.metrics.reference_file import check_reference, load_reference, prepare_reference
from gantune.plan import FEWEST, Clock
from gantune.space import load_space
from gantune.survey import Machine, Survey, survey

ODD = '7 "cats" # é'  # a name that YAML would not read as it stands
LEARNING_STEPS = 10  # of features, whose quality is not asked for here
CPUS = Machine(cpus=2, free=10**12)
GPUS = Machine(cpus=16, gpus=2, gpu="Example GPU", free=10**12)


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path, tmp_path_factory):
    """Steps are few, the machine is always the same, and files and the cache lie in folders of the test."""
    monkeypatch.setenv("GANTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(features_module, "steps_for", lambda rows: LEARNING_STEPS)
    monkeypatch.setattr(pace_module, "TIMED_SECONDS", 0.01)
    monkeypatch.setattr(pace_module, "LEAST_SECONDS", 0.01)
    monkeypatch.setattr(first_space_module, "look_at_machine", lambda: CPUS)
    monkeypatch.chdir(tmp_path)


def picture(size, mode, seed):
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def mixed(folder):
    """80 pictures from 6x9 to 22x33, two of them grey."""
    folder.mkdir()
    for index in range(80):
        picture((6 + index * 16 // 79, 9 + index * 24 // 79), "L" if index < 2 else "RGB", index).save(
            folder / f"{index}.png"
        )


def labelled(folder):
    """60 grey squares of 10 pixels in each of two folders."""
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for index in range(60):
            picture((10, 10), "L", index + 100 * (label == "dog")).save(folder / label / f"{index}.png")


def parquet(path):
    """96 RGB squares of 8 pixels in columns of other names than usual."""
    cells = []
    for index in range(96):
        stream = io.BytesIO()
        picture((8, 8), "RGB", index).save(stream, "PNG")
        cells.append({"bytes": stream.getvalue(), "path": None})
    pq.write_table(pa.table({"img": cells, "fine_label": [index % 4 for index in range(96)]}), path)


def written(dataset, hours=1.0, name="first"):
    made = first_space(str(dataset), name, hours)
    path = Path(f"{name}.yaml")
    path.write_text(made.text, encoding="utf-8")
    return load_space(path), made


def assert_usable(space):
    """Every parameter has an effect, batches fit the data, and the reference accepts the sample counts."""
    images = open_data(space.data)
    audit_space(space, images.shape)
    assert max(space.draw(Largest(), seed=0).batch_size, 2) <= len(images.train_rows)
    check_reference(images, space.objective, load_reference(prepare_reference(images, space.objective.features)))
    assert space.baseline is not None
    return images


class Largest:
    """Draws the largest of everything."""

    def suggest_float(self, name, low, high, *, log=False):
        return high

    def suggest_int(self, name, low, high, *, log=False):
        return high

    def suggest_categorical(self, name, choices):
        return choices[-1]


# What is written


def test_pictures_of_mixed_sizes_and_modes_become_squares_of_a_power_of_two_in_colour():
    mixed(Path(ODD))
    space, made = written(ODD)

    assert Path(space.data.dataset) == Path(ODD).resolve()
    assert (space.data.size, space.data.channels) == (8, "rgb")
    images = assert_usable(space)
    assert images.examples.shape == (80, 3, 8, 8)
    said = "\n".join(made.said)
    assert "80 RGB (2 of them grey) pictures: smallest 6x9, median 14x21, largest 22x33; no labels" in said
    assert "size: 8x8, the power of two below the median picture, cropped square, 10 smaller ones are enlarged" in said
    assert "augmentation" in space.parameters
    assert "conditional" not in made.text


def test_labelled_folders_keep_their_size_and_ask_whether_labels_help():
    labelled(Path("pets"))
    space, made = written("pets")

    assert space.data.size == 10
    assert "size: 10x10" in made.said
    assert assert_usable(space).examples.shape == (120, 1, 10, 10)
    assert "120 grey pictures of 10x10; 2 classes of 60 to 60" in made.said[0]
    assert "architecture.dcgan.conditional" in space.searched()


def test_parquet_is_read_whatever_its_columns_are_called():
    parquet("pictures.parquet")
    space, made = written("pictures.parquet")

    assert (space.data.image_column, space.data.label_column) == ("img", "fine_label")
    assert assert_usable(space).class_counts == (24, 24, 24, 24)
    assert "96 RGB pictures of 8x8; 4 classes of 24 to 24" in made.said[0]


def test_points_get_a_fully_connected_network():
    space, made = written("gaussians8")

    assert space.data.size is None
    assert not any(line.startswith("size") for line in made.said)
    assert list(space.parameters["architecture"].options) == ["mlp"]
    assert "augmentation" not in space.parameters
    assert "points of 2 coordinates; 8 classes" in made.said[0]
    assert_usable(space)


def test_a_machine_with_gpus_gets_wider_networks_and_bigger_batches(monkeypatch):
    small, _ = written("digits")
    monkeypatch.setattr(first_space_module, "look_at_machine", lambda: GPUS)
    large, made = written("digits")

    assert set(large.parameters["architecture"].options) == {"dcgan", "resnet", "r3gan"}
    assert large.draw(Largest(), seed=0).batch_size > small.draw(Largest(), seed=0).batch_size
    assert "16 CPU cores, 2 x Example GPU" in made.said[1]
    assert_usable(large)


def test_text_opens_with_a_question_and_says_what_an_answer_costs():
    _, made = written("digits")
    lines = made.text.splitlines()

    assert lines[0] == "# Which GAN draws what is in digits best?"
    (cost,) = [line for line in lines if line.startswith("# Cost:")]
    assert re.search(r"about [\dhms]+ on 2 CPU cores, no GPU, [\dms]+ of it preparation; measured", cost)
    assert all(len(line) <= 120 and line == line.rstrip() for line in lines)


def test_more_time_buys_more_training():
    spent = []
    for hours in (0.01, 0.1, 10):
        space, _ = written("digits", hours)
        assert space.budget.hours == hours
        spent.append(space.budget.trials * space.budget.samples_per_trial)
    assert spent == sorted(spent)
    assert spent[0] < spent[-1]


# Sizes and budgets


def of(*sizes):
    return Survey(sizes=tuple(sorted(sizes, key=min)), grey=0, count=len(sizes))


@pytest.mark.parametrize(
    ("sizes", "on_cpu", "on_gpu"),
    [
        ([(8, 8)] * 3, 8, 8),
        ([(28, 28)] * 3, 28, 28),
        ([(28, 30)] * 3, 16, 16),
        ([(64, 64)] * 3, CPU_SIDE, 64),
        ([(96, 96)] * 3, CPU_SIDE, 96),
        ([(640, 480)] * 3, CPU_SIDE, 128),
        ([(5, 5)] * 3, 8, 8),
        ([(20, 20), (70, 90), (300, 400)], CPU_SIDE, 64),
    ],
)
def test_pictures_are_trained_at_their_own_size_or_below_their_median(sizes, on_cpu, on_gpu):
    assert choose_size(of(*sizes), gpu=False) == on_cpu
    assert choose_size(of(*sizes), gpu=True) == on_gpu


def test_headers_tell_what_decoding_would():
    mixed(Path("photos"))
    _, found, _ = survey("photos")
    decoded = [Image.open(path) for path in Path("photos").iterdir()]
    assert found is not None
    assert sorted(found.sizes) == sorted(each.size for each in decoded)
    assert found.grey == sum(each.mode == "L" for each in decoded)


def test_headers_are_left_unread_where_there_is_no_time_for_all_of_them():
    labelled(Path("pets"))
    _, found, _ = survey("pets", Clock(0.0))
    assert found is not None
    assert (found.seen, found.count, found.classes) == (64, 120, (60, 4))
    assert str(found) == "120 grey pictures of 10x10 (the first 64 of them looked at)"


# The time that it takes itself


class Hours:
    """A clock that stands still until it is moved."""

    now = 0.0

    def __call__(self):
        return self.now


def cached(kind):
    """What the cache holds of a kind, whole or not."""
    folder = cache_directory() / kind
    return [path.name for path in folder.iterdir() if not path.name.endswith(".lock")] if folder.exists() else []


@pytest.fixture
def _quick_learning(monkeypatch):
    """Estimates that do not depend on what else the machine does."""
    monkeypatch.setattr(probe_module, "time_learning", lambda shape, threads: 0.001)
    monkeypatch.setattr(probe_module, "_time_features", lambda images, device: 0.0)


def timed(dataset, clock):
    made = first_space(str(dataset), "first", 0.1, clock=clock)
    Path("first.yaml").write_text(made.text, encoding="utf-8")
    return load_space("first.yaml"), "\n".join(made.said)


@pytest.mark.usefixtures("_quick_learning")
def test_what_fits_is_prepared_for_the_search_which_has_nothing_left_to_do():
    labelled(Path("pets"))
    space, said = timed("pets", Clock(36.0, now=Hours()))
    assert (len(cached("images")), len(cached("references"))) == (1, 1)
    assert "init took 0s of at most 36s; the search gets 6m00s: about 30s of preparation, " in said
    assert_usable(space)
    assert (len(cached("images")), len(cached("references"))) == (1, 1)


def test_what_does_not_fit_is_left_to_the_search_and_counts_there(monkeypatch):
    labelled(Path("pets"))
    monkeypatch.setattr(probe_module, "time_learning", lambda shape, threads: 0.25)
    space, said = timed("pets", Clock(36.0, now=Hours()))
    assert (len(cached("images")), cached("references")) == (1, [])
    assert re.search(r"about 1m4[78]s of preparation \(1m1[78]s of it learning features\)", said)
    assert space.budget.trials >= FEWEST
    assert "score: fid of `classifier` features" in said
    assert_usable(space)


@pytest.mark.parametrize("make", [labelled, mixed])
def test_with_no_time_at_all_a_part_is_looked_at_and_nothing_is_left_behind(make, monkeypatch):
    make(Path("pictures"))
    clock = Hours()
    space, said = timed("pictures", Clock(3.6, before=4.0, now=clock))
    assert (cached("images"), cached("references")) == ([], [])
    assert "init took 4s, more than 3s, a tenth of the time, because a shorter look would tell nothing" in said
    assert space.data.size == (10 if make is labelled else 8)
    assert assert_usable(space).shape.classes == (2 if make is labelled else 0)


@pytest.mark.usefixtures("_quick_learning")
def test_learning_that_takes_longer_than_estimated_is_given_up(monkeypatch):
    labelled(Path("pets"))
    monkeypatch.setattr(features_module, "SECONDS_BETWEEN_REPORTS", 0.0)
    heard, clock = [], Hours()

    def report(text):
        heard.append(text)
        clock.now += 15.0 if text.startswith("learning") else 0.0

    first_space("pets", "first", 0.1, report, Clock(36.0, now=clock))
    assert [text for text in heard if text.startswith("learning")] == [
        f"learning features (classifier): step {step} of {LEARNING_STEPS} ({step}0%)" for step in (1, 2)
    ]
    assert (len(cached("images")), cached("references")) == (1, [])


def test_fewer_configurations_are_timed_where_there_is_no_time(monkeypatch):
    labelled(Path("pets"))
    _, said = timed("pets", Clock(0.0))
    assert "the slower half of 3 configurations" in said
    _, said = timed("pets", Clock(36.0, now=Hours()))
    assert "the slower half of 8 configurations" in said


# Refusals


def refused(dataset):
    with pytest.raises(DataError) as caught:
        first_space(str(dataset), "first", 1.0)
    return str(caught.value)


def test_data_that_cannot_be_learned_from_are_refused_with_their_place():
    Path("empty").mkdir()
    assert "empty: there are no images and no Parquet files in it" in refused("empty")
    Path("few").mkdir()
    for index in range(3):
        picture((8, 8), "L", index).save(f"few/{index}.png")
    assert refused("few") == "few: has 3 images; at least 64 are needed"
    assert re.match(r"few/0\.png: cannot be read as Parquet: .*a folder of images or Parquet", refused("few/0.png"))
    assert "nowhere: no such file or folder" in refused("nowhere")
    assert "did you mean `digits`?" in refused("digit")
    mixed(Path("photos"))
    Path("photos/4.png").write_bytes(b"no picture")
    assert refused("photos").startswith("photos/4.png: cannot be read as an image: ")


def test_pictures_that_do_not_fit_the_disk_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(first_space_module, "look_at_machine", lambda: Machine(cpus=1, free=1000))
    assert "set GANTUNE_CACHE to a folder on another disk" in refused("digits")


# The command


def gantune(*arguments):
    return CliRunner().invoke(cli, list(arguments))


def test_init_writes_a_file_that_check_accepts_and_says_what_it_chose():
    made = gantune("init")
    assert made.exit_code == 0, made.output
    assert "digits: 1,797 grey pictures of 8x8; 10 classes of 174 to 183" in made.output
    assert "written to digits.yaml. Next: gantune check digits.yaml" in made.output
    checked = gantune("check", "digits.yaml")
    assert checked.exit_code == 0, checked.output
    assert checked.output.endswith("baseline: trial 0\nOK. Nothing was started.\n")
    assert [path.name for path in Path().iterdir()] == ["digits.yaml"]


def test_init_overwrites_nothing_unless_it_is_forced():
    Path("mine.yaml").write_text("precious")
    assert "--force" in str(gantune("init", "--out", "mine.yaml").exception)
    assert Path("mine.yaml").read_text() == "precious"
    assert gantune("init", "--out", "mine.yaml", "--force").exit_code == 0
    assert load_space("mine.yaml").name == "mine"


def test_init_that_fails_leaves_no_file():
    assert isinstance(gantune("init", "nowhere").exception, DataError)
    Path("file").write_text("in the way")
    assert isinstance(gantune("init", "--out", "file/below.yaml").exception, GantuneError)
    assert list(Path().iterdir()) == [Path("file")]
