"""Run directories as a search leaves them, written without training anything: for what reads runs."""

import json
import math
import random
from dataclasses import replace

import numpy as np
import torch
from sklearn.datasets import load_digits

from gantune.building import build_networks
from gantune.checkpoint import write_checkpoint
from gantune.domains import FixedDraw, RandomDraw
from gantune.models.networks import ImageShape
from gantune.pictures import MOMENT, save_samples
from gantune.results import Row
from gantune.run import Run
from gantune.space import load_space
from gantune.trial import PICTURE
from gantune.writing import dump, trial_document

SPACE = {
    "version": 1,
    "name": "made",
    "data": {"dataset": "digits", "size": 16},
    "objective": {"samples": {"report": 500, "final": 1000}, "constraints": ["recall >= 0.1"]},
    "budget": {"trials": 24, "samples_per_trial": 10_000},
    "space": {
        "architecture": {
            "choose": {
                "dcgan": {"width": [8, 16], "norm_d": ["layer", "spectral", "none"]},
                "mlp": {"depth": "int 2..4"},
            }
        },
        "loss": ["hinge", "minimax"],
        "penalty": {"choose": {"none": {}, "r1": {"weight": "log 0.001..1"}}},
        "optimizer": ["adam", "rmsprop"],
        "lr_g": "log 1e-5..1e-2",
        "batch_size": [32, 64],
    },
    "baseline": {
        "architecture": {"dcgan": {"width": 8, "norm_d": "none"}},
        "loss": "minimax",
        "penalty": "none",
        "optimizer": "adam",
        "lr_g": 2e-4,
        "batch_size": 64,
    },
}
REPORTS = 10
CAUSES = {
    "mode_collapse": "mode collapse: diversity 0.03 of the real data's for 4 reports",
    "discriminator_won": "the discriminator won: its accuracy 1.00 for 4 reports",
    "diverged": "diverged: a value is not finite",
}


GREY = ImageShape(channels=1, size=16)


def make_run(
    folder,
    *,
    trials=24,
    running=2,
    seed=0,
    score="fid_classifier",
    space=SPACE,
    name="made",
    weights=True,
    shape=GREY,
    class_counts=(),
    metrics=None,
    repeats=0,
):
    """A run whose scores follow from lr_g, best near 1e-3; a high rate collapses. The last `running` trials still run.

    weights: whether the best trial has the checkpoint of a (fresh) generator, of samples of `shape`. metrics: more of
    every report, as a function of the trial's number. repeats: how often each of the three best is trained again.
    """
    loaded = load_space(space)
    run = Run(folder / name)
    run.folder.mkdir(parents=True)
    run.begin(loaded)
    run.settle(score, "0123456789abcdef")
    run.note_resources({"cpus_per_trial": 1, "gpus_per_trial": 0.5})
    stream, clock, configs = random.Random(seed), 0.0, {}
    for number in range(trials):
        first = number == 0 and loaded.baseline is not None
        draw = FixedDraw(loaded.baseline) if first else RandomDraw(seed * 1000 + number)
        config = configs[number] = loaded.draw(draw, seed=number)
        folder = run.trial_folder(number)
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(dump(trial_document(config)), encoding="utf-8")
        for row in _rows(number, config, stream, clock, alive=number >= trials - running):
            more = dict(metrics(number)) if metrics else {}
            row = replace(row, metrics={**row.metrics, **more})
            run.results.append(row)
            clock = row.run_seconds
            _draw(folder, row, stream)
    finished = [trial for trial in run.trials() if trial.state == "finished"] if repeats else []
    for trial in sorted(finished, key=lambda trial: trial.best_score)[:3]:
        last = [row for row in run.results.rows() if row.trial == trial.number][-1]
        for repeat in range(1, repeats + 1):
            again = last.best_score * stream.uniform(1.0, 1.2)
            told = {**last.metrics, "final_score": again}
            run.results.append(replace(last, repeat=repeat, score=again, best_score=again, metrics=told))
    run.results.merge()
    if weights:
        best = run.best()
        _write_weights(run, best, configs[best.number], shape, class_counts)
    return run


def _rows(number, config, stream, clock, *, alive):
    away = abs(math.log10(config.lr_g) + 3)  # decades from the best rate
    floor = 8 + 40 * away + stream.uniform(0, 6)
    dies = config.lr_g > 4e-3
    reports = REPORTS // 2 if alive else 4 if dies else REPORTS if away < 1.2 or number == 0 else 3
    lowest = None
    for report in range(1, reports + 1):
        score = floor + 300 * math.exp(-report / 2) + stream.uniform(0, 4)
        lowest = score if lowest is None else min(lowest, score)
        last = report == reports and not alive
        verdict = list(CAUSES)[number % len(CAUSES)] if last and dies else "healthy"
        state = "running" if not last else "collapsed" if dies else "finished" if reports == REPORTS else "pruned"
        metrics = {
            "recall": min(1.0, 0.1 * report),
            "coverage": 0.05 * report,
            "diversity": 0.9,
            "loss_d": 1.2 / report,
        }
        if state == "finished":
            metrics |= {"final_score": lowest * 0.95, "final_recall": 0.9}
        yield Row(
            trial=number,
            state=state,
            samples_seen=report * 1000,
            score=score,
            best_score=lowest,
            metrics=metrics,
            seed=config.seed,
            config=json.dumps(config.parameters()),
            cause=CAUSES.get(verdict, "stopped by the scheduler" if state == "pruned" else ""),
            verdict=verdict,
            evidence={"diversity": 0.03, "share_of_budget": report / REPORTS} if verdict != "healthy" else {},
            trial_seconds=report * 12.0,
            run_seconds=clock + report * 6.0,
            place="10.0.0.1 abcdef01 gpu0",
        )


def _draw(folder, row, stream):
    """Digits in the noisier, the worse the score is."""
    noise = min(1.0, row.score / 200)
    images = np.kron(load_digits().images[:25] * 15.9, np.ones((1, 2, 2)))  # [25, 16, 16]
    grain = np.random.default_rng(stream.randrange(2**32)).uniform(0, 255, images.shape)
    mixed = ((1 - noise) * images + noise * grain).clip(0, 255).astype(np.uint8)[:, None]
    save_samples(mixed, folder / MOMENT.format(row.samples_seen), 0)
    if row.state == "collapsed":
        save_samples(np.repeat(mixed[:1], 64, axis=0), folder / PICTURE)


def _write_weights(run, best, config, shape, class_counts):
    networks = build_networks(config.architecture, shape, seed=1)
    meta = {
        "config": trial_document(config),
        "dims": list(shape.dims),
        "class_counts": list(class_counts),
        "class_names": [f"kind {index}" for index in range(len(class_counts))],
        "z_dim": networks.z_dim,
        "samples_seen": best.best_samples_seen,
        "score": best.best_score,
        "metrics": dict(best.metrics),
        "reference": "0123456789abcdef",
    }
    with torch.no_grad():
        path = run.checkpoint(best, run.repeats())
        write_checkpoint(path, "generator", networks.generator.state_dict(), meta)
