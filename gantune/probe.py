"""Data and features to time trials with: the real ones where there is time to prepare them, else a part and a stand-in.

What is prepared goes into the cache, where the search finds it. What is not is timed on a part, so that its cost is
known.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from gantune.config import Component, DataConfig
from gantune.data.cache import cache_directory
from gantune.data.data_set import LEAST, DataSet, open_data, open_source
from gantune.data.source import Source
from gantune.metrics.features import BATCH, TURNS, FeatureNet, auto, extract, steps_for
from gantune.metrics.reference import LEARNED_FROM, Reference
from gantune.metrics.reference_file import (
    LEARNING_THREADS,
    STATISTICS,
    load_reference,
    prepare_reference,
    reference_wish,
)
from gantune.models.networks import Shape
from gantune.plan import Clock
from gantune.survey import Survey
from gantune.threads import on_threads

PART = 256  # pictures that are decoded in any case
PART_SECONDS = 2.0  # after which fewer will do
STEPS = 3  # of feature learning that are timed
RESERVED = 0.3  # of the limit, for timing configurations
CAUTION = 1.3  # by which an estimate may be too low
STATISTICS_SECONDS = 2.0  # of a reference besides learning and features, measured on 2 CPU cores
UNTRAINED = Component(name=f"{__name__}:untrained")

Report = Callable[[str], None]


class _OutOfTimeError(Exception):
    """A preparation that takes longer than was estimated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Data and a reference to time trials with.

    `data`, `features`: seconds of what is left for the search to prepare; 0 where the cache holds it. `whole` says
    whether images are all of the data. `label` names the features; `synthetic`: seconds in which a classifier learns
    from a conditional generator's samples, at a trial's end.
    """

    images: DataSet
    reference: Reference
    label: str
    whole: bool
    data: float
    features: float
    synthetic: float

    @property
    def learned(self) -> bool:
        """Whether the reference is the one that the search will use."""
        return not self.features


def prepare(
    config: DataConfig,
    found: Survey | None,
    source: Source | DataSet,
    clock: Clock,
    report: Report,
    device: torch.device,
) -> Probe:
    """Return data and a reference, prepared as far as the clock allows.

    Raises DataError where the data are unreadable or do not suit.
    """
    images, whole, decoding = _data(config, found, source, clock, report)
    count = len(images.examples) if whole else source_count(source)
    label = auto(images.shape).label  # raises DataError where there is nothing to learn features from
    step = time_learning(images.shape, LEARNING_THREADS)
    rows = min(STATISTICS, count)
    learning = steps_for(count) * step + rows * _time_features(images, device) + STATISTICS_SECONDS
    reference = _reference(images, learning, clock, report, device) if whole else None
    synthetic = steps_for(LEARNED_FROM) * time_learning(images.shape, 1) if images.class_counts else 0.0
    return Probe(
        images=images,
        reference=reference or _stand_in(images, device),
        label=label,
        whole=whole,
        data=decoding,
        features=0.0 if reference else learning,
        synthetic=synthetic,
    )


def source_count(source: Source | DataSet) -> int:
    """Return the number of examples of a source."""
    return source.count if isinstance(source, Source) else len(source.examples)


def _data(
    config: DataConfig, found: Survey | None, source: Source | DataSet, clock: Clock, report: Report
) -> tuple[DataSet, bool, float]:
    """The data, whether they are all of it, and the seconds that decoding them takes the search."""
    if not isinstance(source, Source) or found is None:
        return open_data(config, report), True, 0.0
    part, each = _decode_part(config, found, source)
    seconds = each * source.count
    if _fits(seconds, clock):
        try:
            return open_data(config, _guarded(report, clock)), True, 0.0
        except _OutOfTimeError:
            pass
    return part, False, seconds


def _decode_part(config: DataConfig, found: Survey, source: Source) -> tuple[DataSet, float]:
    """Some of the pictures with invented labels, and the seconds in which a picture of mean size is decoded."""
    assert config.size is not None
    fresh = source if source.headers else open_source(config)  # a survey without headers has used the examples up
    assert isinstance(fresh, Source)
    side, mode = (config.size, config.size), "L" if found.grey == found.seen else "RGB"
    started, pixels, decoded = time.monotonic(), 0, []
    for picture, _ in itertools.islice(fresh.examples, PART):
        pixels += picture.width * picture.height
        decoded.append(np.asarray(_fitted(picture.convert(mode), side)))
        if len(decoded) >= LEAST and time.monotonic() - started > PART_SECONDS:
            break
    mean = sum(width * height for width, height in found.sizes) / found.seen
    seconds = (time.monotonic() - started) / pixels * mean
    examples = np.stack(decoded)
    examples = examples[:, None] if mode == "L" else examples.transpose(0, 3, 1, 2)
    return (
        DataSet(
            name=config.dataset,
            key=f"part-{time.time_ns()}",
            examples=np.ascontiguousarray(examples),
            labels=np.arange(len(examples)) % len(found.classes) if found.classes else None,
            class_names=(),
        ),
        seconds,
    )


def _fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture if picture.size == size else ImageOps.fit(picture, size, Image.Resampling.LANCZOS)


def _reference(
    images: DataSet, learning: float, clock: Clock, report: Report, device: torch.device
) -> Reference | None:
    """The reference of the search, from the cache or made now; None where there is no time for it."""
    known = (cache_directory() / "references" / f"{reference_wish(images)}.safetensors").exists()
    if not known and not _fits(learning, clock):
        return None
    try:
        return load_reference(prepare_reference(images, report=_guarded(report, clock), device=device)).to(device)
    except _OutOfTimeError:
        return None


def _fits(seconds: float, clock: Clock) -> bool:
    return CAUTION * seconds < clock.left - RESERVED * clock.limit


def _guarded(report: Report, clock: Clock) -> Report:
    """A report that ends a preparation when the time reserved for the rest begins."""

    def guarded(text: str) -> None:
        report(text)
        if clock.left < RESERVED * clock.limit:
            raise _OutOfTimeError

    return guarded


def time_learning(shape: Shape, threads: int) -> float:
    """Return the seconds of a step of feature learning on so many threads."""

    def batch(count: int) -> tuple[Tensor, Tensor]:
        return torch.rand(count, *shape.dims), torch.randint(TURNS, (count,))

    with on_threads(threads):
        for steps in (2, STEPS):  # the first ones are slow, and show nothing
            net = FeatureNet(shape, TURNS, "timed")
            started = time.monotonic()
            net.fit(batch, steps, lambda text: None)
    return (time.monotonic() - started) / STEPS


def _time_features(images: DataSet, device: torch.device) -> float:
    """Seconds in which the features of one example are computed."""
    net = auto(images.shape).eval().to(device)
    some = torch.from_numpy(np.array(images.examples[:BATCH]))
    started = time.monotonic()
    extract(net, some, device)
    return (time.monotonic() - started) / len(some)


def untrained(shape: Shape) -> nn.Module:
    """The network behind `auto` that learns nothing: its reports cost the same."""
    return _Untrained(shape, shape.classes or TURNS, "untrained")


class _Untrained(FeatureNet):
    learn = None  # type: ignore[assignment]


def _stand_in(images: DataSet, device: torch.device) -> Reference:
    """A reference of untrained features of a few examples; nothing of it stays in the cache."""
    labels = None if images.labels is None else images.labels[:PART]
    few = replace(images, key=f"few-{images.key}", examples=images.examples[:PART], labels=labels)
    path = prepare_reference(few, UNTRAINED, device=device)
    try:
        return load_reference(path).to(device)
    finally:
        path.unlink()
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
