"""A look at data and machine before anything is decoded or trained."""

import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from gantune.config import DataConfig, ResourcesConfig
from gantune.data.cache import cache_directory
from gantune.data.data_set import GREY, LEAST, DataSet, open_source
from gantune.data.parquet import guess_columns
from gantune.data.source import Source
from gantune.plan import Clock

HEADERS_SHARE = 0.2  # of the time that there is, after which the other headers are left unread


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Pictures of any sizes.

    `sizes`: width and height of each picture looked at, in the order of the shorter side; `grey`: how many of them
    are; `count`: of all pictures; `classes`: how many of those looked at have each label, empty without labels.
    """

    sizes: tuple[tuple[int, int], ...]
    grey: int
    count: int
    classes: tuple[int, ...] = ()

    @property
    def seen(self) -> int:
        """How many pictures were looked at."""
        return len(self.sizes)

    @property
    def side(self) -> int:
        """The shorter side of the median picture."""
        return min(self.sizes[self.seen // 2])

    @property
    def square(self) -> bool:
        """Whether all are squares of one size."""
        return self.sizes[0][0] == self.sizes[0][1] and len(set(self.sizes)) == 1

    def __str__(self) -> str:
        colour = "RGB" if not self.grey else "grey" if self.grey == self.seen else f"RGB ({self.grey:,} of them grey)"
        smallest, median, largest = ("x".join(map(str, self.sizes[at])) for at in (0, self.seen // 2, -1))
        part = f" (the first {self.seen:,} of them looked at)" if self.seen < self.count else ""
        if smallest == largest:
            return f"{self.count:,} {colour} pictures of {median}{part}"
        return f"{self.count:,} {colour} pictures: smallest {smallest}, median {median}, largest {largest}{part}"


def survey(dataset: str, clock: Clock | None = None) -> tuple[DataConfig, Survey | None, Source | DataSet]:
    """Return where the pictures are, what they are like by their headers where they have any, and their source.

    Points have no survey. Where the clock leaves too little time for all headers, the first ones are looked at.
    Raises DataError where pictures are missing, unreadable or too few.
    """
    clock = clock or Clock()
    config = _columns(dataset)
    source = open_source(config)
    if not isinstance(source, Source):
        channels, *sides = source.shape.dims
        sizes = [(sides[0], sides[1])] * len(source.examples) if sides else []
        grey = len(sizes) * (channels == 1)
        found = Survey(sizes=tuple(sizes), grey=grey, count=len(sizes), classes=source.class_counts)
        return config, found if sizes else None, source
    sizes, grey, labels = [], 0, Counter[int | None]()
    until = clock.spent + HEADERS_SHARE * clock.left
    for picture, label in source.headers or source.examples:
        sizes.append(picture.size)
        grey += picture.mode in GREY
        labels[label] += 1
        if len(sizes) >= LEAST and clock.spent > until:
            break
    classes = () if None in labels or len(labels) < 2 else tuple(labels[label] for label in sorted(labels))  # type: ignore[type-var]
    sizes.sort(key=lambda size: (min(size), size))
    return config, Survey(sizes=tuple(sizes), grey=grey, count=source.count, classes=classes), source


def _columns(dataset: str) -> DataConfig:
    """The data by name, with the columns that hold pictures and labels where they are Parquet."""
    path = Path(dataset)
    shard = path if path.is_file() else next(path.rglob("*.parquet"), None) if path.is_dir() else None
    if shard is None:
        return DataConfig(dataset=dataset)
    image, label = guess_columns(shard)
    return DataConfig(dataset=dataset, image_column=image, label_column=label)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What trials may use. `gpu` names the first one; `free`: bytes left on the disk of the cache."""

    cpus: int
    gpus: int = 0
    gpu: str = ""
    free: int

    def at_once(self, resources: ResourcesConfig) -> int:
        """How many trials run at once; where nothing is said, a trial takes a GPU if there are any.

        What is `auto` is measured only when a search begins, so that it counts here as if nothing were said.
        """
        gpus, cpus = resources.gpus_per_trial, resources.cpus_per_trial
        gpus = float(self.gpus > 0) if gpus is None or gpus == "auto" else gpus
        fitting = self.cpus / (1.0 if cpus == "auto" else cpus)
        return max(1, int(min(fitting, self.gpus / gpus) if gpus else fitting))

    def __str__(self) -> str:
        gpus = f"{self.gpus} x {self.gpu}" if self.gpus else "no GPU"
        return f"{self.cpus} CPU core{'s' * (self.cpus > 1)}, {gpus}"


def look_at_machine() -> Machine:
    """This machine."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    folder = cache_directory().absolute()
    while not folder.exists():
        folder = folder.parent
    gpus = torch.cuda.device_count()
    gpu = torch.cuda.get_device_name(0) if gpus else ""
    return Machine(cpus=cpus, gpus=gpus, gpu=gpu, free=shutil.disk_usage(folder).free)
