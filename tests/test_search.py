"""Real searches in processes of their own, on digits, with Ray."""

import contextlib
import functools
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import optuna
import pyarrow.dataset as ds
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from PIL import Image
from test_trackers import scalars

from gantune.data.cache import cache_directory
from gantune.export.snippets import HOLDS
from gantune.results import ENDED
from gantune.run import Run

SPACE = """
version: 1
name: tiny
data: {dataset: digits, size: 8}
objective: {samples: {report: 300, final: 300}, reports: 4}
budget: {trials: 6, samples_per_trial: 3000}
search: {scheduler: {asha: {first_rung: 0.5, reduction: 2}}}
space:
  architecture: {choose: {mlp: {hidden: [32, 64]}, dcgan: {width: [8], norm_d: none}}}
  loss: [non_saturating, hinge]
  optimizer: adam
  lr_g: log 1e-4..1e-2
  batch_size: [32, 64]
baseline: {architecture: {mlp: {hidden: 64}}, loss: hinge, lr_g: 1e-3, batch_size: 32}
"""


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE)
    return path


def command(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    return {"args": [sys.executable, "-m", "gantune", *arguments], "cwd": folder, "env": environment}


def gantune(folder, *arguments, code=0):
    done = subprocess.run(**command(folder, *arguments), capture_output=True, text=True, timeout=240, check=False)
    assert code is None or done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def study_of(run: Run) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(run.study_path))))


def assert_whole(run: Run, trials: int) -> None:
    """Each asked trial ended once in the results, and as often in the study; none is left running."""
    ends = Counter(row.trial for row in run.results.rows() if row.state in set(ENDED) - {"failed"} and not row.repeat)
    assert max(ends.values(), default=1) == 1
    assert [trial.number for trial in run.trials() if trial.state in ENDED] == list(range(trials))
    states = Counter(trial.state for trial in study_of(run).trials)
    assert states[TrialState.RUNNING] == states[TrialState.WAITING] == 0
    assert sum(states.values()) == trials


def wait_for(process, condition, seconds=300):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the search ended before it could be interrupted"
        assert time.monotonic() < until, "the search did not get that far"
        time.sleep(0.05)


def test_a_search_finds_exports_and_samples_a_generator(space, tmp_path):
    done = gantune(tmp_path, "search", str(space))
    assert "6/6" in done.stderr
    stages = ("ray.log", "loading PyTorch and Ray", "starting Ray")
    told = functools.reduce(lambda text, stage: text.replace(stage, ""), stages, done.stderr)
    assert "ray" not in told.lower()  # its chatter stays in the log
    run = Run(tmp_path / "runs" / "tiny")
    assert_whole(run, 6)
    ends = [
        int(found) for found in re.findall(r"rung at 1,500 samples: (\d+) trials are known to the end", done.stderr)
    ]
    full = [trial for trial in run.trials() if trial.state in ("finished", "collapsed") and trial.samples_seen > 1700]
    assert ends == [len(full)]

    table = ds.dataset(str(run.folder / "results"), format="parquet").to_table()
    wanted = {"trial", "state", "samples_seen", "score", "metrics", "seed", "config", "cause"}
    assert wanted <= set(table.column_names)
    ends = {trial.number: trial for trial in run.trials()}
    for row in run.results.rows():
        assert row.samples_seen <= ends[row.trial].samples_seen

    best = json.loads(gantune(tmp_path, "best", "tiny", "--export", "winner", "--json").stdout)
    assert best["score"] == min(trial.best_score for trial in ends.values() if trial.survived)
    assert best["baseline_score"] is not None
    assert Path(tmp_path, best["checkpoint"]).is_file()
    assert sorted(path.name for path in (tmp_path / "winner").iterdir()) == sorted(best["files"]) == sorted(HOLDS)
    text = gantune(tmp_path, "best").stdout
    assert f"#{best['trial']}" in text
    assert "baseline" in text

    gantune(tmp_path, "sample", "winner", "-n", "5", "--out", "a")
    gantune(tmp_path, "sample", best["checkpoint"], "-n", "5", "--out", "b")
    for name in sorted(path.name for path in (tmp_path / "a").iterdir()):
        assert np.array_equal(Image.open(tmp_path / "a" / name), Image.open(tmp_path / "b" / name))

    again = gantune(tmp_path, "search", str(space))
    assert "6 of 6 trials have ended" in again.stderr
    assert_whole(run, 6)

    more = gantune(tmp_path, "search", str(space), "--set", "budget.trials=8")
    assert "8/8" in more.stderr
    assert_whole(run, 8)

    other = gantune(tmp_path, "search", str(space), "--set", "data.size=16", code=1)
    assert "data.size: 8 became 16" in other.stderr


def test_a_search_keeps_to_the_rules_first_configurations_and_budgets_of_a_space_and_its_base(space, tmp_path):
    (tmp_path / "over.yaml").write_text(
        "extends: tiny.yaml\n"
        "budget: {trials: 20, samples: 7000}\n"
        "rules: [{forbid: {loss: hinge, batch_size: 64}, why: it hurts}]\n"
        "first: [{architecture: dcgan, loss: hinge, lr_g: 2e-3, batch_size: 32}]\n"
    )
    done = gantune(tmp_path, "search", "over.yaml", "--set", "collapse.enabled=false")
    told = re.search(r"budget\.samples is used up: (\d+) of 7000", done.stderr.replace(",", ""))
    run = Run(tmp_path / "runs" / "over")
    trials = run.trials()
    assert 7000 <= int(told[1]) == sum(trial.samples_seen for trial in trials)
    assert [trial.parameters["lr_g"] for trial in trials[:2]] == [1e-3, 2e-3]
    assert not any(trial.parameters["loss"] == "hinge" and trial.parameters["batch_size"] == 64 for trial in trials)
    assert {trial.state for trial in trials} <= {"finished", "paused"}


def test_gpu_hours_without_a_gpu_are_refused(space, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = gantune(tmp_path, "search", str(space), "--set", "budget.gpu_hours=1", code=1)
    assert "budget.gpu_hours would never be used up, for there is no GPU" in done.stderr


class Dashboard:
    """optuna-dashboard, in a process of its own, on the study of a run."""

    def __init__(self, run):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        program = Path(sys.executable).with_name("optuna-dashboard")
        arguments = [program, run.study_path, "--port", str(self.port), "--server", "wsgiref", "--quiet"]
        self.process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/{path}", timeout=30) as answer:
            return json.load(answer)

    def answers(self):
        try:
            return bool(self.get("studies"))
        except OSError:
            return False

    def close(self):
        self.process.kill()
        self.process.wait()


def test_a_running_searchs_study_is_shown_by_a_dashboard_and_a_kill_loses_no_trial_and_repeats_none(space, tmp_path):
    asked = 8
    arguments = ("search", str(space), "--set", f"budget.trials={asked}")
    run = Run(tmp_path / "runs" / "tiny")
    process = subprocess.Popen(**command(tmp_path, *arguments), stderr=subprocess.DEVNULL)
    wait_for(process, run.study_path.exists)
    installed = importlib.util.find_spec("optuna_dashboard") is not None
    with contextlib.closing(Dashboard(run)) if installed else contextlib.nullcontext() as dashboard:
        wait_for(process, lambda: sum(row.state != "running" for row in run.results.rows()) >= 3)
        shown = []
        if installed:
            wait_for(process, dashboard.answers)
            (study,) = dashboard.get("studies")["study_summaries"]
            shown = dashboard.get(f"studies/{study['study_id']}")["trials"]
        assert process.poll() is None
        process.kill()
        process.wait()
    before = run.results.rows()
    for folder in (run.folder / "tensorboard").iterdir():
        steps = {row.samples_seen for row in before if row.trial == int(folder.name)}
        assert {step for step, _ in scalars(folder, "score")} <= steps

    gantune(tmp_path, *arguments)
    assert_whole(run, asked)
    after = run.results.rows()
    assert before == after[: len(before)]
    reports = Counter((row.trial, row.samples_seen, row.state) for row in after)
    assert max(reports.values()) == 1
    for folder in (run.folder / "tensorboard").iterdir():
        steps = [step for step, _ in scalars(folder, "score")]
        assert len(steps) == len({*steps})
    if not installed:
        pytest.skip("optuna-dashboard is not installed; all else holds")
    assert_readable([trial for trial in shown if trial["state"] in ("Complete", "Pruned")], run)


def assert_readable(ended, run):
    """What optuna-dashboard shows of ended trials is what the run tells of them."""
    parameters = {trial.number: trial.parameters for trial in run.trials()}
    assert ended
    for trial in ended:
        own = parameters[trial["number"]]
        values = {each["name"]: each["param_external_value"] for each in trial["params"]}
        assert {"architecture", "loss", "lr_g", "batch_size"} <= {*values} <= {*own}
        assert (values["loss"], float(values["lr_g"])) == (own["loss"], own["lr_g"])
        reports = {row.samples_seen for row in run.results.rows() if row.trial == trial["number"]}
        assert {each["step"] for each in trial["intermediate_values"]} <= reports
        assert {"state", "cause", "samples_seen"} <= {each["key"] for each in trial["user_attrs"]}


def test_finalists_are_confirmed_under_fresh_seeds_even_by_a_driver_killed_meanwhile(space, tmp_path):
    overrides = (
        "budget.trials=3",
        "budget.samples_per_trial=1500",
        "search.scheduler=none",
        "collapse.enabled=false",
        "confirm.top=2",
        "confirm.seeds=2",
    )
    arguments = ("search", str(space), *(word for override in overrides for word in ("--set", override)))
    run = Run(tmp_path / "runs" / "tiny")
    process = subprocess.Popen(**command(tmp_path, *arguments), stderr=subprocess.DEVNULL)
    wait_for(process, lambda: any(row.repeat for row in run.results.rows()))
    process.kill()
    process.wait()
    before = run.results.rows()

    gantune(tmp_path, *arguments, code=None)
    after = run.results.rows()
    assert before == after[: len(before)]
    assert_whole(run, 3)
    ends = Counter((row.trial, row.repeat) for row in after if row.repeat and row.state in ENDED)
    assert set(ends.values()) == {1}
    survivors = sorted((trial for trial in run.trials() if trial.survived), key=lambda trial: trial.best_score)[:2]
    assert set(ends) == {(trial.number, repeat) for trial in survivors for repeat in (1, 2)}
    seeds = [record.seed for record in [*run.trials(), *run.repeats()]]
    assert len(set(seeds)) == len(seeds)
    own = {trial.number: trial.parameters for trial in survivors}
    assert all(record.parameters == own[record.number] for record in run.repeats())
    told = json.loads(gantune(tmp_path, "best", "--json").stdout)
    assert {standing["number"] for standing in told["confirmed"]} == {trial.number for trial in survivors}
    assert told["trial"] == told["confirmed"][0]["number"]
    assert Path(tmp_path / told["checkpoint"]).is_file()
    assert gantune(tmp_path, *arguments).stderr.count("confirming") == 0


def test_ctrl_c_stops_politely_and_the_same_command_continues(space, tmp_path):
    run = Run(tmp_path / "runs" / "tiny")
    process = subprocess.Popen(**command(tmp_path, "search", str(space)), stderr=subprocess.PIPE, text=True)
    wait_for(process, lambda: len(run.results.rows()) >= 3)
    seen = json.loads(gantune(tmp_path, "status", "--json").stdout)
    assert (seen["state"], [driver["pid"] for driver in seen["drivers"]]) == ("searching", [process.pid])
    assert seen["situation"]["running"]
    assert seen["situation"]["asked"] == 6
    assert "tiny  searching here" in gantune(tmp_path, "ls").stdout
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "the same command continues" in errors
    assert "Traceback" not in errors
    assert "nobody drives it; continue with: gantune resume runs/tiny" in gantune(tmp_path, "status").stdout
    gantune(tmp_path, "search", str(space))
    assert_whole(run, 6)
    assert "runs/tiny: has come to its end" in gantune(tmp_path, "status").stdout


FRAGILE = """
import os
from pathlib import Path
import ray
from gantune.models.mlp import mlp

def fragile(shape, *, hidden: int = 16):
    marker = Path(__file__).with_name("died-once")
    if ray.is_initialized() and not marker.exists():  # in a worker; before Ray starts, the driver tries the networks
        marker.touch()
        os._exit(1)
    return mlp(shape, hidden=hidden)

def broken(shape, *, hidden: int = 16):
    if ray.is_initialized():
        raise ValueError("no such shape")
    return mlp(shape, hidden=hidden)

def hopeless(shape, *, hidden: int = 16):
    raise ValueError("no shape at all")
"""


def test_a_trial_whose_worker_dies_is_trained_again(space, tmp_path):
    (tmp_path / "mine.py").write_text(FRAGILE)
    space.write_text(SPACE.partition("baseline:")[0])
    arguments = ("--set", "architecture=mine:fragile", "--set", "budget.trials=2")
    gantune(tmp_path, "search", str(space), *arguments)
    run = Run(tmp_path / "runs" / "tiny")
    assert (tmp_path / "died-once").exists()
    assert_whole(run, 2)
    assert all(trial.state in ("finished", "pruned") for trial in run.trials())


def test_an_architecture_that_can_be_built_nowhere_is_refused_before_any_trial(space, tmp_path):
    (tmp_path / "mine.py").write_text(FRAGILE)
    space.write_text(SPACE.partition("baseline:")[0])
    done = gantune(tmp_path, "search", str(space), "--set", "architecture=mine:hopeless", code=2)
    assert "no shape at all" in done.stderr
    assert "mine:hopeless" in done.stderr
    assert Run(tmp_path / "runs" / "tiny").results.rows() == []


def test_a_run_without_survivors_says_why_and_exits_with_3(space, tmp_path):
    (tmp_path / "mine.py").write_text(FRAGILE)
    space.write_text(SPACE.partition("baseline:")[0])
    arguments = ("--set", "architecture=mine:broken", "--set", "budget.trials=2")
    done = gantune(tmp_path, "search", str(space), *arguments, code=3)
    assert "no trial survived" in done.stderr
    assert "no such shape" in done.stderr
    assert_whole(Run(tmp_path / "runs" / "tiny"), 2)
    assert gantune(tmp_path, "best", code=3).stderr.count("no such shape") == 2


def test_trials_that_fail_one_after_another_stop_the_search_with_the_cause(space, tmp_path):
    (tmp_path / "mine.py").write_text(FRAGILE)
    space.write_text(SPACE.partition("baseline:")[0])
    done = gantune(tmp_path, "search", str(space), "--set", "architecture=mine:broken", code=1)
    assert "no such shape" in done.stderr
    run = Run(tmp_path / "runs" / "tiny")
    failed = sum(trial.state == "failed" for trial in run.trials())
    assert 3 <= failed < 6  # what was under way may fail too; the rest of the budget is kept
    (tmp_path / "mine.py").write_text(FRAGILE.replace('raise ValueError("no such shape")', "pass"))
    gantune(tmp_path, "search", str(space), "--set", "architecture=mine:broken")
    assert_whole(run, 6)
    assert not any(trial.state == "failed" for trial in run.trials())  # they were tried again


def test_a_continued_search_mends_damage_and_refuses_other_data(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for index in range(70):
        Image.fromarray(noise.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{index}.png")
    space = tmp_path / "tiny.yaml"
    space.write_text(SPACE.replace("dataset: digits", f"dataset: {folder}"))
    run = Run(tmp_path / "runs" / "tiny")
    process = subprocess.Popen(**command(tmp_path, "search", str(space)), stderr=subprocess.DEVNULL)
    wait_for(process, lambda: len(run.results.rows()) >= 2)
    process.kill()
    process.wait()

    ended = {row.trial for row in run.results.rows() if row.state in ENDED}
    for path in run.folder.glob("trials/*/latest.safetensors"):
        if int(path.parent.name) not in ended:
            path.write_bytes(path.read_bytes()[:1000])
    (folder / "0.png").rename(tmp_path / "0.png")
    refused = gantune(tmp_path, "search", str(space), code=1)
    assert "measured against (1 file: 0.png is missing); restore it" in refused.stderr

    (tmp_path / "0.png").rename(folder / "0.png")
    shutil.copytree(folder, tmp_path / "copied", copy_function=shutil.copyfile)  # with times of their own
    shutil.rmtree(folder)
    decoded = set((cache_directory() / "images").iterdir())
    gantune(
        tmp_path, "resume", "tiny", "--set", f"data.dataset={tmp_path / 'copied'}", code=None
    )  # noise may leave none
    assert set((cache_directory() / "images").iterdir()) == decoded
    assert_whole(run, 6)
    assert not any(trial.state == "failed" for trial in run.trials())
