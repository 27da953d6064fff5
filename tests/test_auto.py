import math

import pytest

from gantune.driver.auto import sampler_of, shared, size
from gantune.space import load_space

SPACE = """
version: 1
data: {dataset: digits, size: 8}
budget: {trials: 24, samples_per_trial: 600}
search: {sampler: auto}
space: {architecture: mlp, loss: hinge, optimizer: {adam: {beta1: 0..0.9}}, lr_g: log 1e-4..1e-2}
"""
BRANCHES = "space.architecture={choose: {mlp: {hidden: [8, 16], depth: int 2..4}, dcgan: {width: [4, 8]}}}"


@pytest.fixture
def load(tmp_path):
    def loaded(*overrides):
        path = tmp_path / "space.yaml"
        path.write_text(SPACE)
        return load_space(path, overrides)

    return loaded


@pytest.mark.parametrize(
    ("overrides", "sampler"),
    [
        ([], "gp"),
        (["budget.trials=1000"], "cmaes"),
        (["budget.trials=1000", "space.batch_size=[16, 32]"], "tpe"),
        (["space.batch_size=[16, 32]"], "gp"),
        (["space.batch_size=[16, 32]", "space.loss=[hinge, minimax]", "space.precision=[auto, float32]"], "tpe"),
        ([BRANCHES], "tpe"),
        (["space.lr_g=[1e-3, 1e-4]", "space.optimizer=adam"], "grid"),
        (["space.lr_g=[1e-3, 1e-4]", "space.optimizer=adam", "budget.trials=1"], "tpe"),
        ([BRANCHES, "search.sampler=gp"], "gp"),
    ],
)
def test_auto_stands_for_the_sampler_that_suits(load, overrides, sampler):
    assert sampler_of(load(*overrides)) == sampler


def test_what_every_configuration_has_leaves_out_what_some_branches_have(load):
    assert list(shared(load(BRANCHES))) == ["architecture", "optimizer.adam.beta1", "lr_g"]


def test_a_space_has_the_product_within_each_branch_and_the_sum_across(load):
    assert math.isinf(size(load(BRANCHES)))
    assert size(load(BRANCHES, "space.lr_g=[1e-3, 1e-4]", "space.optimizer=adam")) == (2 * 3 + 2) * 2
    assert size(load("space.lr_g=1e-3", "space.optimizer=adam")) == 1
