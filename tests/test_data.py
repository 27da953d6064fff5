import http.client
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from gantune.config import DataConfig
from gantune.data import data_set
from gantune.data.cache import cache_directory
from gantune.data.data_set import BatchSource, DataSet, open_data, quantise, scale
from gantune.data.source import Source
from gantune.errors import DataError, GantuneError
from gantune.models.networks import ImageShape, PointShape

MNIST = Path(__file__).parents[1] / ".." / "shared" / "data" / "mnist-test.parquet"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("GANTUNE_CACHE", str(folder))
    return folder


def noise(seed, side=16, channels=1):
    shape = (side, side) if channels == 1 else (side, side, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(picture, form="PNG"):
    stream = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(stream, form)
    return stream.getvalue()


def write_folder(folder, count=64, side=16):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        (folder / f"{index:03d}.png").write_bytes(encoded(noise(index, side)))
    return folder


def cells(pictures):
    return [{"bytes": encoded(picture), "path": f"{index}.png"} for index, picture in enumerate(pictures)]


def write_parquet(path, column, labels=None, metadata=None, name="image"):
    values = {name: column} | ({} if labels is None else {"label": labels})
    table = pa.table(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def opened(path, **settings):
    return open_data(DataConfig(dataset=str(path), **settings))


def failure(path, **settings):
    with pytest.raises(DataError) as caught:
        opened(path, **settings)
    return str(caught.value)


# The embedded digits


@pytest.mark.parametrize("size", [8, 16])
def test_digits_are_1797_grey_squares_of_the_asked_size_with_ten_labels(size):
    images = open_data(DataConfig(dataset="digits", size=size))
    assert images.examples.shape == (1797, 1, size, size)
    assert images.examples.dtype == np.uint8
    assert images.examples.min() == 0
    assert images.examples.max() == 255
    assert images.labels.shape == (1797,)
    assert set(images.labels) == set(range(10))
    assert images.class_names == tuple("0123456789")
    assert images.shape == ImageShape(1, size, 10)


def test_digits_at_their_own_size_are_the_scans_themselves():
    images = open_data(DataConfig(dataset="digits"))
    scans = load_digits()
    assert np.array_equal(images.examples[:, 0], np.rint(scans.images * 255 / 16))
    assert np.array_equal(images.labels, scans.target)


def test_channels_override_what_the_pictures_have():
    images = open_data(DataConfig(dataset="digits", channels="rgb"))
    assert images.examples.shape == (1797, 3, 8, 8)
    assert np.array_equal(images.examples[:, 0], images.examples[:, 2])


# The cache


def test_second_open_decodes_nothing_and_gives_the_same(monkeypatch, tmp_path):
    folder = write_folder(tmp_path / "pictures")
    first = opened(folder)

    def unreachable(*anything):
        raise AssertionError("decoded again")

    monkeypatch.setattr(data_set, "_fit", unreachable)
    second = opened(folder)
    assert second.key == first.key
    assert np.array_equal(second.examples, first.examples)


def test_different_forms_of_one_source_do_not_share_a_copy():
    keys = {
        open_data(DataConfig(dataset="digits", size=size, channels=channels)).key
        for size in (8, 16)
        for channels in ("auto", "rgb")
    }
    assert len(keys) == 4


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_a_changed_file_changes_the_key(tmp_path, kind):
    if kind == "folder":
        path = write_folder(tmp_path / "pictures")
        changing = path / "007.png"
    else:
        path = changing = write_parquet(tmp_path / "a.parquet", cells(noise(i) for i in range(64)))
    keys = [opened(path).key]

    if kind == "folder":
        changing.write_bytes(encoded(np.zeros((16, 16), np.uint8)))
    else:
        write_parquet(changing, cells(noise(i + 1) for i in range(65)))
    keys.append(opened(path).key)
    assert len(set(keys)) == 2


def test_an_added_file_changes_the_key(tmp_path):
    folder = write_folder(tmp_path / "pictures")
    before = opened(folder).key
    (folder / "more.png").write_bytes(encoded(noise(99)))
    after = opened(folder)
    assert after.key != before
    assert len(after.examples) == 65


def test_a_failed_decode_leaves_no_copy_and_a_mended_file_is_read(tmp_path, cache):
    folder = write_folder(tmp_path / "pictures")
    bad = folder / "063.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    text = failure(folder)
    assert str(bad) in text
    assert "mend or remove it" in text
    assert not [path for path in (cache / "images").iterdir() if path.is_dir()]
    bad.write_bytes(whole)
    assert np.array_equal(opened(folder).examples[63, 0], noise(63))


attempts = []


def fails_once(config):
    def examples():
        attempts.append(1)
        for index in range(64):
            if len(attempts) == 1 and index == 40:
                raise DataError("the source broke off")
            yield Image.fromarray(noise(index)), None

    return Source(identity="fails-once", count=64, class_names=(), examples=examples())


def test_a_source_that_broke_off_is_decoded_anew_under_the_same_key(cache):
    attempts.clear()
    name = f"{__name__}:fails_once"
    assert "broke off" in failure(name)
    assert not [path for path in (cache / "images").iterdir() if path.is_dir()]
    assert np.array_equal(opened(name).examples[63, 0], noise(63))
    opened(name)
    assert len(attempts) == 2


decodes = []


def counted(config):
    def examples():
        decodes.append(1)
        for index in range(64):
            yield Image.fromarray(noise(index)), index % 2

    return Source(identity="counted", count=64, class_names=(), examples=examples())


def test_workers_that_open_together_decode_once():
    decodes.clear()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(opened, [f"{__name__}:counted"] * 4))
    assert len(decodes) == 1
    assert all(np.array_equal(images.examples, found[0].examples) for images in found)


def gives_fewer(config):
    pictures = ((Image.fromarray(noise(index)), None) for index in range(69))
    return Source(identity="fewer", count=70, class_names=(), examples=pictures)


def gives_more(config):
    pictures = ((Image.fromarray(noise(index)), None) for index in range(71))
    return Source(identity="more", count=70, class_names=(), examples=pictures)


@pytest.mark.parametrize("name", ["gives_fewer", "gives_more"])
def test_a_source_must_give_as_many_pictures_as_it_promised(name):
    assert "promised 70 images" in failure(f"{__name__}:{name}")


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("GANTUNE_CACHE", str(tmp_path / "file"))
    assert "set GANTUNE_CACHE" in failure("digits")


def test_cache_lies_in_the_users_cache_unless_chosen(monkeypatch, tmp_path):
    monkeypatch.delenv("GANTUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "gantune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache" / "gantune"


# Folders of images


def mixed(index):
    """A picture of one of five modes and of varying sides, as (name, picture)."""
    rng = np.random.default_rng(index)
    width, height = int(rng.integers(9, 40)), int(rng.integers(9, 40))
    grey = rng.integers(0, 256, (height, width), dtype=np.uint8)
    colour = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    alpha = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    choices = [
        (f"{index:03d}.png", Image.fromarray(grey)),
        (f"{index:03d}.jpg", Image.fromarray(colour)),
        (f"{index:03d}.PNG", Image.fromarray(alpha)),
        (f"{index:03d}.png", Image.fromarray(colour).quantize(16)),
        (f"{index:03d}.png", Image.fromarray(grey.astype(np.uint16) * 257)),
        (f"{index:03d}.jpeg", Image.fromarray(grey)),
    ]
    return choices[index % len(choices)]


@pytest.mark.parametrize(("channels", "expected"), [("rgb", 3), ("grey", 1), ("auto", 1)])
def test_pictures_of_any_mode_and_size_become_one_form(tmp_path, channels, expected):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(66):
        name, picture = mixed(index)
        picture.save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    images = opened(folder, size=12, channels=channels)
    assert images.examples.shape == (66, expected, 12, 12)
    assert images.labels is None
    assert all(picture.std() > 5 for picture in images.examples)  # none came out blank


def test_a_picture_that_fits_is_kept_to_the_last_bit(tmp_path):
    folder = write_folder(tmp_path / "pictures", count=60)
    colour = noise(1, channels=3)
    palette = Image.fromarray(colour).quantize(8)
    alpha = np.dstack([colour, np.full((16, 16), 255, np.uint8)])
    Image.fromarray(colour).save(folder / "100.png")
    palette.save(folder / "101.png")
    Image.fromarray(alpha).save(folder / "102.png")
    Image.fromarray(noise(2)).convert("1").save(folder / "103.png")
    found = opened(folder, channels="rgb").examples.transpose(0, 2, 3, 1)
    assert np.array_equal(found[5], np.repeat(noise(5)[:, :, None], 3, axis=2))
    assert np.array_equal(found[60], colour)
    assert np.array_equal(found[61], np.asarray(palette.convert("RGB")))
    assert np.array_equal(found[62], colour)
    assert set(np.unique(found[63])) <= {0, 255}


@pytest.mark.parametrize(("name", "order"), [("deep.png", "<"), ("deep.tif", "<"), ("deep-big.tif", ">")])
def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path, name, order):
    folder = write_folder(tmp_path / "pictures")
    deep = np.random.default_rng(0).integers(0, 65536, (16, 16), dtype=np.uint16)
    mode = "I;16" if order == "<" else "I;16B"
    Image.frombytes(mode, (16, 16), deep.astype(f"{order}u2").tobytes()).save(folder / name)
    assert np.array_equal(opened(folder).examples[-1, 0], deep >> 8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("mode", "colour"), [("CMYK", 3), ("YCbCr", 3), ("LAB", 3), ("LA", 1), ("1", 1)])
def test_a_picture_of_a_rare_mode_becomes_grey_or_colour(tmp_path, mode, colour, channels):
    folder = write_folder(tmp_path / "pictures")
    bands = len(Image.new(mode, (1, 1)).getbands())
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    picture = ramp.convert("1") if mode == "1" else Image.merge(mode, [ramp] * bands)
    picture.save(folder / "!.tif")
    try:
        Image.open(folder / "!.tif").load()
    except OSError:
        pytest.skip(f"this Pillow cannot read back the {mode} TIFF that it wrote")
    assert opened(folder).shape.channels == colour
    (folder / "!.tif").unlink()
    picture.save(folder / "999.tif")
    found = opened(folder, channels="grey" if channels == 1 else "rgb").examples[-1]
    assert found.shape == (channels, 16, 16)
    assert found.std() > 5


def test_first_picture_decides_grey_or_colour(tmp_path):
    folder = write_folder(tmp_path / "pictures")
    assert opened(folder).shape.channels == 1
    (folder / "000.png").write_bytes(encoded(noise(0, channels=3)))
    assert opened(folder).shape.channels == 3


def test_a_wide_picture_is_cropped_at_its_centre(tmp_path):
    folder = write_folder(tmp_path / "pictures")
    wide = np.zeros((16, 48), np.uint8)
    wide[:, 16:32] = 200
    Image.fromarray(wide).save(folder / "999.png")
    assert (opened(folder).examples[-1] == 200).all()


def test_sub_folders_are_the_labels_in_the_order_of_their_names(tmp_path):
    write_folder(tmp_path / "pictures" / "dog", 20)
    write_folder(tmp_path / "pictures" / "cat" / "deeper", 30)
    write_folder(tmp_path / "pictures" / "cat", 20)
    images = opened(tmp_path / "pictures")
    assert images.class_names == ("cat", "dog")
    assert images.labels.dtype == np.int64
    assert np.bincount(images.labels).tolist() == [50, 20]


@pytest.mark.parametrize("stray", [True, False])
def test_there_are_no_labels_where_images_lie_at_the_top_or_in_one_sub_folder(tmp_path, stray):
    write_folder(tmp_path / "pictures" / "cat", 70)
    if stray:
        write_folder(tmp_path / "pictures" / "dog", 20)
        write_folder(tmp_path / "pictures", 1)
    images = opened(tmp_path / "pictures")
    assert images.labels is None
    assert images.class_names == ()


# Parquet


def test_parquet_of_the_hugging_face_layout_gives_its_pictures_and_labels(tmp_path):
    pictures = [noise(index) for index in range(70)]
    images = opened(write_parquet(tmp_path / "a.parquet", cells(pictures), [index % 3 for index in range(70)]))
    assert np.array_equal(images.examples[:, 0], pictures)
    assert np.array_equal(images.labels, np.arange(70) % 3)
    assert images.name == "a.parquet"


def test_parquet_with_a_plain_binary_column_of_another_name(tmp_path):
    column = [encoded(noise(index)) for index in range(64)]
    images = opened(write_parquet(tmp_path / "a.parquet", column, name="scan"), image_column="scan")
    assert np.array_equal(images.examples[63, 0], noise(63))
    assert images.labels is None


def test_the_order_of_columns_in_the_file_does_not_matter(tmp_path):
    path = tmp_path / "a.parquet"
    column = cells(noise(index) for index in range(64))
    pq.write_table(pa.table({"label": [index % 5 for index in range(64)], "note": ["x"] * 64, "image": column}), path)
    images = opened(path)
    assert np.array_equal(images.labels, np.arange(64) % 5)
    assert np.array_equal(images.examples[9, 0], noise(9))


def test_a_cell_without_bytes_is_read_from_its_path_beside_the_file(tmp_path):
    write_folder(tmp_path / "pictures")
    column = [{"bytes": None, "path": f"pictures/{index:03d}.png"} for index in range(64)]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = opened(write_parquet(tmp_path / "a.parquet", pa.array(column, struct)))
    assert np.array_equal(images.examples[63, 0], noise(63))


def test_shards_in_a_folder_are_one_set_in_the_order_of_their_names(tmp_path):
    for shard in (1, 0):
        pictures = cells(noise(index + 40 * shard) for index in range(40))
        write_parquet(tmp_path / "set" / f"train-{shard}.parquet", pictures, [shard] * 40)
    images = opened(tmp_path / "set")
    assert np.array_equal(images.examples[:, 0], [noise(index) for index in range(80)])
    assert images.labels.tolist() == [0] * 40 + [1] * 40


def test_a_shard_without_the_labels_of_the_others_is_named(tmp_path):
    write_parquet(tmp_path / "set" / "0.parquet", cells(noise(i) for i in range(40)), [i % 2 for i in range(40)])
    write_parquet(tmp_path / "set" / "1.parquet", cells(noise(i) for i in range(40)))
    text = failure(tmp_path / "set")
    assert "1.parquet" in text
    assert "label" in text


NAMES = ["ant", "bee", "cow", "dog"]
FEATURES = {"info": {"features": {"label": {"names": NAMES, "_type": "ClassLabel"}}}}


@pytest.mark.parametrize(
    "metadata",
    [{"class_names": json.dumps(NAMES)}, {"class_names": ",".join(NAMES)}, {"huggingface": json.dumps(FEATURES)}],
    ids=["json", "commas", "huggingface"],
)
def test_names_of_the_labels_are_read_from_the_metadata(tmp_path, metadata):
    labels = [1 + index % 2 for index in range(64)]
    column = cells(noise(index) for index in range(64))
    images = opened(write_parquet(tmp_path / "a.parquet", column, labels, metadata))
    assert images.class_names == tuple(NAMES)
    assert images.labels.tolist() == labels  # where names tell their meaning, labels stay as they are


@pytest.mark.parametrize("metadata", [{"huggingface": "not JSON"}, {"huggingface": "[]"}, {}])
def test_metadata_of_another_form_is_no_names(tmp_path, metadata):
    column = cells(noise(index) for index in range(64))
    labels = [index % 2 for index in range(64)]
    images = opened(write_parquet(tmp_path / "a.parquet", column, labels, metadata or None))
    assert images.class_names == ()
    assert images.labels.tolist() == labels


def test_labels_without_names_become_0_to_k(tmp_path):
    column = cells(noise(index) for index in range(64))
    labels = [(-5, 7, 900)[index % 3] for index in range(64)]
    images = opened(write_parquet(tmp_path / "a.parquet", column, labels))
    assert images.labels.tolist() == [index % 3 for index in range(64)]


@pytest.mark.parametrize("labels", [[0] * 64, [None] + [1] * 63, ["a", "b"] * 32])
def test_labels_that_tell_nothing_are_left_out(tmp_path, labels):
    column = cells(noise(index) for index in range(64))
    assert opened(write_parquet(tmp_path / "a.parquet", column, labels)).labels is None


def test_a_missing_column_is_named_with_the_nearest_and_the_setting(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", cells(noise(index) for index in range(64)), name="images")
    text = failure(path)
    assert str(path) in text
    assert "no column `image`; did you mean `images`?" in text
    assert "set data.image_column" in text


def test_a_column_of_another_type_is_named_with_what_is_expected(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", list(range(64)))
    text = failure(path)
    assert str(path) in text
    assert "column `image` is int64; expected struct{bytes, path} or binary" in text


def test_a_shard_of_another_type_is_named(tmp_path):
    write_parquet(tmp_path / "set" / "0.parquet", cells(noise(index) for index in range(64)))
    write_parquet(tmp_path / "set" / "1.parquet", list(range(64)))
    assert str(tmp_path / "set" / "1.parquet") in failure(tmp_path / "set")


@pytest.mark.parametrize("cell", [b"not an image", None, encoded(noise(0))[:60]])
def test_an_image_that_cannot_be_read_is_named_by_file_and_row(tmp_path, cell):
    good = [encoded(noise(index)) for index in range(64)]
    write_parquet(tmp_path / "set" / "0.parquet", good)
    path = write_parquet(tmp_path / "set" / "1.parquet", [*good[:5], cell, *good[6:]])
    text = failure(tmp_path / "set")
    assert f"{path}: the image in row 5 cannot be read" in text
    assert "mend or remove the row" in text


@pytest.mark.parametrize("content", [b"", b"PAR1", b"image,label\n1,2\n", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_file_that_is_not_parquet_is_named(tmp_path, content):
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    assert failure(path).startswith(f"{path}: cannot be read as Parquet")


def test_a_parquet_file_without_rows_is_named(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", pa.array([], pa.binary()))
    assert failure(path) == f"{path}: has no rows"


@pytest.mark.parametrize("stretch", [0.02, 0.4])
def test_damage_within_a_parquet_file_is_told_as_its_damage(tmp_path, stretch):
    path = write_parquet(tmp_path / "a.parquet", [encoded(noise(index)) for index in range(200)])
    content = bytearray(path.read_bytes())
    start = 4 if stretch < 0.1 else len(content) // 4
    content[start : start + int(stretch * len(content))] = bytes([255]) * int(stretch * len(content))
    path.write_bytes(content)
    text = failure(path)
    assert str(path) in text
    assert "cannot be read" in text


# What cannot be trained on


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_fewer_than_64_images_are_too_few(tmp_path, kind):
    if kind == "folder":
        path = write_folder(tmp_path / "pictures", 63)
    else:
        path = write_parquet(tmp_path / "a.parquet", cells(noise(index) for index in range(63)))
    assert failure(path) == f"{path}: has 63 images; at least 64 are needed"


@pytest.mark.parametrize(("width", "height"), [(20, 16), (7, 7), (129, 129)])
def test_pictures_that_are_not_square_or_not_8_to_128_need_a_size(tmp_path, width, height):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(64):
        Image.fromarray(np.full((height, width), index, np.uint8)).save(folder / f"{index:02d}.png")
    text = failure(folder)
    assert f"{width}x{height}" in text
    assert "set data.size" in text
    images = opened(folder, size=16)
    assert images.examples.shape == (64, 1, 16, 16)
    assert images.examples[7].min() == images.examples[7].max() == 7


def test_a_path_that_is_not_there_names_the_setting(tmp_path):
    text = failure(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in text
    assert "set data.dataset" in text


def test_a_folder_without_images_says_what_is_expected(tmp_path):
    (tmp_path / "empty").mkdir()
    text = failure(tmp_path / "empty")
    assert str(tmp_path / "empty") in text
    assert "expected .png, .jpg" in text


# Sets that torchvision downloads


@pytest.mark.parametrize(
    ("name", "attribute"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("cifar10", "CIFAR10")]
)
@pytest.mark.parametrize(
    ("kind", "reason"),
    [(URLError, "no route to host"), (RuntimeError, "file not found or corrupted"), (http.client.IncompleteRead, b"")],
)
def test_a_download_that_fails_says_what_to_do(monkeypatch, name, attribute, kind, reason, cache):
    def unreachable(**anything):
        raise kind(reason)

    monkeypatch.setattr(f"torchvision.datasets.{attribute}", unreachable)
    text = failure(name)
    assert f"`{name}` could not be downloaded into {cache}" in text
    assert "--set data.dataset=FILE.parquet" in text


def test_a_downloaded_set_gives_pictures_labels_and_names(monkeypatch):
    class Downloaded:
        classes = ("zero", "one")

        def __init__(self, root, train, download):
            assert train
            assert download

        def __len__(self):
            return 80

        def __getitem__(self, index):
            return Image.fromarray(noise(index, 28)), index % 2

    monkeypatch.setattr("torchvision.datasets.MNIST", Downloaded)
    images = open_data(DataConfig(dataset="mnist"))
    assert np.array_equal(images.examples[:, 0], [noise(index, 28) for index in range(80)])
    assert images.labels.tolist() == [0, 1] * 40
    assert images.class_names == ("zero", "one")


def test_local_mnist_is_read_at_28x28():
    if not MNIST.is_file():
        pytest.skip("MNIST is not there: put it as Parquet at ../shared/data/mnist-test.parquet")
    images = opened(MNIST.resolve())
    assert images.examples.shape == (10_000, 1, 28, 28)
    assert set(images.labels) == set(range(10))
    assert len(images.class_names) == 10
    assert 30 < images.examples.mean() < 37  # MNIST's known mean is 0.13 of 255


# Batches


def image_set_of(count=300, channels=1, labels=None):
    images = np.random.default_rng(0).integers(0, 256, (count, channels, 8, 8), dtype=np.uint8)
    return DataSet(name="noise", key="0", examples=images, labels=labels, class_names=())


def point_set_of(count=300, coordinates=2, labels=None):
    points = np.random.default_rng(0).standard_normal((count, coordinates)).astype(np.float32)
    return DataSet(name="cloud", key="1", examples=points, labels=labels, class_names=())


def test_streamed_and_resident_batches_are_the_same_for_one_seed(monkeypatch):
    images = open_data(DataConfig(dataset="digits"))
    resident = BatchSource(images, CPU, seed=5)
    monkeypatch.setattr(data_set, "RESIDENT_SHARE", 0)
    streaming = BatchSource(images, CPU, seed=5)
    assert resident.resident
    assert not streaming.resident
    for count in (1, 32, 64):
        held, streamed = resident.draw(count), streaming.draw(count)
        assert torch.equal(held.samples, streamed.samples)
        assert torch.equal(held.labels, streamed.labels)


@pytest.mark.parametrize("share", [0.25, 0])
def test_batches_are_pictures_of_the_set_in_minus_one_to_one(monkeypatch, share):
    monkeypatch.setattr(data_set, "RESIDENT_SHARE", share)
    images = image_set_of(channels=3)
    samples, labels = BatchSource(images, CPU, seed=1).draw(200)
    assert labels is None
    assert samples.shape == (200, 3, 8, 8)
    assert samples.dtype == torch.float32
    assert samples.min() == -1
    assert samples.max() == 1
    known = {picture.tobytes() for picture in images.examples}
    assert all(picture.numpy().tobytes() in known for picture in quantise(samples))


@pytest.mark.parametrize("share", [0.25, 0])
@pytest.mark.parametrize("kind", [image_set_of, point_set_of])
def test_every_sample_of_a_batch_comes_with_its_own_label(monkeypatch, kind, share):
    monkeypatch.setattr(data_set, "RESIDENT_SHARE", share)
    data = kind(labels=np.arange(300, dtype=np.int64))
    samples, labels = BatchSource(data, CPU, seed=1).draw(200)
    assert labels.dtype == torch.int64
    assert len(set(labels.tolist())) > 100
    assert np.array_equal(quantise(samples).numpy(), data.examples[labels.numpy()])


@pytest.mark.parametrize("share", [0.25, 0])
def test_points_are_drawn_as_they_are(monkeypatch, share):
    monkeypatch.setattr(data_set, "RESIDENT_SHARE", share)
    points = point_set_of(coordinates=3)
    samples, labels = BatchSource(points, CPU, seed=1).draw(200)
    assert labels is None
    assert (samples.shape, samples.dtype) == ((200, 3), torch.float32)
    known = {point.tobytes() for point in points.examples}
    assert all(point.numpy().tobytes() in known for point in samples)


def test_every_picture_is_drawn_and_seeds_differ():
    images = image_set_of()
    source = BatchSource(images, CPU, seed=1)
    drawn = {picture.numpy().tobytes() for _ in range(40) for picture in quantise(source.draw(64).samples)}
    assert len(drawn) == 270  # a tenth is kept back
    one, two = (BatchSource(images, CPU, seed=seed).draw(64).samples for seed in (1, 2))
    assert not torch.equal(one, two)


def test_batches_go_on_from_a_kept_state():
    images = image_set_of()
    source = BatchSource(images, CPU, seed=1)
    source.draw(10)
    state = source.generator.get_state()
    expected = source.draw(32).samples
    other = BatchSource(images, CPU, seed=99)
    other.generator.set_state(state)
    assert torch.equal(other.draw(32).samples, expected)


def test_drawing_does_not_touch_the_global_stream():
    before = torch.get_rng_state()
    BatchSource(image_set_of(), CPU, seed=1).draw(32)
    assert torch.equal(torch.get_rng_state(), before)


def test_quantise_undoes_scale_for_every_value_and_clamps_what_lies_outside():
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(quantise(scale(values)), values)
    assert quantise(torch.tensor([-3.0, 3.0]).reshape(2, 1, 1, 1)).flatten().tolist() == [0, 255]


@pytest.mark.parametrize(("labels", "counts"), [(None, ()), ([0, 0, 1, 0], (3, 1)), ([2, 2, 0, 2], (1, 0, 3))], ids=str)
def test_a_set_knows_its_shape_and_how_many_examples_each_class_has(labels, counts):
    labels = None if labels is None else np.array(labels, np.int64)
    pictures = image_set_of(count=4, channels=3, labels=labels)
    points = point_set_of(count=4, coordinates=5, labels=labels)
    assert pictures.class_counts == points.class_counts == counts
    assert pictures.shape == ImageShape(3, 8, len(counts))
    assert points.shape == PointShape(5, len(counts))


def test_data_errors_are_errors_a_user_can_act_on():
    assert issubclass(DataError, GantuneError)
