"""A cluster that is joined: its machines come late, and may lack what Ray counts."""

import io
from types import SimpleNamespace

import pytest
import torch

from gantune.driver import connection, sharing, trainable
from gantune.driver.screen import Screen
from gantune.driver.tune import _Noting
from gantune.driver.workers import Workers
from gantune.errors import RunError
from gantune.space import load_space

SPACE = {
    "version": 1,
    "name": "tiny",
    "data": {"dataset": "digits", "size": 8},
    "objective": {"metric": "kid"},
    "budget": {"trials": 4, "samples_per_trial": 600},
    "space": {
        "architecture": {"mlp": {"hidden": 8, "depth": 1}},
        "loss": "hinge",
        "optimizer": "adam",
        "lr_g": 1e-3,
        "batch_size": 32,
    },
}


class Cluster:
    """A head that trains nothing; a machine joins with every look. Notes what is requested of its autoscaler."""

    def __init__(self, *joining):
        self._nodes = [{"Alive": True, "Resources": {"memory": 1.0}}]
        self._joining = list(joining)
        self.requested = []

    def nodes(self):
        seen = list(self._nodes)
        if self._joining:
            self._nodes.append({"Alive": True, "Resources": self._joining.pop(0)})
        return seen

    def request(self, bundles):
        self.requested.append(bundles)


def awaited(monkeypatch, cluster, **resources):
    monkeypatch.setattr(sharing.ray, "nodes", cluster.nodes)
    monkeypatch.setattr(sharing, "request_resources", cluster.request)
    monkeypatch.setattr(sharing, "SECONDS_BETWEEN_LOOKS", 0.0)
    said = []
    sharing._await_machine(load_space({**SPACE, "resources": resources}), said.append, lambda text: None)
    return said


def test_a_cluster_without_room_is_waited_for_and_asked_to_grow(monkeypatch):
    cluster = Cluster({"CPU": 2.0}, {"CPU": 4.0, "GPU": 1.0})
    (said,) = awaited(monkeypatch, cluster, gpus_per_trial=0.5)
    assert "waiting, Ctrl-C ends it" in said
    assert cluster.requested == [[{"CPU": 1.0, "GPU": 0.5}], []]  # and what was requested is taken back


@pytest.mark.parametrize("gpus", ["auto", None])
def test_what_is_to_be_measured_on_a_gpu_waits_for_one_and_what_takes_any_machine_does_not(monkeypatch, gpus):
    cluster = Cluster({"CPU": 2.0}, {"CPU": 4.0, "GPU": 1.0})
    awaited(monkeypatch, cluster, gpus_per_trial=gpus)
    assert cluster.requested[0] == [{"CPU": 1.0, "GPU": 1.0} if gpus else {"CPU": 1.0}]


def test_a_cluster_with_room_is_not_asked(monkeypatch):
    cluster = Cluster({"CPU": 2.0})
    cluster.nodes()
    assert awaited(monkeypatch, cluster) == []
    assert cluster.requested == []


@pytest.mark.parametrize(("head", "expected"), [(True, False), (False, True), (None, False)])
def test_a_ray_of_our_own_is_no_cluster(monkeypatch, head, expected):
    node = None if head is None else SimpleNamespace(is_head=lambda: head)
    monkeypatch.setattr(connection.worker, "_global_node", node)
    assert connection.joined() is expected


@pytest.mark.parametrize(("device", "there"), [("cuda", False), ("cuda", True), ("cpu", False)])
def test_a_machine_whose_gpu_torch_does_not_see_says_so(monkeypatch, device, there):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    remark = trainable._without_gpu(device)
    assert ("torch sees none" in remark) == (device == "cuda" and not there)


def test_a_remark_of_several_trials_is_told_once():
    stream = io.StringIO()
    noting = _Noting(SimpleNamespace(), SimpleNamespace(), Screen(stream), SimpleNamespace(), Workers())
    for remark in ("one: no GPU", "", "one: no GPU", "two: no GPU"):
        noting._remark(remark)
    assert [line for line in stream.getvalue().splitlines() if line] == ["one: no GPU", "two: no GPU"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999", "localhost:1"])
def test_a_cluster_that_is_not_there_is_told_at_once(tmp_path, address):
    told = f"^Ray could not be reached at {address}: [^\n]*; is that cluster up\\?$"
    with pytest.raises(RunError, match=told), connection.connected(tmp_path / "ray.log", address):
        pass
