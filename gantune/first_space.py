"""A first search space for a user's own data: components that suit the data, and a budget that fits machine and time.

Choices follow from measurements: the pictures' sizes, count and labels, whether there is a GPU, and how fast a few
configurations of the space itself train here.
"""

import json
import math
import re
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ruamel.yaml import YAML

from gantune.config import DataConfig
from gantune.data.data_set import HELD_OUT
from gantune.errors import DataError
from gantune.metrics.reference_file import LEAST_PER_FEATURE, check_reference
from gantune.models.networks import ImageShape
from gantune.pace import disk, measure_pace
from gantune.plan import REDUCTION, Budget, Clock, Paces, Plan, Preparation, Work, make_plan, starting
from gantune.probe import Probe, prepare, source_count
from gantune.space import SearchSpace, load_space
from gantune.spending import duration
from gantune.survey import Machine, Survey, look_at_machine, survey
from gantune.trainer import choose_device

SIDES = (8, 16, 32, 64, 128)
CPU_SIDE = 32  # the most that trains in bearable time without a GPU
FEW = 10_000  # pictures, below which augmentation is worth a try
LEAST_OF_CLASS = 10  # pictures, and MOST_CLASSES, for labels to be worth a try
MOST_CLASSES = 100
SAMPLES_PER_PIXEL = 12_000  # of a side, after which small GANs have mostly shown what they can do

DRAFT = Plan(budget=Budget(trials=24, samples=100_000), preparation=Preparation())  # of the space that is timed

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstSpace:
    """The file's text, and in words what was found and chosen."""

    text: str
    said: tuple[str, ...]


def first_space(
    dataset: str, name: str, hours: float, report: Report = lambda text: None, clock: Clock | None = None
) -> FirstSpace:
    """Return a space for a data set that a search can finish in so many hours on this machine.

    The clock says how long this itself may take; what does not fit is left to the search, and counts there.
    Raises DataError where the data are missing, unreadable, too few, or too big for the disk.
    """
    clock = clock or Clock()
    imports = clock.spent
    _check_text(dataset)
    report(f"looking at {dataset}")
    data, found, source = survey(dataset, clock)
    machine = look_at_machine()
    if found is not None:
        data = replace(data, size=choose_size(found, gpu=machine.gpus > 0))
        data = replace(data, channels="rgb") if 0 < found.grey < found.seen else data
        _check_disk(data, found, machine)
    device = choose_device()
    probe = prepare(data, found, source, clock, report, device)
    draft = _Draft(
        name=name, data=data, found=found, machine=machine, probe=probe, hours=hours, count=source_count(source)
    )
    space = _read(draft.text(DRAFT), name)
    if probe.learned:
        check_reference(probe.images, space.objective, probe.reference)
    report("timing a few configurations")
    paces = measure_pace(space, probe.images, probe.reference, device, clock, probe.synthetic)
    work = Work(machine.at_once(space.resources), space.objective.reports)
    preparation = Preparation(starting=starting(imports), data=probe.data, features=probe.features)
    plan = make_plan(paces, draft.enough, work, preparation, hours)
    text = draft.text(plan)
    needed = disk(_read(text, name), work.at_once, paces.checkpoint)
    time = _time(plan, clock, hours)
    return FirstSpace(text=text, said=(*draft.said(), *_said(plan, paces, work, hours), time, _room(machine, needed)))


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
    probe: Probe
    hours: float
    count: int

    @property
    def enough(self) -> int:
        """Samples after which a trial has mostly shown what it can do."""
        return SAMPLES_PER_PIXEL * (self.data.size or SIDES[0])

    @property
    def conditional(self) -> bool:
        """Whether labels are worth a try."""
        counts = self._classes
        return 1 < len(counts) <= MOST_CLASSES and min(counts) >= LEAST_OF_CLASS and self.found is not None

    @property
    def _classes(self) -> tuple[int, ...]:
        """How many examples each class has."""
        images = self.probe.images
        return images.class_counts if self.probe.whole or self.found is None else self.found.classes

    @property
    def batches(self) -> list[int]:
        """Batch sizes of which the training data hold two."""
        most = min(round((1 - HELD_OUT) * self.count) // 2, 128 if self.machine.gpus else 64)
        return [size for size in (16, 32, 64, 128) if size <= most][-2:] or [2]

    def samples(self) -> tuple[int, int, int]:
        """Generated samples behind a report and a final score, and the fewest that this many features allow."""
        least = LEAST_PER_FEATURE["fid"] * self.probe.reference.gaussian.mean.numel()
        reported = max(2000 if self.machine.gpus else 1000, least)
        return reported, 5 * reported, least

    def contents(self) -> str:
        """The data in words."""
        counts = self._classes
        labels = "no labels"
        if counts:
            labels = f"{len(counts)} classes of {min(counts):,} to {max(counts):,}"
        what = str(self.found) if self.found else f"{self.count:,} {self.probe.images.shape}"
        return f"{what}; {labels}"

    def said(self) -> tuple[str, ...]:
        """What was found and chosen, but for the budget."""
        found = [f"{self.data.dataset}: {self.contents()}", f"this machine: {self.machine}"]
        if isinstance(self.probe.images.shape, ImageShape):
            found.append(f"size: {self._size()}")
        networks = [f"networks: {', '.join(self._architectures())}"]
        if self.conditional:
            networks.append("whether labels help is searched")
        if self._few:
            networks.append("augmentation is searched because the pictures are few")
        found.append("; ".join(networks))
        reported, final, least = self.samples()
        found.append(
            f"score: fid of `{self.probe.label}` features, from {reported:,} samples a report and {final:,} at the "
            f"end; at least {least} are needed"
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
        return self.found is not None and self.count < FEW

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

    def text(self, plan: Plan) -> str:
        """The whole file."""
        budget = plan.budget
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
{_comment(self._cost(plan))}
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
search: {{sampler: tpe, scheduler: {{asha: {{first_rung: {budget.first_rung:g}, reduction: {REDUCTION:g}}}}}, seed: 0}}

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

    def _cost(self, plan: Plan) -> str:
        """What a search costs, for the file's comment."""
        before, training = plan.preparation.total, plan.budget.seconds
        cost = (
            f"Cost: about {duration(before + training)} on {self.machine}, {duration(before)} of it preparation; "
            "measured with a few steps."
        )
        if not plan.budget.fits:
            cost += " That is longer than budget.hours, so trials will be paused; gantune resume continues them."
        return cost

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


def _said(plan: Plan, paces: Paces, work: Work, hours: float) -> tuple[str, ...]:
    """The budget in words, what it rests on, and what more time would give."""
    budget, better = plan.budget, plan.chance
    lines = [
        f"budget: {budget.trials} trials of {budget.samples:,} samples, {work.at_once} at once; early stops compare "
        f"them from {budget.first_rung:.0%} of that on",
        f"measured: {1 / paces.sample:,.0f} samples a second and {paces.report:.2g} s a report, the mean of the slower "
        f"half of {len(paces.timed)} configurations, beside whatever runs here now",
    ]
    if better is not None and plan.chance_hours > hours:
        lines.append(
            f"a real chance: --hours {plan.chance_hours:.2g} for {better.trials} trials of {better.samples:,} samples: "
            "in less time few trials are compared, or early scores tell little"
        )
    return tuple(lines)


def _time(plan: Plan, clock: Clock, hours: float) -> str:
    """What this command took, and what the search does with its time."""
    preparation, training = plan.preparation, duration(plan.budget.seconds)
    took = f"init took {duration(clock.spent)}"
    if clock.left < 0:
        took += f", more than {duration(clock.limit)}, a tenth of the time, because a shorter look would tell nothing"
    elif clock.limit < math.inf:
        took += f" of at most {duration(clock.limit)}"
    left = [("decoding", preparation.data), ("learning features", preparation.features)]
    parts = [f"{duration(seconds)} of it {what}" for what, seconds in left if seconds >= 1]
    search = f"the search gets {duration(hours * 3600)}: about {duration(preparation.total)} of preparation"
    search += f" ({', '.join(parts)})" if parts else ""
    if plan.budget.fits:
        return f"time: {took}; {search}, {training} of training"
    return (
        f"time: {took}; {search}; the training of {plan.budget.trials} trials takes about {training}, so trials will "
        "be paused when the time is over, and `gantune resume` with more budget.hours continues them"
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
