"""Decode a source once into a memory-mapped copy, and draw batches from it.

The copy is one uint8 array on disk that every worker of a machine maps, so pictures are decoded once per machine.
Where it fits it is then held as one tensor on the training device; a bigger one streams from the map. Points are
small, and come as an array.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from filelock import FileLock
from PIL import Image, ImageOps
from torch import Tensor

from gantune import plugins
from gantune.config import DataConfig
from gantune.data.cache import cache_directory
from gantune.data.files import hash_files
from gantune.data.image_folder import image_folder
from gantune.data.parquet import parquet
from gantune.data.source import Example, Source
from gantune.errors import DataError, GantuneError
from gantune.models.networks import Shape, shape_of
from gantune.plugins import did_you_mean

FORMAT = 1
LEAST = 64  # pictures
GREY = frozenset(["1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"])  # Pillow's modes
RESIDENT_SHARE = 0.25  # of the device's free memory that the pictures may take
ASSUMED_FREE_BYTES = 4 * 2**30  # where the system does not tell
HELD_OUT = 0.1  # of the examples no generator is trained on
HELD_OUT_MOST = 2_000

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """What is to be learned, decoded.

    `examples`: pictures, uint8 [N, C, S, S], or points, float32 [N, D] of about unit deviation. `labels`: int64 [N],
    or None. `key` names examples and form; `files` is a table of the files that they come from (hash_files), or None.
    Generators learn from `train_rows`; `held_rows` are what nothing is trained on, so that copying can be told from
    learning.
    """

    name: str
    key: str
    examples: npt.NDArray[np.uint8] | npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64] | None
    class_names: tuple[str, ...]
    files: pa.Table | None = None

    @property
    def shape(self) -> Shape:
        """The shape of one example, and the number of classes."""
        return shape_of(self.examples.shape[1:], len(self.class_counts))

    @property
    def class_counts(self) -> tuple[int, ...]:
        """How many examples each class has; empty where there are no labels."""
        return () if self.labels is None else tuple(np.bincount(self.labels).tolist())

    @property
    def train_rows(self) -> npt.NDArray[np.int64]:
        """Which examples are learned from, int64 [T], in order."""
        return np.sort(self._shuffled()[self._held :])

    @property
    def held_rows(self) -> npt.NDArray[np.int64]:
        """Which examples are kept back, int64 [H], in order: a tenth, or 2,000; the same for equal data."""
        return np.sort(self._shuffled()[: self._held])

    @property
    def _held(self) -> int:
        return min(HELD_OUT_MOST, round(HELD_OUT * len(self.examples)))

    def _shuffled(self) -> npt.NDArray[np.int64]:
        return np.random.default_rng(0).permutation(len(self.examples))


class Batch(NamedTuple):
    """Real samples, float32 [B, ...], pictures in [-1, 1]; and their labels, int64 [B], or None without labels."""

    samples: Tensor
    labels: Tensor | None


def open_data(config: DataConfig, report: Report = lambda text: None) -> DataSet:
    """The data a configuration names; pictures are decoded into the cache on first use.

    Raises DataError where they are missing, unreadable, too few, or of a size that `data.size` must settle.
    """
    source = open_source(config)
    if isinstance(source, DataSet):
        return source
    copies = cache_directory() / "images"
    try:
        copies.mkdir(parents=True, exist_ok=True)
        files = hash_files(source.files, Path(config.dataset), report) if source.files else None
        identity = source.identity + ("" if files is None else "".join(files["sha256"].to_pylist()))
        wish = f"{FORMAT}\0{identity}\0{config.size}\0{config.channels}"
        key = hashlib.sha256(wish.encode()).hexdigest()[:16]
        folder = copies / key
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                _decode(source, config, folder, files, report)
    except OSError as error:
        raise DataError(f"{copies}: cannot be written: {error}; set GANTUNE_CACHE to another folder") from error
    labels = folder / "labels.npy"
    try:
        return DataSet(
            name=Path(config.dataset).name,
            key=key,
            examples=np.load(folder / "images.npy", mmap_mode="r"),
            labels=np.load(labels) if labels.exists() else None,
            class_names=tuple(json.loads((folder / "classes.json").read_text())),
            files=files,
        )
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: the decoded copy is damaged: {error}; remove it, and it is made again") from error


def open_source(config: DataConfig) -> Source | DataSet:
    """The pictures a configuration names, still undecoded, or points.

    Raises DataError where they are missing, unreadable or too few.
    """
    source = _named(config)
    if isinstance(source, Source) and source.count < LEAST:
        raise DataError(f"{config.dataset}: has {source.count} images; at least {LEAST} are needed")
    return source


def _named(config: DataConfig) -> Source | DataSet:
    if config.dataset in plugins.names("dataset") or ":" in config.dataset:
        factory = plugins.resolve("dataset", config.dataset)
        return factory(config) if config.dataset in plugins.BUILTIN["dataset"] else _own(factory, config)
    path = Path(config.dataset)
    if path.is_dir():
        shards = sorted(path.rglob("*.parquet"))
        return parquet(shards, path, config) if shards else image_folder(path)
    if path.is_file():
        return parquet([path], path.parent, config)
    hint = did_you_mean(config.dataset, plugins.names("dataset"))
    raise DataError(f"{path}: no such file or folder{hint}; set data.dataset")


def _own(factory: plugins.Factory, config: DataConfig) -> Source | DataSet:
    """What a function of a user's gives, which may fail in any way, and at any picture."""

    def examples(given: Iterator[Example]) -> Iterator[Example]:
        try:
            for each in given:
                picture, label = each
                yield picture, label
        except Exception as error:
            raise _failed(error) from error

    def _failed(error: Exception) -> DataError:
        return DataError(f"dataset `{config.dataset}` fails: {type(error).__name__}: {error}")

    try:
        source: Source | DataSet = factory(config)
        if isinstance(source, Source):
            files = {str(name): Path(path) for name, path in source.files.items()}
            return replace(source, examples=examples(source.examples), files=files)
    except GantuneError:
        raise
    except Exception as error:
        raise _failed(error) from error
    if not isinstance(source, DataSet):
        raise DataError(f"dataset `{config.dataset}`: expected a Source or a DataSet, got a {type(source).__name__}")
    return source


def _decode(source: Source, config: DataConfig, folder: Path, files: pa.Table | None, report: Report) -> None:
    """Write the decoded copy under a temporary name, then rename it: a copy that exists is whole.

    files: those that the copy is named after.
    """
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix="partial-"))
    try:
        labels: list[int | None] = []
        images: npt.NDArray[np.uint8] | None = None
        for index, (picture, label) in enumerate(source.examples):
            if index == source.count:
                raise DataError(f"{config.dataset}: promised {source.count} images and gives more")
            if images is None:
                form = _form(picture, config)
                images = np.lib.format.open_memmap(
                    partial / "images.npy", mode="w+", dtype=np.uint8, shape=(source.count, *form)
                )
            try:
                images[index] = _fit(picture, *images.shape[1:3])
            except ValueError as error:
                raise DataError(f"{config.dataset}: image {index} cannot be used: {error}") from error
            labels.append(label)
            if (index + 1) % 5000 == 0:
                report(f"decoding {Path(config.dataset).name}: {index + 1:,} of {source.count:,} images")
        if images is None or len(labels) != source.count:
            raise DataError(f"{config.dataset}: promised {source.count} images and gave {len(labels)}")
        images.flush()  # type: ignore[attr-defined]
        if all(label is not None for label in labels) and len(set(labels)) > 1:
            np.save(partial / "labels.npy", _dense(labels, len(source.class_names)))
        (partial / "classes.json").write_text(json.dumps(source.class_names))
        if files is not None and not files.equals(hash_files(source.files, Path(config.dataset))):
            raise DataError(f"{config.dataset}: its files changed while they were read; run the same command again")
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _dense(labels: list[int | None], named: int) -> npt.NDArray[np.int64]:
    """Labels as 0..K-1; kept as they are where names tell their meaning."""
    values = np.asarray(labels, dtype=np.int64)
    if named and values.min() >= 0 and values.max() < named:
        return values
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _form(first: Image.Image, config: DataConfig) -> tuple[int, int, int]:
    channels = {"grey": 1, "rgb": 3}.get(config.channels) or (1 if first.mode in GREY else 3)
    if config.size is not None:
        return channels, config.size, config.size
    width, height = first.size
    if width != height or not 8 <= width <= 128:
        raise DataError(
            f"{config.dataset}: the first image is {width}x{height}; "
            "images are trained square, from 8 to 128 pixels: set data.size"
        )
    return channels, height, width


def _fit(picture: Image.Image, channels: int, size: int) -> npt.NDArray[np.uint8]:
    """One picture as uint8 [C, size, size]: centre-cropped to a square, Lanczos-resampled where the size differs."""
    if picture.mode == "F":
        raise ValueError("its pixels are floating point of an unknown range; save it with 8 or 16 bits")
    if picture.mode.startswith("I"):  # 16-bit grey
        picture = Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if picture.mode == "LAB":
        picture = picture.convert("RGB")
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (size, size):
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture, dtype=np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


class BatchSource:
    """Draws batches of real samples with replacement, by index, from a generator of its own."""

    def __init__(self, data: DataSet, device: torch.device, seed: int) -> None:
        self._device = device
        self.resident = data.examples.nbytes <= RESIDENT_SHARE * _free_bytes(device)
        self._held = _channels_last(torch.from_numpy(np.array(data.examples))).to(device) if self.resident else None
        self._map = data.examples
        self._rows = torch.from_numpy(data.train_rows)
        self._labels = None if data.labels is None else torch.from_numpy(np.array(data.labels)).to(device)
        self.generator = torch.Generator().manual_seed(seed)  # on the CPU, so that residence changes no draw

    def draw(self, count: int) -> Batch:
        """A batch on the device."""
        index = self._rows[torch.randint(len(self._rows), (count,), generator=self.generator)]
        if self._device.type == "cuda":
            index = index.pin_memory()
        on_device = index.to(self._device, non_blocking=True)
        if self._held is not None:
            examples = self._held[on_device]
        else:
            examples = _channels_last(torch.from_numpy(self._map[index.numpy()])).to(self._device, non_blocking=True)
        return Batch(scale(examples), None if self._labels is None else self._labels[on_device])


def _channels_last(examples: Tensor) -> Tensor:
    """Pictures in the memory order that convolutions are fastest in; points as they are."""
    return examples.contiguous(memory_format=torch.channels_last) if examples.dim() == 4 else examples


def scale(examples: Tensor) -> Tensor:
    """uint8 pixels to float32 in [-1, 1]; points as they are."""
    return examples.float().div_(127.5).sub_(1.0) if examples.dtype == torch.uint8 else examples


def quantise(samples: Tensor) -> Tensor:
    """Pictures in [-1, 1] to uint8 pixels, as they would be saved; points as they are."""
    if samples.dim() != 4:
        return samples.float()
    return samples.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError):  # told by Linux only
        return ASSUMED_FREE_BYTES
