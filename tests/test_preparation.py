"""What the preparation of a search shows, keeps and takes away; tests/test_stopping.py stops whole searches."""

import io
import json
import os
import re
import signal
import time
from dataclasses import replace

import pytest
from click.testing import CliRunner

from gantune.cli.main import cli
from gantune.clock import Clock
from gantune.config import SearchConfig
from gantune.driver import stages as stages_module
from gantune.driver.interrupts import Interrupted, Interrupts
from gantune.driver.preparation import Preparation
from gantune.driver.screen import Screen
from gantune.errors import DataError, RunError
from gantune.requests import Requests
from gantune.results import Row
from gantune.run import Run
from gantune.space import load_space
from gantune.stage import read_stage

SPACE = """
version: 1
name: tiny
data: {dataset: digits, size: 8}
budget: {trials: 3, samples_per_trial: 600, hours: 1}
space: {architecture: {mlp: {hidden: [8, 16]}}, loss: hinge, optimizer: adam, lr_g: log 1e-4..1e-2}
"""
LONGEST = 30.0  # seconds for what takes less than one


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "runs" / "tiny")


@pytest.fixture
def space(tmp_path):
    (tmp_path / "tiny.yaml").write_text(SPACE)
    return load_space(tmp_path / "tiny.yaml")


def gantune(*arguments):
    done = CliRunner().invoke(cli, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def wait_for(what):
    until = time.monotonic() + LONGEST
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def prepare(run, space, step=lambda preparation: None, *, after=lambda preparation: None, shown=None, clock=None):
    """Take and begin a run as a command does, then do a step; `after` it what a search does in every case."""
    with Preparation(Screen(shown or io.StringIO()), clock) as preparation:
        preparation.take(run)
        preparation.begin(space)
        try:
            step(preparation)
        finally:
            after(preparation)


def trained(run):
    """Leave a row, as a run has that has trained."""
    run.results.append(
        Row(
            trial=0,
            samples_seen=100,
            state="running",
            score=9.0,
            best_score=9.0,
            metrics={},
            seed=1,
            config="{}",
            cause="",
            verdict="healthy",
            evidence={},
            trial_seconds=1.0,
            run_seconds=40.0,
        )
    )


def test_a_stage_is_a_line_when_it_begins_and_again_while_it_lasts(monkeypatch):
    monkeypatch.setattr(stages_module, "SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(stages_module, "SECONDS_BETWEEN_LINES", 0.05)
    shown = io.StringIO()
    with Preparation(Screen(shown)) as preparation:
        preparation.report("opening the data")
        wait_for(lambda: shown.getvalue().count("opening the data") >= 3)  # without another report
        preparation.report("learning features (slow): step 1 of 4 (25%)")
        preparation.report("learning features (slow): step 3 of 4 (75%)")
        wait_for(lambda: "(75%)" in shown.getvalue())
    lines = shown.getvalue().splitlines()
    assert lines[0] == "opening the data"
    assert "learning features (slow): step 1 of 4 (25%)" in lines


def test_status_names_the_stage_and_takes_nothing_for_silent(run, space):
    def look(preparation):
        preparation.report("learning features (slow): step 21 of 50 (42%)")
        text = gantune("status", run.folder)
        assert re.search(r"preparing: learning features \(slow\), 42%, .* since it began", text)
        assert f"driven by process {os.getpid()} on this machine" in text
        told = json.loads(gantune("status", run.folder, "--json"))
        assert (told["state"], told["next"]) == ("preparing", f"gantune stop {run.folder}")
        assert (told["stage"]["name"], told["stage"]["share"]) == ("learning features (slow)", 0.42)
        preparation.train()
        assert read_stage(run.folder) is None
        assert json.loads(gantune("status", run.folder, "--json"))["state"] == "searching"

    prepare(run, space, look)
    assert json.loads(gantune("status", run.folder, "--json"))["state"] == "silent"


@pytest.mark.parametrize("way", ["stop", signal.SIGINT, signal.SIGTERM])
def test_a_signal_and_a_request_end_a_step_that_reports_nothing(run, space, way):
    def wait(preparation):
        preparation.report("starting Ray")
        if way == "stop":
            Requests(run).ask("stop")
        else:
            os.kill(os.getpid(), way)
        time.sleep(LONGEST)

    said = []
    with pytest.raises(Interrupted):
        prepare(
            run,
            space,
            wait,
            after=lambda preparation: said.append(preparation.stopped()),
            shown=(shown := io.StringIO()),
        )
    assert said == [False]
    assert shown.getvalue().splitlines()[-1] == "stopped while starting Ray; the same command continues"
    assert run.manifest()["sessions"][0]["seconds"] > 0
    assert read_stage(run.folder) is None


def test_an_interrupt_that_python_ignores_is_raised_again():
    class Finalized:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0)  # the handler has its turn, and what it raises is lost

    def lose():
        thing = Finalized()
        del thing
        time.sleep(LONGEST)

    with Interrupts() as interrupts, pytest.raises(Interrupted):
        lose()
    assert interrupts.cause == "signal"


def test_hours_that_the_preparation_has_used_up_end_it(run, space):
    def wait(preparation):
        preparation.report("opening the data")
        time.sleep(LONGEST)

    clock, shown, said = Clock(), io.StringIO(), []
    clock.started -= 3601
    with pytest.raises(Interrupted):
        prepare(
            run, space, wait, after=lambda preparation: said.append(preparation.stopped()), shown=shown, clock=clock
        )
    assert said == [True]
    assert "the preparation took all of it" in shown.getvalue()
    assert f"gantune resume {run.shown} --set budget.hours=N" in shown.getvalue()


def test_the_clock_goes_on_from_a_session_that_trained_nothing(run, space):
    for before in (0.0, 100.0):
        clock = Clock()
        clock.started -= 100
        prepare(run, space, clock=clock)
        assert before <= clock.before < before + LONGEST
    assert run.manifest()["sessions"][-1]["seconds"] >= 200


def test_a_run_continued_with_other_data_is_left_as_it_was(run, tmp_path):
    spaces = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / "tiny.yaml").write_text(SPACE.replace("dataset: digits", f"dataset: {tmp_path / name}"))
        spaces.append(load_space(tmp_path / "tiny.yaml"))
    with run.lock():
        run.begin(spaces[0])
    trained(run)
    text, rows = (run.folder / "space.yaml").read_text(), run.rows()

    def differ(preparation):
        assert preparation.continued
        raise DataError("these are others")

    with pytest.raises(DataError, match="these are others"):
        prepare(run, spaces[1], differ)
    assert (run.folder / "space.yaml").read_text() == text
    assert run.manifest()["space"]["data"]["dataset"] == str(tmp_path / "one")
    assert run.rows() == rows
    assert read_stage(run.folder) is None


def test_another_space_takes_the_place_of_one_that_trained_nothing(run, space):
    prepare(run, space)
    prepare(run, replace(space, search=SearchConfig(seed=7)))
    assert run.manifest()["seed"] == 7
    assert len(run.manifest()["sessions"]) == 1
    trained(run)
    with pytest.raises(RunError, match=r"another space \(search.seed: 7 became 0\)"):
        prepare(run, space)
    assert run.manifest()["seed"] == 7
