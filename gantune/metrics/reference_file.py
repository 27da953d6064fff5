"""The file of a reference: made in the cache on first use, read back and checked everywhere else."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from gantune import plugins
from gantune.checkpoint import read_checkpoint, write_checkpoint
from gantune.config import AUTO, Component, ObjectiveConfig
from gantune.data.cache import cache_directory
from gantune.data.data_set import DataSet
from gantune.data.files import differing
from gantune.errors import CheckpointError, DataError, PluginError
from gantune.metrics.features import CHUNK, SECONDS_BETWEEN_REPORTS, extract
from gantune.metrics.frechet import Gaussian, effective_rank
from gantune.metrics.kernel import self_similarity
from gantune.metrics.neighbours import NEIGHBOURS_COVERAGE, NEIGHBOURS_RECALL, nearest, radii, spread
from gantune.metrics.reference import KERNEL, MOVED, NEIGHBOURS, SCORES, Reference
from gantune.models.networks import Shape, shape_of
from gantune.threads import on_threads

FORMAT = 3
STATISTICS = 50_000  # reals behind the mean and the covariance
KEPT_BYTES = 64 * 2**20  # of the reals' features, behind the nearest neighbours
LEAST_PER_FEATURE = {"fid": 4, "fid_inf": 2, "kid": 0}  # samples, with fewer of which too little variety is rewarded
WIDEST = 8_192  # features: their covariance is half a gigabyte, and its eigenvalues take minutes
LEARNING_THREADS = 2  # more or fewer give other weights, and scores that cannot be compared to the last bit
NAMED = 3  # files that differ, in a message
PROBES = 8  # examples whose features tell whether a network is still the same

# Fields that the file holds beside those of MOVED: tensors that stay on the CPU, where classifiers are trained, and
# plain values.
STAYING = ("held", "held_labels")
PLAIN = (
    "wish",
    "key",
    "label",
    "accuracy",
    "known",
    "kernel_mean",
    "noise_scores",
    "feature_spread",
    "pixel_spread",
    "rank",
)


def prepare_reference(
    images: DataSet,
    features: Component = AUTO,
    report: Callable[[str], None] = lambda text: None,
    device: torch.device | None = None,
) -> Path:
    """The file of a data set's reference, made in the cache on first use. Raises DataError where that fails."""
    wish = reference_wish(images, features)
    path = cache_directory() / "references" / f"{wish}.safetensors"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not _readable(path):
                _make(images, features, wish, path, report, device or torch.device("cpu"))
    except OSError as error:
        raise DataError(f"{path.parent}: cannot be written: {error}; set GANTUNE_CACHE to another folder") from error
    return path


def reference_wish(images: DataSet, features: Component = AUTO) -> str:
    """Names examples, features and protocol."""
    counts = (STATISTICS, KEPT_BYTES, KERNEL, NEIGHBOURS)
    wish = json.dumps([FORMAT, images.key, features.name, features.options, counts])
    return hashlib.sha256(wish.encode()).hexdigest()[:16]


def check_reference(
    images: DataSet, objective: ObjectiveConfig, reference: Reference, recorded: Path | None = None
) -> None:
    """Raise DataError where a reference was made from other data or features, or does not tell what is asked for.

    recorded: the table of the files that the reference was made from, which tells what differs; it may be missing.
    """
    if reference_wish(images, objective.features) != reference.wish:
        raise DataError(
            f"{images.name}: the data differs from that which this run's scores are measured against"
            f"{_differences(images, recorded)}; restore it, or start a new run with --name"
        )
    width = reference.gaussian.mean.numel()
    metric = max(objective.names, key=lambda name: LEAST_PER_FEATURE.get(name, 0))
    least = LEAST_PER_FEATURE.get(metric, 0) * width
    if objective.samples.report < least:
        raise DataError(
            f"objective.samples.report: {metric} from {objective.samples.report} samples of {width} features "
            f"scores a generator of too little variety above a perfect one; ask for {least} samples or more, "
            "or use metric: kid"
        )
    if not hasattr(reference.net, "classify"):
        uses = {"a constraint": [item.metric for item in objective.constraints], "an objective": objective.others}
        for use, metrics in uses.items():
            if "modes" in metrics:
                raise DataError(f"features `{objective.features.name}` know no classes, so `modes` cannot be {use}")


def _differences(images: DataSet, recorded: Path | None) -> str:
    """The first files that differ and how many do, in brackets; nothing where that is not known."""
    files = [] if recorded is None or images.files is None else differing(recorded, images.files)
    if not files:
        return ""
    more = f" and {len(files) - NAMED:,} more" if len(files) > NAMED else ""
    return f" ({len(files):,} file{'s' * (len(files) > 1)}: {', '.join(files[:NAMED])}{more})"


def _readable(path: Path) -> bool:
    try:
        load_reference(path)
    except CheckpointError:
        return False
    return True


def _build(features: Component, shape: Shape) -> nn.Module:
    factory = plugins.resolve("features", features.name)
    try:
        net = factory(shape, **dict(features.options))
        if not isinstance(net, nn.Module):
            raise DataError(f"features `{features.name}`: expected a torch.nn.Module, got a {type(net).__name__}")
    except (DataError, PluginError):
        raise
    except Exception as error:  # a user's function may fail in any way
        raise DataError(f"features `{features.name}`: cannot be built: {type(error).__name__}: {error}") from error
    return net.eval()


def _make(
    images: DataSet,
    features: Component,
    wish: str,
    path: Path,
    report: Callable[[str], None],
    device: torch.device,
) -> None:
    net = _build(features, images.shape)
    learns = getattr(net, "learn", None) is not None
    accuracy = _learned(net, images, report) if learns else None
    net.to(device)
    generator = torch.Generator().manual_seed(1)
    rows = torch.from_numpy(images.train_rows)
    rows = rows[torch.randperm(len(rows), generator=generator)[:STATISTICS]]
    found = _features_of(net, images, features, rows, report, device)
    gaussian = Gaussian.fit(found.to(device)).to(torch.device("cpu"))
    kept = found[: max(KERNEL, KEPT_BYTES // (4 * found.shape[1]))].clone()
    held = torch.from_numpy(images.examples[images.held_rows])
    held_features = extract(net, held, device).cpu()
    near = torch.from_numpy(images.examples[rows[:NEIGHBOURS].numpy()])
    noise = extract(net, _noise(near, generator), device).cpu()
    if not spread(near) > 0:
        raise DataError(f"{images.name}: its images are all the same; there is nothing to learn")
    if not spread(kept[:NEIGHBOURS]) > 0:
        raise DataError(f"features `{features.name}`: are the same for every picture, and measure nothing")
    kernel_mean = self_similarity(kept[:KERNEL])
    tensors = {
        "mean": gaussian.mean,
        "factor": gaussian.factor,
        "train": kept,
        "recall_radii": radii(kept[:NEIGHBOURS], NEIGHBOURS_RECALL),
        "coverage_radii": radii(kept[:NEIGHBOURS], NEIGHBOURS_COVERAGE),
        "held": held,
        "held_labels": torch.zeros(0) if images.labels is None else torch.from_numpy(images.labels[images.held_rows]),
        "held_nearest": nearest(held_features, kept),
        "class_shares": _class_shares(net, kept.to(device)),
        "probes": near[:PROBES],
        "probe_features": found[:PROBES],
    }
    if learns:
        tensors |= {f"net.{name}": value for name, value in net.state_dict().items()}
    meta = {
        "wish": wish,
        "key": hashlib.sha256(wish.encode() + found[:PROBES].numpy().tobytes()).hexdigest()[:16],
        "features": [features.name, features.options],
        "label": _label(net, features),
        "accuracy": accuracy,
        "dims": list(images.shape.dims),
        "classes": images.shape.classes,
        "known": len(kept) / len(images.train_rows),
        "kernel_mean": kernel_mean,
        "noise_scores": {name: score(gaussian, kept[:KERNEL], kernel_mean, noise) for name, score in SCORES.items()},
        "feature_spread": spread(kept[:NEIGHBOURS]),
        "pixel_spread": spread(near),
        "rank": effective_rank(kept[:NEIGHBOURS]),
    }
    write_checkpoint(path, "reference", tensors, meta)


def _learned(net: Any, images: DataSet, report: Callable[[str], None]) -> float:
    """The accuracy of a network that learns its features, once it has."""
    with on_threads(LEARNING_THREADS):
        accuracy: float = net.learn(images, report)
    return accuracy


def _class_shares(net: nn.Module, features: Tensor) -> Tensor:
    """Shares [K], on the CPU, of the classes that a network sees in features [N, D]; none where it knows no classes."""
    classify = getattr(net, "classify", None)
    if classify is None:
        return torch.zeros(0)
    logits = classify(features).cpu()
    return torch.bincount(logits.argmax(1), minlength=logits.shape[1]) / len(features)


def _label(net: nn.Module, features: Component) -> str:
    """How metrics name the features; none of a user's own passes for one of ours."""
    label = str(getattr(net, "label", features.name.rpartition(":")[2]))
    ours = features.name in plugins.BUILTIN["features"] and features.name != "torchscript"
    return label if ours or label not in plugins.BUILTIN["features"] else f"own_{label}"


def _features_of(
    net: nn.Module,
    images: DataSet,
    features: Component,
    rows: Tensor,
    report: Callable[[str], None],
    device: torch.device,
) -> Tensor:
    """Features [N, D] of examples, on the CPU. Raises DataError where the network does not keep its contract."""
    found: list[Tensor] = []
    reported = 0.0
    for chunk in torch.split(rows, CHUNK):
        try:
            found.append(extract(net, torch.from_numpy(images.examples[chunk.numpy()]), device).cpu())
        except Exception as error:  # a user's network may fail in any way
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"features `{features.name}`: fail on {images.shape}: {reason}") from error
        if len(found[-1]) != len(chunk) or not bool(torch.isfinite(found[-1]).all()):
            raise DataError(
                f"features `{features.name}`: expected finite features [{len(chunk)}, D] of {len(chunk)} examples, "
                f"got {list(found[-1].shape)}"
            )
        if found[-1].shape[1] > WIDEST:
            raise DataError(
                f"features `{features.name}`: {found[-1].shape[1]} of them are too many for their covariance, at most "
                f"{WIDEST}; lower data.size, or use other features"
            )
        if time.monotonic() - reported >= SECONDS_BETWEEN_REPORTS:
            reported, done = time.monotonic(), min(len(rows), len(found) * CHUNK)
            what = f"measuring the real data ({features.name})"
            report(f"{what}: {done:,} of {len(rows):,} examples ({done / len(rows):.0%})")
    return torch.cat(found)


def _noise(examples: Tensor, generator: torch.Generator) -> Tensor:
    """A thousand samples of uniform noise over the range of the data, a generator that has learned nothing."""
    if examples.dtype == torch.uint8:
        return torch.randint(0, 256, (1000, *examples.shape[1:]), generator=generator, dtype=torch.uint8)
    low, high = examples.amin(0), examples.amax(0)
    return low + (high - low) * torch.rand(1000, *examples.shape[1:], generator=generator)


def load_reference(path: Path) -> Reference:
    """A reference from its file, on the CPU.

    Raises CheckpointError where the file is missing or damaged, or where its features have changed since.
    """
    tensors, meta = read_checkpoint(path, "reference")
    cpu = torch.device("cpu")
    try:
        name, options = meta["features"]
        shape = shape_of(meta["dims"], meta["classes"])
        net = _build(Component(name=name, options=tuple((key, value) for key, value in options)), shape)
        trained = {name[4:]: value for name, value in tensors.items() if name.startswith("net.")}
        if trained:
            net.load_state_dict(trained)
        net.requires_grad_(False)
        now, then = extract(net, tensors["probes"], cpu), tensors["probe_features"]
        if now.shape != then.shape or not torch.allclose(now, then, rtol=1e-2, atol=1e-3):
            raise CheckpointError(f"{path}: the features `{name}` are no longer those that it was made with")
        fields: dict[str, Any] = {name: tensors[name] for name in (*MOVED, *STAYING)}
        fields |= {name: meta[name] for name in PLAIN}
        return Reference(
            net=net, shape=shape, device=cpu, gaussian=Gaussian(tensors["mean"], tensors["factor"]), **fields
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: was made by another version of gantune: {error}") from error
