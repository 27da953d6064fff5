import itertools
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from gantune.audit import noise
from gantune.cli.main import cli
from gantune.config import derive_seed
from gantune.domains import FixedDraw, RandomDraw
from gantune.models.networks import ImageShape, PointShape
from gantune.space import load_space, load_trial
from gantune.trainer import GANTrainer
from gantune.writing import dump, trial_document

CPU = torch.device("cpu")
ASKED = int(os.environ.get("GANTUNE_CONFIGS", "0"))  # valid configurations of each space to build and train
USUAL, OF_WIDE = 12, 3  # where none are asked for; networks for CIFAR-10 take a second or two each
PATIENCE = 20  # draws to a valid one, on average; a space that needs more is mostly nonsense
STEPS = 2
FILES = sorted((Path(__file__).parent.parent / "search_spaces").glob("*.yaml"))
SHAPES = {"mnist": ImageShape(1, 28, 10), "cifar10": ImageShape(3, 32, 10), "gaussians8": PointShape(2, 8)}

each_space = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def shape_of_data(space):
    """The shape of a space's samples, known without a download."""
    if space.data.dataset == "digits":
        return ImageShape(1, space.data.size, 10)
    return SHAPES[space.data.dataset]


def configurations(space):
    return ASKED or (OF_WIDE if space.data.dataset == "cifar10" else USUAL)


def valid_configurations(space):
    """Draws at random whose parts go together; a trial's seed is that of its draw."""
    count = configurations(space)
    seeds = range(count * PATIENCE)
    drawn = (space.draw(RandomDraw(derive_seed(seed, space.name)), seed=seed) for seed in seeds)
    return itertools.islice((config for config in drawn if space.conflict(config) is None), count)


def assert_trains(config, shape):
    """Built at its full width, it steps on batches of 2 to 4 with finite values and finite samples."""
    small = replace(config, batch_size=2 + config.seed % 3)
    trainer = GANTrainer(small, shape, CPU)
    draw = noise(shape, config.seed)
    before = [weight.clone() for weight in trainer.discriminator.parameters()]
    for _ in range(STEPS):
        trainer.step(draw)
    assert trainer.finite(), config.parameters()
    assert all(math.isfinite(value) for value in trainer.take_signals().values())
    assert trainer.samples_seen == STEPS * trainer.game.d_steps * small.batch_size
    changed = [not torch.equal(old, new) for old, new in zip(before, trainer.discriminator.parameters(), strict=True)]
    assert any(changed), config.parameters()


def assert_reads_back(config, path):
    path.write_text(dump(trial_document(config)), encoding="utf-8")
    assert load_trial(path) == config


def comment(file):
    """The lines of the comment that a file opens with, without their marks."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("#").strip() for line in itertools.takewhile(lambda line: line.startswith("#"), lines)]


@each_space
def test_random_valid_configurations_build_train_and_read_back_as_themselves(file, tmp_path):
    space = load_space(file)
    shape = shape_of_data(space)
    tried = 0
    for config in valid_configurations(space):
        assert_trains(config, shape)
        assert_reads_back(config, tmp_path / "trial.yaml")
        tried += 1
    assert tried == configurations(space)


@each_space
def test_baseline_builds_trains_and_reads_back_as_itself(file, tmp_path):
    space = load_space(file)
    assert space.baseline is not None
    config = space.draw(FixedDraw(space.baseline), seed=1)
    assert space.conflict(config) is None
    assert_trains(config, shape_of_data(space))
    assert_reads_back(config, tmp_path / "trial.yaml")


@each_space
def test_random_draws_reach_every_option_of_every_branch(file):
    space = load_space(file)
    reached = set()
    for seed in range(2000):
        config = space.draw(RandomDraw(seed), seed=0)
        if space.conflict(config) is None:
            reached |= {path for path, value in config.parameters().items() if value is not None}
        if set(space.searched()) <= reached:
            break
    assert set(space.searched()) <= reached


@each_space
def test_at_least_a_quarter_of_all_draws_can_be_trained(file):
    space = load_space(file)
    drawn = [space.draw(RandomDraw(seed), seed=0) for seed in range(300)]
    assert sum(space.conflict(config) is None for config in drawn) >= 0.25 * len(drawn)


@each_space
def test_file_opens_with_its_question_and_says_what_an_answer_costs(file):
    lines = comment(file)
    assert " ".join(itertools.takewhile(bool, lines)).endswith("?")
    (cost,) = [line.removeprefix("Cost:").strip() for line in lines if line.startswith("Cost:")]
    assert re.search(r"\d+ (second|minute|hour)", cost), f"{file.name}: the cost is {cost!r}, not a time"


@each_space
def test_check_accepts_the_file_and_names_the_baseline_as_trial_0(file):
    result = CliRunner().invoke(cli, ["check", str(file)])
    assert result.exit_code == 0, result.output
    assert result.output.endswith("OK. Nothing was started.\n")
    assert "\nbaseline: trial 0\n" in result.output


def test_spaces_are_found_and_called_as_their_files():
    assert {file.stem for file in FILES} >= {"dcgan", "mnist", "mlp_toy", "wgan_gp", "sngan_cifar10", "r3gan"}
    assert all(load_space(file).name == file.stem for file in FILES)
