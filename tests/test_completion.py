"""What a shell offers for gantune's words."""

import os
import shutil
import subprocess
import sys

import pytest
from click.shell_completion import BashComplete, FishComplete, ZshComplete
from click.testing import CliRunner
from made_runs import make_run

from gantune.cli.main import VERBS, cli
from gantune.plugins import TOPICS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One with two runs; the one last used is `later`."""
    folder = tmp_path_factory.mktemp("completion")
    for seconds, name in enumerate(("first", "later")):
        run = make_run(folder / "runs", trials=3 + seconds, name=name, weights=False)
        os.utime(run.folder / "manifest.json", (1000 + seconds, 1000 + seconds))
    (folder / "runs" / "no run").mkdir()
    return folder


@pytest.fixture
def offered(folder, monkeypatch):
    monkeypatch.chdir(folder)

    def offered(*words):
        *before, incomplete = words
        items = BashComplete(cli, {}, "gantune", "_GANTUNE_COMPLETE").get_completions(list(before), incomplete)
        return [item.value for item in items if item.type == "plain"]

    return offered


def test_verbs_are_offered(offered):
    assert offered("") == list(VERBS)
    assert offered("se") == ["search"]


@pytest.mark.parametrize("verb", ["best", "resume", "stop"])
def test_runs_are_offered_the_last_used_first(offered, verb):
    assert offered(verb, "") == ["later", "first"]
    assert offered(verb, "f") == ["first"]


def test_runs_are_those_below_runs(offered, tmp_path):
    assert offered("best", "--runs", str(tmp_path), "") == []
    assert offered("search", "x.yaml", "--from", "la") == ["later"]
    assert offered("best", "--runs", "s3://bucket/runs", "") == []  # a shell waits for no network


@pytest.mark.parametrize("verb", ["kill", "promote", "replay"])
def test_trials_are_those_of_the_run_last_used(offered, verb):
    assert offered(verb, "") == ["0", "1", "2", "3"]
    assert offered(verb, "2", "f") == ["first"]


def test_topics_data_sets_and_trackers_are_offered(offered):
    assert {*TOPICS} <= {*offered("show", "")}
    assert offered("init", "fash") == ["fashion_mnist"]
    assert offered("search", "x.yaml", "--track", "") == ["mlflow", "wandb", "aim"]


def test_where_nothing_known_begins_so_paths_are_offered(folder, monkeypatch):
    monkeypatch.chdir(folder)
    items = BashComplete(cli, {}, "gantune", "_GANTUNE_COMPLETE").get_completions(["best"], "runs/fir")
    assert [(item.value, item.type) for item in items] == [("runs/fir", "file")]


def test_what_an_argument_takes_stays_what_it_was():
    for verb in VERBS:
        done = CliRunner().invoke(cli, [verb, "--help"])
        assert done.exit_code == 0
    assert "got `" not in CliRunner().invoke(cli, ["kill", "--help"]).output
    refused = CliRunner().invoke(cli, ["kill", "-1"])
    assert refused.exit_code == 2


@pytest.mark.parametrize(("shell", "kind"), [("bash", BashComplete), ("zsh", ZshComplete), ("fish", FishComplete)])
def test_script_is_clicks_own(shell, kind):
    done = CliRunner().invoke(cli, ["completion", shell])
    assert done.exit_code == 0
    assert done.output.strip().endswith(kind(cli, {}, "gantune", "_GANTUNE_COMPLETE").source().strip())
    assert "_GANTUNE_COMPLETE" in done.output


def test_bash_completes_by_the_script(folder):
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    environment = {
        **os.environ,
        "_GANTUNE_COMPLETE": "bash_complete",
        "COMP_WORDS": "gantune best la",
        "COMP_CWORD": "2",
    }
    watching = "import sys; from gantune.cli.main import main; sys.argv = ['gantune']; import atexit; " + (
        "atexit.register(lambda: print(sorted({'torch', 'ray', 'optuna', 'sklearn'} & {*sys.modules}))); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", watching], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["plain,later", "[]"], done.stderr
