"""gantune sample: what is drawn, from which latents, into which files; and what makes no sense."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from made_runs import make_run
from PIL import Image
from test_export import COLOUR, CONFIG, MLP, PLANE, told_classes, write_best

from gantune.config import DataConfig
from gantune.data.data_set import open_data
from gantune.errors import CheckpointError, GantuneError, RunError, SpecError
from gantune.export import drawing, load_generator, open_generator
from gantune.export.alone import CHUNK, latents
from gantune.export.drawing import write_samples
from gantune.export.generator import arc
from gantune.pictures import GAP, grid

COUNTS = (300, 200, 100)
NAMES = ("cat", "dog & co", "newt")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Checkpoints: of pictures, of pictures with classes, and of points."""
    folder = tmp_path_factory.mktemp("checkpoints")
    write_best(folder / "plain.safetensors", shape=COLOUR)
    config = replace(CONFIG, architecture=told_classes(CONFIG.architecture))
    write_best(folder / "classes.safetensors", config, replace(COLOUR, classes=3), COUNTS, NAMES)
    write_best(folder / "points.safetensors", replace(CONFIG, architecture=MLP), PLANE)
    return folder


def ok(gantune, *arguments):
    code, out, err = gantune("sample", *arguments)
    assert (code, err) == (0, "")
    return out


# Latents


def of_all(count, **more):
    return [torch.cat(values) for values in zip(*latents(count, 7, 3, **more), strict=True)]


@pytest.mark.parametrize(
    "more", [{}, {"class_counts": COUNTS}, {"truncation": 0.5}, {"class_counts": COUNTS, "classes": (2, 0)}]
)
@pytest.mark.parametrize("count", [1, CHUNK - 1, CHUNK, CHUNK + 1])
def test_more_samples_begin_with_the_same_latents_and_labels(count, more):
    for few, many in zip(of_all(count, **more), of_all(2 * CHUNK + 9, **more), strict=True):
        assert torch.equal(few, many[:count])


def test_latents_are_normal_and_labels_have_the_datas_shares():
    drawn, labels = of_all(20_000, class_counts=COUNTS)
    assert float(drawn.mean()) == pytest.approx(0, abs=0.01)
    assert float(drawn.std()) == pytest.approx(1, abs=0.01)
    assert (labels.bincount() / 20_000).tolist() == pytest.approx([1 / 2, 1 / 3, 1 / 6], abs=0.015)


@pytest.mark.parametrize("bound", [0.3, 1.0, 2.5])
def test_truncated_latents_are_those_of_a_normal_distribution_that_lie_within(bound):
    (drawn,) = of_all(20_000, truncation=bound)
    assert float(drawn.abs().max()) <= bound
    again = torch.randn(2_000_000, generator=torch.Generator().manual_seed(1))
    kept = again[again.abs() <= bound]
    assert float(drawn.std()) == pytest.approx(float(kept.std()), rel=0.01)
    assert float((drawn.abs() < bound / 2).float().mean()) == pytest.approx(
        float((kept.abs() < bound / 2).float().mean()), abs=0.01
    )


def test_classes_that_are_asked_for_take_turns():
    _, labels = of_all(CHUNK + 2, class_counts=COUNTS, classes=(2, 0, 1))
    assert labels.tolist() == ([2, 0, 1] * CHUNK)[: CHUNK + 2]


def test_an_arc_runs_from_end_to_end_at_an_even_pace_and_keeps_its_length():
    one, other = torch.tensor([[3.0, 0.0]]).expand(5, 2), torch.tensor([[0.0, 3.0]]).expand(5, 2)
    found = arc(one, other, torch.linspace(0, 1, 5))
    assert torch.allclose(found.norm(dim=1), torch.full((5,), 3.0))
    assert torch.allclose(torch.atan2(found[:, 1], found[:, 0]), torch.linspace(0, math.pi / 2, 5), atol=1e-6)
    assert torch.allclose(arc(one, one, torch.linspace(0, 1, 5)), one, atol=1e-3)


# What is named


def test_a_generator_comes_from_a_checkpoint_an_export_or_a_run(gantune, tmp_path):
    run = make_run(tmp_path / "runs", trials=4, running=0)
    best = run.best()
    for place in (run.checkpoint(best, []), run.folder, "made"):
        ok(gantune, place, "-n", 5, "--out", f"{Path(place).name}.npz")
    assert gantune("best", "made", "--export", "winner")[0] == 0
    ok(gantune, "winner", "-n", 5, "--out", "winner.npz")
    ok(gantune, "made", "--trial", best.number, "-n", 5, "--out", "trial.npz")
    found = [np.load(path)["arr_0"] for path in sorted(tmp_path.glob("*.npz"))]
    assert len(found) == 4
    assert all(np.array_equal(found[0], one) for one in found)
    code, _, err = gantune("sample", "winner", "--trial", 3)
    assert (code, "--trial belongs to a run" in err) == (2, True)


def test_what_is_neither_is_told_with_the_runs_there_are(tmp_path):
    make_run(tmp_path / "runs", trials=2, running=0)
    with pytest.raises(RunError, match=r"`no` is not a run; runs in .*: made; nor is it a checkpoint or an export"):
        open_generator("no", tmp_path / "runs")
    (tmp_path / "note.txt").write_text("no weights")
    with pytest.raises(CheckpointError, match="is damaged or not a checkpoint"):
        open_generator(tmp_path / "note.txt")


# Files


def test_a_grid_and_a_folder_and_an_array_hold_the_same_pictures(gantune, places):
    drawn = load_generator(places / "plain.safetensors").draw(510, 4)
    for out in ("grid.png", "folder", "array.npz"):
        told = ok(gantune, places / "plain.safetensors", "-n", 510, "--seed", 4, "--out", out)
        assert told == f"510 pictures in {out}\n"
    with Image.open("grid.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(grid(drawn)))
    files = sorted(Path("folder").iterdir())
    assert [path.name for path in files] == [f"{index:06d}.png" for index in range(510)]
    assert np.array_equal(np.stack([np.asarray(Image.open(path)) for path in files]).transpose(0, 3, 1, 2), drawn)
    held = np.load("array.npz")
    assert held.files == ["arr_0"]
    assert held["arr_0"].dtype == np.uint8
    assert np.array_equal(held["arr_0"].transpose(0, 3, 1, 2), drawn)


@pytest.mark.parametrize("out", ["data.parquet", "folder"])
def test_what_is_written_as_data_is_read_as_such_with_its_labels(gantune, places, out):
    ok(gantune, places / "classes.safetensors", "-n", 600, "--seed", 1, "--out", out)
    ok(gantune, places / "classes.safetensors", "-n", 600, "--seed", 1, "--out", "same.npz")
    held = np.load("same.npz")
    data = open_data(DataConfig(dataset=str(Path(out).resolve())))
    assert data.class_names == NAMES
    assert data.labels is not None
    order = np.argsort(held["arr_1"], kind="stable") if out == "folder" else np.arange(600)  # a folder goes by class
    assert np.array_equal(data.labels, held["arr_1"][order])
    assert np.array_equal(data.examples.transpose(0, 2, 3, 1), held["arr_0"][order])


def test_parquet_is_what_the_hub_lays_out(gantune, places):
    ok(gantune, places / "classes.safetensors", "-n", 3, "--class", "newt", "--class", 0, "--out", "a.parquet")
    table = pq.read_table("a.parquet")
    assert table.column("label").to_pylist() == [2, 0, 2]
    assert [cell["path"] for cell in table.column("image").to_pylist()] == [f"00000{index}.png" for index in range(3)]
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {"image": {"_type": "Image"}, "label": {"names": list(NAMES), "_type": "ClassLabel"}}


@pytest.mark.parametrize("names", [("a/b", "c", "d"), ("A", "a", "b"), ()])
def test_classes_whose_names_can_be_no_folders_are_numbered(places, tmp_path, names):
    generator = load_generator(places / "classes.safetensors")
    draws = generator.stream(3, classes=(0, 1, 2))
    write_samples(tmp_path / "folder", draws, 3, generator.dims, names)
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["0000", "0001", "0002"]


def test_points_go_to_a_cloud_an_array_or_numbers(gantune, places):
    drawn = load_generator(places / "points.safetensors").draw(700, 2)
    for out in ("cloud.png", "array.npz", "numbers.csv", "folder"):
        ok(gantune, places / "points.safetensors", "-n", 700, "--seed", 2, "--out", out)
    assert np.array_equal(np.load("array.npz")["arr_0"], drawn)
    assert np.array_equal(np.loadtxt("numbers.csv", delimiter=",").astype(np.float32), drawn)
    assert np.array_equal(np.load("folder/points.npy"), drawn)
    assert Image.open("cloud.png").size == (640, 640)


def test_a_long_draw_holds_a_chunk_at_a_time(places, tmp_path):
    generator, held = load_generator(places / "plain.safetensors"), []

    def watched():
        for samples in generator.stream(2 * CHUNK + 1):
            held.append(len(samples.examples))
            yield samples

    for out in ("a.npz", "a.parquet", "a"):
        held.clear()
        write_samples(tmp_path / out, watched(), 2 * CHUNK + 1, generator.dims)
        assert held == [CHUNK, CHUNK, 1]


@pytest.mark.parametrize("out", ["a.png", "a.npz", "a.parquet", "a", "a.csv"])
def test_a_draw_that_is_cut_short_leaves_nothing(places, tmp_path, out):
    kind = "points" if out.endswith(".csv") else "plain"
    generator = load_generator(places / f"{kind}.safetensors")

    def cut():
        yield from generator.stream(5)
        raise CheckpointError("the generator's samples are not finite")

    with pytest.raises(CheckpointError):
        write_samples(tmp_path / out, cut(), 10, generator.dims)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GantuneError, match=f"file/{out}: cannot be written: "):
        write_samples(tmp_path / "file" / out, generator.stream(5), 5, generator.dims)


# Interpolation


def test_an_interpolation_is_a_row_from_each_latent_towards_the_next(gantune, places):
    ok(gantune, places / "plain.safetensors", "--interpolate", "-n", 32, "--steps", 8, "--seed", 6, "--out", "walk.png")
    generator = load_generator(places / "plain.safetensors")
    with Image.open("walk.png") as picture:
        side, factor = 16 + GAP, picture.width // (8 * 18 - GAP)
        sheet = np.asarray(picture)[::factor, ::factor]
    assert sheet.shape[:2] == (4 * side - GAP, 8 * side - GAP)
    stops = generator.draw(4, 6).astype(int)
    for row in range(4):
        first = sheet[row * side : row * side + 16, :16].transpose(2, 0, 1)
        assert np.abs(first.astype(int) - stops[row]).max() <= 1
    walked = np.concatenate([samples.examples.numpy() for samples in generator.walk(32, 8, 6)]).astype(int)
    steps = np.abs(np.diff(np.concatenate([walked, walked[:1]]), axis=0)).mean((1, 2, 3))
    assert steps.min() > 0
    assert steps.max() < np.abs(stops[0] - stops[1]).mean()


def test_an_interpolation_of_several_classes_has_one_a_row(places):
    generator = load_generator(places / "classes.safetensors")
    labels = [samples.labels for samples in generator.walk(6, 2, classes=(2, 0))]
    assert torch.cat(labels).tolist() == [2, 2, 0, 0, 2, 2]
    (alone,) = [samples.labels for samples in generator.walk(6, 2)]
    assert len(set(alone.tolist())) == 1


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_a_film_has_a_frame_for_every_picture_and_repeats(gantune, places, kind):
    ok(gantune, places / "plain.safetensors", "--interpolate", "-n", 12, "--steps", 4, "--out", f"walk.{kind}")
    with Image.open(f"walk.{kind}") as film:
        assert (film.n_frames, film.size, film.info["loop"]) == (12, (256, 256), 0)


# What makes no sense


@pytest.mark.parametrize(
    ("of", "arguments", "told"),
    [
        ("plain", ("--class", 0), "knows no classes"),
        ("classes", ("--class", 3), "there is no class 3; classes are 0 to 2; classes are called cat, dog & co, newt"),
        ("classes", ("--class", "bird"), "there is no class bird"),
        ("plain", ("--out", "a.jpg"), "--out a.jpg: cannot be written as .jpg; use .png, .npz"),
        ("plain", ("--out", "a.csv"), "holds points"),
        ("plain", ("--out", "a.webp"), "add --interpolate"),
        ("plain", ("--interpolate", "--out", "a"), "goes to a .png grid"),
        ("plain", ("--interpolate", "--out", "a.npz"), "goes to a .png grid"),
        ("points", ("--interpolate",), "no pictures between"),
        ("points", ("--out", "a.parquet"), "use .csv or .npz"),
        ("plain", ("-n", 10_001), "holds 10,000 pictures at most, got -n 10001; name a folder"),
        ("plain", ("--steps", 3), "--steps counts the pictures of --interpolate"),
        ("plain", ("--interpolate", "-n", 10_001, "--out", "a.gif"), "10,000 pictures at most, got -n 10001; ask for"),
        ("plain", ("--truncation", 0), "0"),
        ("plain", ("--truncation", "nan"), "'--truncation': nan is not a finite number"),
        ("plain", ("--out", "full"), "full: is a folder that is not empty"),
    ],
)
def test_what_makes_no_sense_is_told_before_anything_is_drawn(gantune, places, of, arguments, told):
    Path("full").mkdir()
    Path("full/file").write_text("")
    code, out, err = gantune("sample", places / f"{of}.safetensors", *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert [path.name for path in Path().iterdir()] == ["full"]


def test_a_film_of_points_is_refused_wherever_it_goes():
    for out in drawing.FILES:
        with pytest.raises(SpecError):
            drawing.check_out(Path(f"a{out}"), (2,), 10, walk=True)
