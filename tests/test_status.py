"""`gantune status` and `gantune ls`: runs seen by others than their driver."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from filelock import FileLock
from made_runs import make_run

from gantune.cli import status as status_module
from gantune.cli.main import cli
from gantune.storage import Place


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs"), trials=12, running=2, weights=False)


@pytest.fixture
def run(made, tmp_path):
    """The same run, to be changed."""
    shutil.copytree(made.folder, tmp_path / "runs" / "made")
    return type(made)(tmp_path / "runs" / "made")


def gantune(*arguments, code=0):
    done = CliRunner().invoke(cli, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.stdout


def test_a_run_that_nobody_drives_is_shown_with_how_to_go_on(made):
    text = gantune("status", made.folder)
    assert "10/24" in text
    assert "2 waiting" in text
    assert "left" not in text  # nobody works on it
    assert f"nobody drives it; continue with: gantune resume {made.folder}" in text
    assert f"best fid_classifier {made.best().best_score:.4g}" in text


def test_a_run_that_is_driven_is_shown_with_who_drives_it(run):
    manifest = run.manifest()
    manifest["sessions"][-1] |= {"host": "node7", "pid": 12}
    (run.folder / "manifest.json").write_text(json.dumps(manifest))
    with FileLock(run.folder / ".lock"):
        text = gantune("status", run.folder)
    assert "2 running" in text
    assert "driven by process 12 on node7 since" in text


def test_json_holds_what_is_shown(made):
    told = json.loads(gantune("status", made.folder, "--json"))
    assert (told["run"], told["state"], told["drivers"]) == (str(made.folder), "stopped", [])
    assert told["situation"]["best"]["score"] == made.best().best_score
    assert [trial["trial"] for trial in told["situation"]["waiting"]] == [10, 11]
    assert told["situation"]["running"] == []  # nobody drives it
    assert told["next"] == f"continue with: gantune resume {made.folder}"


def test_watching_follows_until_nobody_drives_any_more(run, monkeypatch):
    lock = FileLock(run.folder / ".lock")
    lock.acquire()
    row = run.results.rows()[-1]
    steps = iter(
        [
            lambda: run.results.append(replace(row, state="finished", run_seconds=row.run_seconds + 1)),
            lambda: None,  # nothing new, nothing said
            lock.release,
        ]
    )
    monkeypatch.setattr(status_module, "time", SimpleNamespace(sleep=lambda seconds: next(steps)()))
    lines = gantune("status", run.folder, "--watch").splitlines()
    assert [line.split("  ")[0].split()[-1] for line in lines[:3]] == ["10/24", "11/24", "11/24"]
    assert "nobody drives it" in lines[3]


def test_ctrl_c_ends_watching_without_complaint(run, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(status_module, "time", SimpleNamespace(sleep=interrupt))
    with FileLock(run.folder / ".lock"):
        assert "10/24" in gantune("status", run.folder, "--watch")


def test_failures_are_told_with_their_causes_and_the_last_lines_of_the_log(run):
    row = run.results.rows()[-1]
    for number, cause in ((3, "its worker died (after 2 retries; see ray.log)"), (12, "no such shape\nmore")):
        clock = row.run_seconds + number
        run.results.append(
            replace(row, trial=number + 20, state="failed", cause=cause, run_seconds=clock, samples_seen=0)
        )
    (run.folder / "ray.log").write_text("12:00 ERROR ray: trial 23: first\nits worker died\n")
    text = gantune("status", run.folder)
    assert "#23 failed at 0 samples: its worker died (after 2 retries; see ray.log)" in text
    assert "#32 failed at 0 samples: no such shape\n" in text
    assert "  12:00 ERROR ray: trial 23: first\n  its worker died" in text


def test_a_run_at_a_uri_is_shown_and_listed(made, tmp_path, monkeypatch):
    monkeypatch.setenv("GANTUNE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(made.folder, tmp_path / "far" / "made")
    uri = f"file://{tmp_path}/far"
    assert "10/24" in gantune("status", f"{uri}/made")
    (entry,) = json.loads(gantune("ls", "--runs", uri, "--json"))
    assert (entry["run"], entry["done"], entry["state"]) == (str(Place(uri) / "made"), 10, "stopped")
    assert entry["bytes"] > 10_000


def test_every_run_is_listed_and_a_broken_one_hides_no_other(run):
    runs = run.folder.parent
    shutil.copytree(run.folder, runs / "whole")
    shutil.copytree(run.folder, runs / "broken")
    (runs / "broken" / "manifest.json").write_text('{"format": 3')
    shutil.copytree(run.folder, runs / "silent")
    shutil.rmtree(runs / "silent" / "results")
    shutil.rmtree(runs / "silent" / "trials")
    (runs / "notes").mkdir()  # no run
    with FileLock(runs / "whole" / ".lock"):
        text = gantune("ls", "--runs", runs)
        entries = {entry["name"]: entry for entry in json.loads(gantune("ls", "--runs", runs, "--json"))}
    states = {name: entry["state"] for name, entry in entries.items()}
    assert states == {
        "made": "stopped",
        "whole": "searching here",
        "broken": "unreadable",
        "silent": "never reported",
    }
    assert "cannot be read" in entries["broken"]["why"]
    assert f"fid_classifier {run.best().best_score:.4g} (#{run.best().number})" in text
    assert "broken: " in text


def test_a_confirmed_run_is_listed_by_its_trials_not_by_its_finalists(tmp_path):
    run = make_run(tmp_path, trials=8, running=0, weights=False, repeats=2)
    (entry,) = json.loads(gantune("ls", "--runs", tmp_path, "--json"))
    lowest = min((trial for trial in run.trials() if trial.survived), key=lambda trial: trial.best_score)
    assert entry["done"] == 8
    assert entry["best"] == {"trial": lowest.number, "repeat": 0, "score": lowest.best_score}


def test_no_runs_are_no_error(tmp_path):
    assert gantune("ls", "--runs", tmp_path) == ""
    assert json.loads(gantune("ls", "--runs", tmp_path, "--json")) == []
