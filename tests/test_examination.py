"""What `gantune doctor` makes of a machine, told by machines that are made up."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from gantune.cli.doctor import command
from gantune.driver import starting
from gantune.examination import EXTRAS, GB, PACKAGES, Disk, Gpu, Machine, examine, look
from gantune.storage import Place

H200 = Gpu(name="H200", memory=int(141 * GB))
SOUND = Machine(
    python="3.11.7",
    packages=dict.fromkeys(PACKAGES, "2.0"),
    cpus=8,
    memory=int(32 * GB),
    shm=int(8 * GB),
    torch_cuda="12.8",
    torch_gpus=(H200,),
    driver="570.1",
    driver_cuda="12.8",
    gpus=(H200,),
    ray="",
    runs=Disk(path="runs", free=int(100 * GB)),
    cache=Disk(path="cache", free=int(100 * GB)),
    extras=dict.fromkeys(EXTRAS, True),
)
BLIND = replace(SOUND, torch_gpus=())


def test_a_sound_machine_has_no_problem_and_needs_no_advice():
    assert {finding.state for finding in examine(SOUND)} == {"ok"}


@pytest.mark.parametrize(
    ("machine", "state", "what", "words"),
    [
        (replace(BLIND, torch_cuda=None), "problem", "GPU", "a torch for CPUs alone; pytorch.org/get-started"),
        (replace(BLIND, torch_cuda="13.2"), "problem", "GPU", "up to 12.8, torch needs CUDA 13.2; a newer driver"),
        (replace(BLIND, torch_cuda="12.9"), "problem", "GPU", "torch sees none of them; CUDA_VISIBLE_DEVICES"),
        (replace(SOUND, gpus=(H200, H200)), "advice", "GPU", "torch sees 1 of 2; CUDA_VISIBLE_DEVICES"),
        (replace(BLIND, gpus=()), "advice", "GPU", "though there is a driver; nvidia-smi"),
        (replace(SOUND, packages={**SOUND.packages, "ray": None}), "problem", "ray", "is not installed; pip install"),
        (
            replace(SOUND, torch_error="cannot be imported: libcudart"),
            "problem",
            "torch",
            "libcudart; install it again",
        ),
        (replace(SOUND, memory=int(2 * GB)), "advice", "machine", "2.0 GB; cpus_per_trial"),
        (replace(SOUND, shm=64_000_000), "advice", "/dev/shm", "0.06 GB; --shm-size"),
        (replace(SOUND, ray="no port"), "problem", "Ray", "does not start: no port; session_latest/logs"),
        (replace(SOUND, runs=Disk(path="r", unwritable="read-only")), "problem", "runs", "r: read-only; --runs"),
        (replace(SOUND, runs=Disk(path="r", free=1000)), "problem", "runs", "0.0 GB free; keep:"),
        (replace(SOUND, cache=Disk(path="c", free=int(2 * GB))), "advice", "cache", "2.0 GB free; GANTUNE_CACHE"),
        (replace(SOUND, runs=Disk(path="r", free=int(9 * GB), lockless="n/a")), "problem", "locks", "n/a; local disk"),
        (replace(SOUND, loopback="refused"), "problem", "network", "loopback fails: refused; firewall"),
        (replace(SOUND, proxies={"HTTP_PROXY": "p"}), "advice", "network", "HTTP_PROXY; NO_PROXY=127.0.0.1"),
    ],
)
def test_what_is_amiss_is_told_with_a_remedy(machine, state, what, words):
    amiss = [finding for finding in examine(machine) if finding.state != "ok"]
    assert [(finding.state, finding.what) for finding in amiss] == [(state, what)]
    for word in words.split("; "):
        assert all(part in f"{amiss[0].found} {amiss[0].remedy}" for part in word.split(", "))


def test_a_proxy_that_leaves_the_loopback_alone_is_none_of_our_business():
    assert not [
        f
        for f in examine(replace(SOUND, proxies={"http_proxy": "p", "no_proxy": "localhost,127.0.0.1"}))
        if f.state != "ok"
    ]


def test_an_extra_that_is_missing_is_told_with_its_command_and_is_no_problem():
    found = examine(replace(SOUND, extras={**SOUND.extras, "postgres": False}))
    (line,) = [finding for finding in found if finding.what == "[postgres]"]
    assert line.state == "ok"
    assert "'.[postgres]'" in line.remedy


def test_this_machine_can_be_looked_at_and_is_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("GANTUNE_CACHE", str(tmp_path / "cache"))
    machine = look(tmp_path / "runs" / "deep", lambda: "not here")
    assert machine.ray == "not here"
    assert machine.packages["torch"]
    assert not machine.runs.unwritable
    assert not machine.runs.lockless
    assert machine.loopback == ""
    assert list(tmp_path.iterdir()) == []


class Refusing:
    """A storage that lets nobody in."""

    def get_file_info(self, wish):
        raise OSError("ACCESS_DENIED: not for you")


def test_a_place_is_asked_whether_it_answers(tmp_path):
    (tmp_path / "there").mkdir()
    assert look(Place(f"file://{tmp_path}/there")).runs.unwritable == ""
    refused = look(Place("s3://bucket/runs", filesystem=Refusing())).runs
    assert (refused.path, refused.unwritable.partition(":")[0]) == ("s3://bucket/runs", "ACCESS_DENIED")


def test_a_problem_makes_it_fail_and_it_can_be_had_as_json(tmp_path, monkeypatch):
    monkeypatch.setenv("GANTUNE_CACHE", str(tmp_path))
    done = CliRunner().invoke(command, ["--quick", "--json", "--runs", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["problems"] == 0
    monkeypatch.setattr(starting, "PROBE", "raise SystemExit('no port is free')")
    done = CliRunner().invoke(command, ["--runs", str(tmp_path)])
    assert done.exit_code == 1
    assert "PROBLEM  Ray" in done.output
    assert "does not start: no port is free" in done.output
    assert done.output.endswith("1 problem\n")
