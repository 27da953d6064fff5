import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from gantune.checkpoint import read_checkpoint
from gantune.config import CollapseConfig, Component, DataConfig, ObjectiveConfig, SampleCounts, TrialConfig
from gantune.data.data_set import Batch, open_data
from gantune.errors import CheckpointError, GantuneError
from gantune.metrics.reference_file import load_reference, prepare_reference
from gantune.models.networks import ImageShape
from gantune.trainer import GANTrainer
from gantune.trial import train_trial
from gantune.world import ALONE, World

SHAPE = ImageShape(1, 8)
CPU = torch.device("cpu")
STEPS = 3
BATCH = 8

LEAPS = {  # the parts whose step over two halves is the step over the whole
    "hinge": {"loss": Component(name="hinge")},
    "relativistic": {
        "loss": Component(name="relativistic"),
        "penalty": Component(name="r1_r2", options=(("every", 2), ("weight", 0.1))),
        "grad_clip": 0.1,
    },
}


def make(**changes):
    values = {
        "data": DataConfig(dataset="digits", size=8),
        "objective": ObjectiveConfig(samples=SampleCounts(report=64, final=64), reports=3),
        "collapse": CollapseConfig(enabled=False),
        "samples": 120,
        "target": None,
        "seed": 0,
        "architecture": Component(name="mlp", options=(("depth", 1), ("hidden", 8), ("z_dim", 4))),
        "loss": Component(name="hinge"),
        "optimizer": Component(name="adam"),
        "lr_g": 1e-2,
        "batch_size": BATCH,
    }
    return TrialConfig(**{**values, **changes})


def fixed(kind):
    """The noise and the reals of all steps, for the whole batch."""
    draws = torch.Generator().manual_seed(1)
    while True:
        yield torch.randn(BATCH, 4, generator=draws) if kind == "noise" else torch.rand(BATCH, 1, 8, 8, generator=draws)


def leap(changes, world):
    """Some steps on this process's share of noise and reals that are the same however many share them."""
    trainer = GANTrainer(make(**changes), SHAPE, CPU, world)
    share = slice(world.rank * BATCH // world.size, (world.rank + 1) * BATCH // world.size)
    noise, reals = fixed("noise"), fixed("reals")
    trainer._latents = lambda: next(noise)[share]
    for _ in range(STEPS):
        trainer.step(lambda count: Batch(next(reals)[share], None))
    return trainer


def in_group(rank, size, meeting, work, folder, *given):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    try:
        torch.save(work(World(rank, size), *given), folder / f"{rank}.pt")
        distributed.barrier()  # none leaves while another still listens to it
    finally:
        distributed.destroy_process_group()
    tasks = Path("/proc/self/task")  # a thread of the group that outlives it may abort the process at its end
    names = [(task / "comm").read_text() for task in tasks.iterdir()] if tasks.exists() else []
    assert not [name for name in names if "gloo" in name]


def together(tmp_path, work, *given, size=2):
    """What `work` gives on each of several processes."""
    number = len(list(tmp_path.glob("group*")))
    folder = tmp_path / f"group{number}"
    folder.mkdir()
    multiprocessing.spawn(in_group, (size, folder / "meeting", work, folder, *given), nprocs=size)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def exchange(world):
    first, second = torch.full((2, 3), float(world.rank)), torch.tensor([4.0 * world.rank])
    counted = torch.tensor([world.rank])
    world.average([first, counted, second])
    gathered = world.gather(torch.tensor([world.rank, 7], dtype=torch.uint8))
    return {
        "first": first,
        "second": second,
        "counted": counted,
        "gathered": gathered,
        "agreed": world.agree([world.rank + 5, 0.25]),
    }


def leaps(world):
    return {name: leap(changes, world).state() for name, changes in LEAPS.items()}


def drive(world, folder, reference, reports):
    """Train some reports of a trial whose every stream of randomness is used."""
    config = make(
        architecture=Component(name="dcgan", options=(("norm_d", "none"), ("width", 4), ("z_dim", 4))),
        penalty=Component(name="gradient_penalty"),
        augmentation=Component(name="ada", options=(("speed_samples", 100),)),
    )
    images = open_data(config.data)
    trial = train_trial(config, images, load_reference(reference), folder, CPU, world)
    return [json.dumps(progress.as_dict()) for progress in itertools.islice(trial, reports)]


def test_processes_average_gather_and_agree(tmp_path):
    for rank, found in enumerate(together(tmp_path, exchange)):
        assert (found["first"] == 0.5).all()
        assert found["second"].item() == 2.0
        assert found["counted"].item() == rank  # whole numbers are counts, and stay
        assert [item.tolist() for item in found["gathered"]] == [[0, 7], [1, 7]]
        assert found["agreed"] == [5.0, 0.25]


def test_two_processes_on_halves_take_the_steps_of_one_on_the_whole(tmp_path):
    leader, follower = together(tmp_path, leaps)
    for name, changes in LEAPS.items():
        alone = leap(changes, ALONE).state()
        for key, value in alone.items():
            if not key.startswith("rng.") and key != "sums":  # each process adds up its own signals
                torch.testing.assert_close(leader[name][key], value, rtol=1e-4, atol=1e-6, msg=f"{name} {key}")
        for key in ("g", "d", "ema", "opt_g", "opt_d"):
            mine = {part: value for part, value in leader[name].items() if part.startswith(f"{key}.")}
            assert mine
            assert all(torch.equal(value, follower[name][part]) for part, value in mine.items())


def test_a_trial_of_two_processes_resumes_bit_for_bit_and_the_leader_alone_reports_scores(tmp_path):
    reference = prepare_reference(open_data(make().data))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    leader, follower = together(tmp_path, drive, whole, reference, 3)
    together(tmp_path, drive, parts, reference, 1)
    again, _ = together(tmp_path, drive, parts, reference, 3)

    scores = [json.loads(line)["score"] for line in leader]
    assert all(score is not None for score in scores)
    assert [json.loads(line)["score"] for line in again] == scores
    assert [json.loads(line)["score"] for line in follower] == [None] * 3
    assert [json.loads(line)["state"] for line in follower] == ["running", "running", "finished"]
    once, twice = (read_checkpoint(folder / "latest.safetensors", "trial")[0] for folder in (whole, parts))
    assert once.keys() == twice.keys()
    assert all(torch.equal(once[name], twice[name]) for name in once)
    assert not torch.equal(once["rng.noise"], once["rank1.rng.noise"])

    with pytest.raises(CheckpointError, match=r"latest\.safetensors: was trained by 2 processes, not by 1"):
        drive(ALONE, whole, reference, 1)


def test_a_batch_that_cannot_be_shared_out_is_an_error_with_both_numbers():
    with pytest.raises(GantuneError, match="batch_size 8 cannot be shared by 3 processes"):
        GANTrainer(make(), SHAPE, CPU, World(0, 3))


def test_alone_everything_is_left_as_it_is():
    tensor = torch.tensor([1.0, 2.0])
    ALONE.average([tensor])
    assert tensor.tolist() == [1.0, 2.0]
    assert ALONE.gather(tensor)[0] is tensor
    assert ALONE.agree([3.0]) == [3.0]
    assert ALONE.leads
