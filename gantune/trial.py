"""Train one configuration as a generator of Progress; whoever drives it decides when to stop."""

import contextlib
import copy
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gantune.accumulation import AccumulatingTrainer
from gantune.audit import check_in_force
from gantune.building import build_networks
from gantune.checkpoint import Kind, read_checkpoint, write_checkpoint
from gantune.collapse import CollapseMonitor
from gantune.compatibility import check_trial
from gantune.config import Component, Constraint, TrialConfig, derive_seed
from gantune.data.data_set import BatchSource, DataSet
from gantune.errors import CheckpointError, ShortOfMemoryError, StorageError
from gantune.metrics.costs import generator_parameters, seconds_per_image
from gantune.metrics.reference import SCORES, Reference, sample
from gantune.objectives import own_metrics
from gantune.pictures import MOMENT, TARGET_WIDTH, enough, enough_of_a_moment, save_samples
from gantune.progress import STATES, Progress
from gantune.reports import BEST, LATEST
from gantune.trainer import GANTrainer
from gantune.world import ALONE, World
from gantune.writing import same_trial, trial_document

PICTURE = "collapse.png"
CPU_WORDS = ("DefaultCPUAllocator", "not enough memory")  # PyTorch has no type for what a CPU lacks
STEPS_BETWEEN_CHECKS = 32  # of finiteness; each check waits for the device once


def train_trial(
    config: TrialConfig,
    images: DataSet,
    reference: Reference,
    folder: Path,
    device: torch.device,
    world: World = ALONE,
    micro_batches: int = 1,
) -> Iterator[Progress]:
    """Train to the end of the budget, the target or a verdict, yielding at each report.

    `folder` receives `latest` (everything, for continuing) and `best` (the averaged generator of the best report).
    Where it already holds a `latest`, its last report is yielded once more and training goes on from there, bit for
    bit as if never interrupted (on a CPU). In a `world` of several processes all drive it alike, the first one measures
    and writes, and the others' progress carries no scores. In `micro_batches` chunks a batch needs less memory; that is
    how a trial is carried out, not what it is: one that was begun in another count continues, and its metrics tell.

    Raises SpecError for parts that do not go together, CheckpointError for a damaged or foreign checkpoint,
    StorageError where the folder cannot be written, AuditError where a rate is not the configuration's own,
    ShortOfMemoryError where the memory is too small.
    """
    check_trial(config)
    with _memory_of(device, micro_batches):
        trial = _Trial(config, images, reference, folder, device, world, micro_batches)
        progress = trial.restore()
        check_in_force(trial.trainer)
    if progress is not None:
        yield progress
    elif world.leads:
        _make_room(folder)
    while progress is None or progress.state == "running":
        with _memory_of(device, micro_batches):
            trial.train_to_next_report()
            progress = trial.report()
        yield progress


@contextlib.contextmanager
def _memory_of(device: torch.device, micro_batches: int) -> Iterator[None]:
    """Raise ShortOfMemoryError for what PyTorch and Python raise where they can allocate no more."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(
            words in str(error) for words in CPU_WORDS
        ):
            raise
        how = f" with every batch in {micro_batches} chunks" if micro_batches > 1 else ""
        first = str(error).partition("\n")[0]
        raise ShortOfMemoryError(f"out of memory on {device}{how}: {first}; lower batch_size or the width") from error


def set_aside_damaged(folder: Path) -> list[str]:
    """Rename checkpoints that cannot be read to *.damaged, and return a remark on each.

    Without `latest` the trial starts over from its seed; without `best` it continues, and its best score starts anew.
    """
    kinds: dict[str, Kind] = {LATEST: "trial", BEST: "generator"}
    remarks = []
    for name, kind in kinds.items():
        path = folder / name
        if path.exists():
            try:
                read_checkpoint(path, kind)
            except CheckpointError:
                damaged = path.with_suffix(".damaged")
                os.replace(path, damaged)
                then = "the trial starts over from its seed" if name == LATEST else "its best weights are lost"
                remarks.append(f"{path}: cannot be read, renamed to {damaged.name}; {then}")
    return remarks


def _make_room(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / BEST).unlink(missing_ok=True)  # of a trial that left no `latest`
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error.strerror or error}") from error


class _Trial:
    """The moving parts of one trial between its reports."""

    def __init__(
        self,
        config: TrialConfig,
        images: DataSet,
        reference: Reference,
        folder: Path,
        device: torch.device,
        world: World,
        micro_batches: int,
    ) -> None:
        self.config = config
        self.world = world
        self.reference = reference.to(device)
        self.folder = folder
        self.device = device
        self.micro_batches = micro_batches
        self.trainer = (
            GANTrainer(config, images.shape, device, world)
            if micro_batches == 1
            else AccumulatingTrainer(config, images.shape, device, world, micro_batches=micro_batches)
        )
        self.class_counts = images.class_counts if self.trainer.conditional else ()
        self.class_names = images.class_names if self.trainer.conditional else ()
        self.batches = BatchSource(images, device, derive_seed(config.seed, *world.purpose("data")))
        self.streams = _global_streams(derive_seed(config.seed, *world.purpose("global")), device)
        self.monitor = CollapseMonitor(config.collapse, config.samples)
        self.reports = 0
        self.seconds = 0.0
        self.best_score: float | None = None
        self.finite = True

    @contextlib.contextmanager
    def _own_stream(self) -> Iterator[None]:
        """Torch's global streams are the trial's own while it trains: a user's network may draw, as dropout does."""
        on_gpu = self.device.type == "cuda"
        with torch.random.fork_rng(devices=[self.device] if on_gpu else []):
            torch.set_rng_state(self.streams["rng.global"])
            if on_gpu:
                torch.cuda.set_rng_state(self.streams["rng.global_gpu"], self.device)
            yield
            self.streams["rng.global"] = torch.get_rng_state()
            if on_gpu:
                self.streams["rng.global_gpu"] = torch.cuda.get_rng_state(self.device)

    def train_to_next_report(self) -> None:
        """Train up to the next of the evenly spaced reports, or until a value is not finite."""
        started = time.monotonic()
        until = math.ceil(self.config.samples * (self.reports + 1) / self.config.objective.reports)
        steps = 0
        with self._own_stream():
            while self.trainer.samples_seen < until:
                self.trainer.step(self.batches.draw)
                steps += 1
                if steps % STEPS_BETWEEN_CHECKS == 0 and not self.trainer.finite():
                    break
        self.finite = self.trainer.finite()
        passed = self.trainer.samples_seen * self.config.objective.reports // self.config.samples
        self.reports = max(self.reports, min(passed, self.config.objective.reports) - 1)  # reports that one step passed
        self.seconds += time.monotonic() - started

    def report(self) -> Progress:
        """Measure, judge, and write the checkpoints of this moment; the leader does it for all."""
        self.reports += 1
        signals, streams = self.trainer.take_signals(), self._streams()
        if self.world.leads:
            progress = self._measure(signals, streams)
            self.world.agree([STATES.index(progress.state)])
            return progress
        (state,) = self.world.agree([0])
        seen = self.trainer.samples_seen
        return Progress(samples_seen=seen, score=None, best_score=None, metrics={}, state=STATES[int(state)])

    def _measure(self, signals: Mapping[str, float], streams: Mapping[str, Tensor]) -> Progress:
        objective = self.config.objective
        metrics = self._evaluate(objective.samples.report) if self.finite else {}
        score = metrics.get(self.reference.named(objective.metric), math.nan)
        verdict = self.monitor.observe(self.trainer.samples_seen, score, metrics, signals, self.finite)
        metrics |= self._others(metrics)
        dims = self.trainer.shape.dims
        if verdict.dead:
            self._save_picture(PICTURE, enough(dims), TARGET_WIDTH)
        if self.finite:
            self._save_picture(MOMENT.format(self.trainer.samples_seen), enough_of_a_moment(dims), width=0)
        if self.micro_batches > 1:
            metrics = {**metrics, "micro_batches": float(self.micro_batches)}
        in_force = {f"in_force.{name}": value for name, value in self.trainer.rates_in_force().items()}
        told = {name: value for name, value in {**metrics, **signals, **in_force}.items() if math.isfinite(value)}
        eligible = not verdict.dead and math.isfinite(score) and meets(objective.constraints, metrics)
        better = eligible and (self.best_score is None or score < self.best_score)
        self.best_score = score if better else self.best_score
        progress = Progress(
            samples_seen=self.trainer.samples_seen,
            score=score if math.isfinite(score) else None,
            best_score=self.best_score,
            metrics=told,
            verdict=verdict,
            seconds=self.seconds,
        )
        if better:
            self._write_best(progress, metrics)
        progress = self._ended(progress)
        self._write_latest(progress, streams)
        return progress

    def _ended(self, progress: Progress) -> Progress:
        """The report with the state that it leaves the trial in; the best weights are measured once more at an end."""
        objective, target, verdict = self.config.objective, self.config.target, progress.verdict
        reached = target is not None and self.best_score is not None and self.best_score <= target
        outlived = verdict.state == "diverged" and self.best_score is not None  # what it came to before still stands
        if progress.score is None or (verdict.dead and not outlived):
            return replace(progress, state="collapsed")
        if not (self.reports >= objective.reports or reached or outlived):
            return progress
        metrics = dict(progress.metrics)
        if self.best_score is not None:
            final = self._evaluate_best()
            final = {f"final_{name}": value for name, value in final.items()} | {
                "final_score": final[self.reference.named(objective.metric)]
            }
            metrics |= {name: value for name, value in final.items() if math.isfinite(value)}
        return replace(progress, state="finished", metrics=metrics)

    def _streams(self) -> dict[str, Tensor]:
        """The streams of randomness of all processes: the leader's under their names, the others' by rank."""
        own = {**self.trainer.streams(), "rng.data": self.batches.generator.get_state(), **self.streams}
        found = {}
        for name, state in own.items():
            for rank, held in enumerate(self.world.gather(state)):
                found[_of_rank(rank, name)] = held
        return found

    def _evaluate(self, count: int) -> dict[str, float]:
        trainer = self.trainer
        return self.reference.evaluate(
            trainer.ema_generator,
            trainer.z_dim,
            count,
            class_counts=self.class_counts,
            metrics=self._scores(),
            own=own_metrics(self.config.objective),
        )

    def _scores(self) -> list[str]:
        return [name for name in self.config.objective.names if name in SCORES]

    def _others(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The further objectives that no report has of itself: distances under their plain name, and costs."""
        trainer, others = self.trainer, self.config.objective.others
        found = {name: metrics[self.reference.named(name)] for name in others if self.reference.named(name) in metrics}
        if "seconds_per_image" in others:
            found["seconds_per_image"] = seconds_per_image(
                trainer.ema_generator, trainer.z_dim, self.device, labelled=bool(self.class_counts)
            )
        if "generator_parameters" in others:
            found["generator_parameters"] = generator_parameters(trainer.ema_generator)
        return found

    def _save_picture(self, name: str, count: int, width: int) -> None:
        """What the samples look like now, always from the same latents; none where they are not finite."""
        trainer = self.trainer
        drawn = sample(trainer.ema_generator, trainer.z_dim, count, self.device, class_counts=self.class_counts)
        if drawn is not None:
            save_samples(drawn.numpy(), self.folder / name, width)

    def _evaluate_best(self) -> dict[str, float]:
        """The best weights once more, with the final count of samples."""
        tensors, meta = read_checkpoint(self.folder / BEST, "generator")
        ((name, options),) = meta["config"]["space"]["architecture"].items()  # once, maybe, that of another
        architecture = Component(name=name, options=tuple(sorted(options.items())))
        if architecture == self.config.architecture:
            generator = copy.deepcopy(self.trainer.ema_generator)
        else:
            generator = build_networks(architecture, self.trainer.shape, seed=0).generator.to(self.device).eval()
        generator.load_state_dict(tensors)
        return self.reference.evaluate(
            generator,
            meta["z_dim"],
            self.config.objective.samples.final,
            class_counts=meta["class_counts"],
            metrics=self._scores(),
            fully=True,
            own=own_metrics(self.config.objective),
        )

    def _write_best(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        meta = {
            **self._identity(progress),
            "dims": list(self.trainer.shape.dims),
            "class_counts": list(self.class_counts),
            "class_names": list(self.class_names),
            "z_dim": self.trainer.z_dim,
            "samples_seen": progress.samples_seen,
            "score": progress.score,
            "metrics": metrics,
        }
        write_checkpoint(self.folder / BEST, "generator", self.trainer.ema_generator.state_dict(), meta)

    def _write_latest(self, progress: Progress, streams: Mapping[str, Tensor]) -> None:
        tensors = {**self.trainer.state(), **streams}
        meta = {
            **self._identity(progress),
            "processes": self.world.size,
            "reports": self.reports,
            "monitor": self.monitor.state(),
        }
        write_checkpoint(self.folder / LATEST, "trial", tensors, meta)

    def _identity(self, progress: Progress) -> dict[str, Any]:
        """What both checkpoints hold, so that either can give the results back the row of its report."""
        return {
            "config": trial_document(self.config),
            "parameters": self.config.parameters(),
            "seed": self.config.seed,
            "reference": self.reference.key,
            "progress": progress.as_dict(),
        }

    def restore(self) -> Progress | None:
        """Continue from the folder's `latest`; None where there is none."""
        path = self.folder / LATEST
        if not path.exists():
            return None
        try:
            return self._continue(path)
        except KeyError as error:
            raise CheckpointError(f"{path}: lacks {error}") from error
        except TypeError as error:
            raise CheckpointError(f"{path}: holds what does not belong there: {error}") from error
        except CheckpointError as error:
            if str(self.folder) in str(error):
                raise
            raise CheckpointError(f"{path}: {error}") from error

    def _continue(self, path: Path) -> Progress:
        tensors, meta = read_checkpoint(path, "trial")
        if not same_trial(meta["config"], json.loads(json.dumps(trial_document(self.config)))):
            raise CheckpointError(f"{path}: belongs to another configuration; use another folder (--out)")
        if meta["reference"] != self.reference.key:
            raise CheckpointError(f"{path}: was scored against another reference, so its scores do not compare")
        if meta["processes"] != self.world.size:
            raise CheckpointError(f"{path}: was trained by {meta['processes']} processes, not by {self.world.size}")
        progress = Progress.from_dict(meta["progress"])
        rank = self.world.rank
        self.streams = {name: tensors[_of_rank(rank, name)] for name in self.streams}
        self.batches.generator.set_state(tensors[_of_rank(rank, "rng.data")])
        self.trainer.load_state({**tensors, **{name: tensors[_of_rank(rank, name)] for name in self.trainer.streams()}})
        self.monitor.load_state(meta["monitor"])
        self.reports = meta["reports"]
        self.seconds = progress.seconds
        self.best_score = progress.best_score
        if not (self.folder / BEST).exists():
            self.best_score = None  # its weights are gone, so it cannot win
            return replace(progress, best_score=None)
        kept = read_checkpoint(self.folder / BEST, "generator")[1]
        if kept["samples_seen"] > progress.samples_seen:  # `best` is written just before `latest`
            self.best_score = kept["score"]
        elif self.best_score is None or kept["score"] > self.best_score:
            self.best_score = kept["score"]  # older weights than those that were measured
            return replace(progress, best_score=self.best_score)
        return progress


def _global_streams(seed: int, device: torch.device) -> dict[str, Tensor]:
    """The states that torch's global streams begin with."""
    streams = {"rng.global": torch.Generator().manual_seed(seed).get_state()}
    if device.type == "cuda":
        streams["rng.global_gpu"] = torch.Generator(device).manual_seed(seed).get_state()
    return streams


def _of_rank(rank: int, name: str) -> str:
    return f"rank{rank}.{name}" if rank else name


def meets(constraints: tuple[Constraint, ...], metrics: Mapping[str, float]) -> bool:
    """Whether metrics meet all constraints; a metric that is missing does not."""
    return all(item.violation(metrics.get(item.metric, math.nan)) <= 0 for item in constraints)
