"""However a search ends, its record says what its kept weights say, and it can be finished as if it had not ended."""

import pytest
import torch
from ends import WAYS, Peace, end_and_finish, shared_ray

CONFIRMED = ("samples", "SIGKILL")  # ended while finalists are trained again


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def peace(folder):
    with shared_ray():
        yield Peace.search(folder)


@pytest.mark.parametrize("way", WAYS)
def test_an_ended_search_has_the_record_of_its_weights_and_finishes_as_if_never_ended(folder, peace, way):
    if way == "gpu_hours" and torch.cuda.is_available():
        pytest.skip("trials would train on the GPU, whose numbers are others")
    ended = end_and_finish(way, folder, peace, seed=0, confirmed=way in CONFIRMED)
    assert not ended.problems, "\n".join([f"{ended.run.folder}: {ended.how}", *ended.problems])
