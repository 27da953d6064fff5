"""Searches that are stopped before they train: soon, with nothing left behind, and the next call continues."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from gantune.cli.search import nothing_compared
from gantune.driver.preparation import Preparation
from gantune.driver.screen import Screen
from gantune.run import Run
from gantune.space import load_space
from gantune.stage import Stage, parse_report, read_stage, write_stage

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from stopping import STAGES, Search

sys.path.pop(0)
SPACE = """
version: 1
name: tiny
data: {dataset: digits, size: 8}
budget: {trials: 3, samples_per_trial: 600}
space: {architecture: {mlp: {hidden: [8, 16]}}, loss: hinge, optimizer: adam, lr_g: log 1e-4..1e-2}
"""


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "runs" / "tiny")


@pytest.fixture
def space(tmp_path):
    (tmp_path / "tiny.yaml").write_text(SPACE)
    return load_space(tmp_path / "tiny.yaml")


@pytest.mark.parametrize(
    ("text", "name", "share"),
    [
        ("starting Ray", "starting Ray", None),
        ("decoding photos: 5 of 20 images (25%)", "decoding photos", 0.25),
        ("learning features (classifier): step 1 of 100 (1%)", "learning features (classifier)", 0.01),
        ("hashing 100%", "hashing", 1.0),
    ],
)
def test_a_report_names_its_stage_and_its_share(text, name, share):
    assert parse_report(text) == (name, share)


def test_a_stage_is_read_as_it_was_written_and_damage_is_no_stage(tmp_path):
    stage = Stage(name="starting Ray", share=0.5, began=1.0, host="here", pid=7, entered=0.5, written=2.0, seconds=3.0)
    write_stage(tmp_path, stage)
    assert read_stage(tmp_path) == stage
    for content in ("", "[]", '{"no": 1}'):
        (tmp_path / "stage.json").write_text(content)
        assert read_stage(tmp_path) is None


def fail(run, space):
    """Prepare a run until a mistake is found."""
    with Preparation(Screen()) as preparation:
        preparation.take(run)
        preparation.begin(space)
        preparation.report("opening the data")
        assert read_stage(run.folder).name == "opening the data"
        raise ValueError("wrong")


def test_a_new_run_whose_preparation_fails_is_removed(run, space):
    with pytest.raises(ValueError, match="wrong"):
        fail(run, space)
    assert not run.folder.exists()


def test_a_run_that_was_there_before_stays_when_its_preparation_fails(run, space):
    with run.lock():
        run.begin(space)
    with pytest.raises(ValueError, match="wrong"):
        fail(run, space)
    assert len(run.manifest()["sessions"]) == 2
    assert read_stage(run.folder) is None


def test_only_a_baseline_at_its_full_budget_is_said_to_be_no_comparison():
    def ended(*states):
        trials = [SimpleNamespace(number=number, state=state) for number, state in enumerate(states)]
        return SimpleNamespace(trials=lambda: trials, baseline=lambda trials: trials[0])

    assert "nothing was compared" in nothing_compared(ended("finished"))
    assert "nothing was compared" in nothing_compared(ended("finished", "stopped", "collapsed"))
    assert nothing_compared(ended("finished", "stopped", "finished")) == ""


@pytest.mark.parametrize(
    ("stage", "way"), [("loading", "SIGTERM"), ("features", "stop"), ("Ray", "SIGINT"), ("features", "SIGINT twice")]
)
def test_a_search_that_is_stopped_in_a_stage_leaves_nothing_and_continues(tmp_path, stage, way):
    name, slow = STAGES[stage]
    search = Search(tmp_path, slow)
    search.start()
    search.reach(name)
    if stage == "features":
        shown = subprocess.run(
            [sys.executable, "-m", "gantune", "status", "tiny", "--json"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert json.loads(shown.stdout)["state"] == "preparing"
    search.stop(way)
    code, printed = search.end(60)
    assert code == 130, printed
    assert "Traceback" not in printed
    if way == "stop":
        assert "stopped" in search.asking.communicate(timeout=60)[1]
    until = time.monotonic() + 30
    while search.living() and time.monotonic() < until:
        time.sleep(0.1)
    assert search.living() == []
    assert search.litter() == []
    if way == "stop":
        search.slow = ""
        search.process = search.call("search", "tiny.yaml")
        search.reach("starting Ray")
        search.stop("SIGTERM")
        code, printed = search.end(60)
        assert code == 130, printed
        assert "continuing" in printed
