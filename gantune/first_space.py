"""A first search space for somebody's own data: what suits it, and what fits the machine and the time.

Choices follow from what is found: the pictures' sizes, count and labels, whether there is a GPU, and how fast a few
configurations of the space itself train here.
"""

import json
import re
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ruamel.yaml import YAML

from gantune.config import DataConfig
from gantune.data.data_set import DataSet, open_data
from gantune.errors import DataError
from gantune.metrics.reference import Reference
from gantune.metrics.reference_file import LEAST_PER_FEATURE, check_reference, load_reference, prepare_reference
from gantune.models.networks import ImageShape
from gantune.pace import TIMED, TIMED_SECONDS, Budget, Pace, fit_budget, measure_pace, share_trained
from gantune.space import SearchSpace, load_space
from gantune.survey import Machine, Survey, look_at_machine, survey
from gantune.trainer import choose_device

SIDES = (8, 16, 32, 64, 128)
CPU_SIDE = 32  # the most that trains in bearable time without a GPU
FEW = 10_000  # pictures, below which augmentation is worth a try
LEAST_OF_CLASS = 10  # pictures, and MOST_CLASSES, for labels to be worth a try
MOST_CLASSES = 100
SAMPLES_PER_PIXEL = 12_000  # of a side, after which small GANs have mostly shown what they can do

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstSpace:
    """The file's text, and in words what was found and chosen."""

    text: str
    said: tuple[str, ...]


def first_space(dataset: str, name: str, hours: float, report: Report = lambda text: None) -> FirstSpace:
    """A space for a data set that a search can finish in about `hours` on this machine.

    Raises DataError where the data are missing, unreadable, too few, or too big for the disk.
    """
    _check_text(dataset)
    report(f"looking at {dataset}")
    data, found = survey(dataset)
    machine = look_at_machine()
    if found is not None:
        data = replace(data, size=choose_size(found, gpu=machine.gpus > 0))
        data = replace(data, channels="rgb") if 0 < found.grey < found.count else data
        _check_disk(data, found, machine)
    images = open_data(data, report)
    device = choose_device()
    reference = load_reference(prepare_reference(images, report=report, device=device))
    draft = _Draft(name=name, data=data, found=found, machine=machine, images=images, hours=hours, reference=reference)
    space = _read(draft.text(Budget(trials=24, samples=100_000, seconds=0.0)), name)
    check_reference(images, space.objective, reference)
    report("timing a few configurations")
    pace = measure_pace(space, images, reference.to(device), device)
    at_once, trained = machine.at_once(space.resources), share_trained(space)
    budget = fit_budget(pace, draft.enough, at_once, hours, space.objective.reports, trained)
    text = draft.text(budget)
    disk = pace.disk(_read(text, name), at_once)
    said = (*draft.said(), *_said(budget, pace, machine, hours, at_once, trained), _room(machine, disk))
    return FirstSpace(text=text, said=said)


def choose_size(found: Survey, *, gpu: bool) -> int:
    """The side to train at: the pictures' own where they are equal squares, else a power of two below their median."""
    most = SIDES[-1] if gpu else CPU_SIDE
    if found.square and SIDES[0] <= found.side <= most:
        return found.side
    return max((side for side in SIDES if side <= min(most, found.side)), default=SIDES[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """All that the text depends on but the budget."""

    name: str
    data: DataConfig
    found: Survey | None
    machine: Machine
    images: DataSet
    hours: float
    reference: Reference

    @property
    def enough(self) -> int:
        """Samples after which a trial has mostly shown what it can do."""
        return SAMPLES_PER_PIXEL * (self.data.size or SIDES[0])

    @property
    def conditional(self) -> bool:
        """Whether labels are worth a try."""
        counts = self.images.class_counts
        return 1 < len(counts) <= MOST_CLASSES and min(counts) >= LEAST_OF_CLASS and self.found is not None

    @property
    def batches(self) -> list[int]:
        """Batch sizes of which the training data hold two."""
        most = min(len(self.images.train_rows) // 2, 128 if self.machine.gpus else 64)
        return [size for size in (16, 32, 64, 128) if size <= most][-2:] or [2]

    def samples(self) -> tuple[int, int, int]:
        """Generated samples behind a report and a final score, and the fewest that this many features allow."""
        least = LEAST_PER_FEATURE["fid"] * self.reference.gaussian.mean.numel()
        reported = max(2000 if self.machine.gpus else 1000, least)
        return reported, 5 * reported, least

    def contents(self) -> str:
        """The data in words."""
        counts = self.images.class_counts
        labels = "no labels"
        if counts:
            labels = f"{len(counts)} classes of {min(counts):,} to {max(counts):,}"
        what = str(self.found) if self.found else f"{len(self.images.examples):,} {self.images.shape}"
        return f"{what}; {labels}"

    def said(self) -> tuple[str, ...]:
        """What was found and chosen, but for the budget."""
        found = [f"{self.data.dataset}: {self.contents()}", f"this machine: {self.machine}"]
        if isinstance(self.images.shape, ImageShape):
            found.append(f"size: {self._size()}")
        networks = [f"networks: {', '.join(self._architectures())}"]
        if self.conditional:
            networks.append("whether labels help is searched")
        if self._few:
            networks.append("augmentation is searched, as the pictures are few")
        found.append("; ".join(networks))
        reported, final, least = self.samples()
        found.append(
            f"score: fid in the sight of `{self.reference.label}`, from {reported:,} samples a report and {final:,} at "
            f"the end; at least {least} are needed"
        )
        return tuple(found)

    def _size(self) -> str:
        size = self.data.size or 0
        assert self.found is not None
        smaller = sum(min(each) < size for each in self.found.sizes)
        words = [f"{size}x{size}"]
        if size < choose_size(self.found, gpu=True):
            words.append("smaller than on a GPU")
        elif self.found.side > size:
            words.append("the power of two below the median picture")
        if not self.found.square:
            words.append("cropped square")
        if smaller:
            words.append(f"{smaller:,} smaller ones are enlarged")
        return ", ".join(words)

    @property
    def _few(self) -> bool:
        return self.found is not None and len(self.images.examples) < FEW

    def _architectures(self) -> dict[str, str]:
        """The architectures and what is searched of each."""
        if self.found is None:
            return {"mlp": "hidden: [64, 128, 256], depth: int 2..4, z_dim: [2, 16], norm_d: [layer, spectral, none]"}
        told = ", conditional: [true, false]" if self.conditional else ""
        if not self.machine.gpus:
            return {
                "dcgan": f"width: [16, 32], norm_d: [batch, spectral, none]{told}",
                "mlp": f"hidden: [128, 256, 512], depth: int 2..4{told}",
            }
        return {
            "dcgan": f"width: [32, 64], norm_d: [batch, spectral, none]{told}",
            "resnet": f"width_g: [32, 64], width_d: [32, 64], depth: [1, 2]{told}",
            "r3gan": f"width: [32, 64], group_width: [8, 16]{told}",
        }

    def _baseline(self) -> tuple[str, str]:
        """The baseline's architecture and where it comes from."""
        if self.found is None:
            return "{mlp: {hidden: 128, depth: 4, z_dim: 2, norm_d: none}}", "the first GAN, Goodfellow et al. 2014"
        told = ", conditional: false" if self.conditional else ""
        width = 64 if self.machine.gpus else 32
        return (
            f"{{dcgan: {{width: {width}, norm_d: batch{told}}}}}",
            "DCGAN as published, Radford et al. 2016, in small",
        )

    def text(self, budget: Budget) -> str:
        """The whole file."""
        reported, final, _ = self.samples()
        architecture, source = self._baseline()
        augmented, plain = "", ""
        if self._few:
            augmented, plain = "  augmentation: {choose: {none: {}, diffaugment: {}}}\n", "  augmentation: none\n"
        batches = self.batches
        blocks = "\n".join(f"      {name}: {{{options}}}" for name, options in self._architectures().items())
        return f"""\
{_comment(f"Which GAN draws what is in {self.data.dataset} best?")}
#
{_comment(self.contents() + ".")}
{_comment(f"Cost: about {_duration(budget.seconds)}, on {self.machine}; measured with a few steps.")}
# All of it may be changed: `gantune show architectures` (losses, penalties, ...) lists what else there is.

version: 1
name: {_scalar(self.name)}
data: {{{self._data()}}}
objective:
  metric: fid
  features: auto
  samples: {{report: {reported}, final: {final}}}
  constraints: [recall >= 0.1]          # a small-sample distance alone rewards too little variety
budget: {{trials: {budget.trials}, samples_per_trial: {budget.samples:_}, hours: {self.hours:g}}}
search: {{sampler: tpe, scheduler: {{asha: {{first_rung: 0.08, reduction: 2}}}}, seed: 0}}

space:
  architecture:
    choose:
{blocks}
  loss: [non_saturating, hinge, relativistic]
  penalty: {{choose: {{none: {{}}, r1: {{weight: log 0.001..1}}}}}}
{augmented}\
  optimizer: {{adam: {{beta1: [0, 0.5], beta2: [0.9, 0.99, 0.999]}}}}
  lr_g: log 5e-5..2e-3
  lr_d_ratio: log 0.5..4
  batch_size: {batches if len(batches) > 1 else batches[0]}

baseline:                               # {source}
  architecture: {architecture}
  loss: non_saturating
  penalty: none
{plain}\
  optimizer: {{adam: {{beta1: 0.5, beta2: 0.999}}}}
  lr_g: 2e-4
  lr_d_ratio: 1
  batch_size: {batches[-1]}
"""

    def _data(self) -> str:
        """The data section; what is as it would be without being said is left out."""
        data, usual = self.data, DataConfig()
        named = {"dataset": _scalar(data.dataset)}
        if data.size is not None:
            named["size"] = str(data.size)
        for key in ("channels", "image_column", "label_column"):
            if getattr(data, key) != getattr(usual, key):
                named[key] = _scalar(getattr(data, key))
        return ", ".join(f"{key}: {value}" for key, value in named.items())


def _said(budget: Budget, pace: Pace, machine: Machine, hours: float, at_once: int, trained: float) -> tuple[str, ...]:
    """The budget in words, and what it rests on."""
    expected = f"about {_duration(budget.seconds)} of the {_duration(hours * 3600)} asked for"
    if budget.seconds > hours * 3600:
        expected = (
            f"about {_duration(budget.seconds)}, so that the search ends after {_duration(hours * 3600)} unfinished"
        )
    return (
        f"budget: {budget.trials} trials of {budget.samples:,} samples, {at_once} at once: {expected}",
        f"measured: {1 / pace.sample:,.0f} samples a second and {pace.report:.2g} s a report, the mean of the "
        f"slower half of {TIMED} configurations, {TIMED_SECONDS:g} s each, beside whatever runs here now; "
        f"ASHA is taken to train {trained:.0%} of all samples",
    )


def _room(machine: Machine, disk: float) -> str:
    return f"disk: {machine.free / 1e9:.3g} GB are free; checkpoints in runs/ take up to {disk / 1e9:.2g} GB"


def _check_text(dataset: str) -> None:
    try:
        dataset.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{dataset!r}: its name is not UTF-8 text, as a space file is; rename it") from error


def _check_disk(data: DataConfig, found: Survey, machine: Machine) -> None:
    size = data.size or 0
    needed = found.count * size**2 * (1 if found.grey == found.count else 3)
    if needed > machine.free:
        raise DataError(
            f"{data.dataset}: decoded at {size}x{size} it takes {needed / 1e9:.3g} GB, and {machine.free / 1e9:.3g} GB "
            "are free; set GANTUNE_CACHE to a folder on another disk"
        )


def _read(text: str, name: str) -> SearchSpace:
    """The text as the search will read it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        return load_space(path)


def _scalar(text: str) -> str:
    """Text as YAML reads it back, quoted where it must be."""
    plain = re.fullmatch(r"[\w./-]+", text) and YAML(typ="safe", pure=True).load(text) == text
    return text if plain else json.dumps(text, ensure_ascii=False)


def _comment(text: str) -> str:
    shown = "".join(character if character.isprintable() else " " for character in text)
    lines = textwrap.wrap(" ".join(shown.split()), 110, break_long_words=False)
    return "\n".join(f"# {line}" for line in lines)


def _duration(seconds: float) -> str:
    for unit, length in (("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = f"{seconds / length:.2g}"
            return f"{count} {unit}{'s' * (count != '1')}"
    return f"{max(1, round(seconds))} seconds"
