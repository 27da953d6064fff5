import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from gantune.config import BudgetConfig, ResourcesConfig, SearchConfig
from gantune.errors import NoSurvivorError, RunError
from gantune.records import trial_record
from gantune.results import Row
from gantune.run import Run
from gantune.space import load_space

SPACE = """
version: 1
name: tiny
data: {dataset: digits, size: 8}
budget: {trials: 3, samples_per_trial: 600, hours: 1}
space:
  architecture: {mlp: {hidden: [8, 16]}}
  loss: [minimax, hinge]
  optimizer: adam
  lr_g: log 1e-4..1e-2
"""


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE)
    return load_space(path)


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


def begun(runs, name, space):
    run = Run(runs / name)
    with run.lock():
        run.begin(space)
    return run


def row(trial, samples_seen, state="running", score=10.0, best_score=None, **values):
    defaults = {
        "metrics": {"recall": 0.5},
        "seed": 100 + trial,
        "config": json.dumps({"lr_g": 0.001 * (trial + 1)}),
        "cause": "",
        "verdict": "healthy",
        "evidence": {},
        "trial_seconds": samples_seen / 10,
        "run_seconds": float(samples_seen),
    }
    values = {**defaults, **values}
    return Row(trial=trial, samples_seen=samples_seen, state=state, score=score, best_score=best_score, **values)


# Finding a run


def test_a_run_is_opened_by_name_by_path_and_as_the_last_used(runs, space):
    for name in ("first", "second"):
        begun(runs, name, space)
    os.utime(runs / "first" / "manifest.json", (1e9, 1e9))
    assert Run.open("first", runs).name == "first"
    assert Run.open(str(runs / "first"), runs).folder == runs / "first"
    assert Run.open(None, runs).name == "second"
    os.utime(runs / "second" / "manifest.json", (1e8, 1e8))
    assert Run.open(None, runs).name == "first"


def test_continuing_a_run_makes_it_the_last_used(runs, space):
    for name in ("first", "second"):
        begun(runs, name, space)
    for name in ("first", "second"):
        os.utime(runs / name / "manifest.json", (1e9, 1e9))
    begun(runs, "first", space)
    assert Run.open(None, runs).name == "first"


def test_an_unknown_run_is_answered_with_the_known_ones(runs, space):
    for name in ("one", "two"):
        begun(runs, name, space)
    with pytest.raises(RunError) as caught:
        Run.open("three", runs)
    assert "`three` is not a run" in str(caught.value)
    assert "one, two" in str(caught.value)


@pytest.mark.parametrize("where", [None, "some"])
def test_where_there_are_no_runs_this_is_said(runs, where):
    with pytest.raises(RunError) as caught:
        Run.open(where, runs)
    assert f"there are no runs in {runs}/" in str(caught.value)
    if where is None:
        assert "gantune search SPACE.yaml" in str(caught.value)


def test_a_folder_without_a_manifest_is_not_a_run(runs):
    (runs / "empty").mkdir(parents=True)
    with pytest.raises(RunError, match="`empty` is not a run"):
        Run.open("empty", runs)


# The lock


def test_a_second_driver_is_refused_until_the_first_is_done(runs):
    run = Run(runs / "a")
    with run.lock():
        with pytest.raises(RunError) as caught:
            Run(runs / "a").lock()
        assert str(runs / "a") in str(caught.value)
        assert "another search is driving this run" in str(caught.value)
        assert "--name" in str(caught.value)
        with Run(runs / "b").lock():
            pass
    with Run(runs / "a").lock():
        pass


def test_a_driver_of_another_process_is_refused(runs):
    script = f"from pathlib import Path; from gantune.run import Run; Run(Path({str(runs / 'a')!r})).lock()"
    with Run(runs / "a").lock():
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert "another search is driving this run" in ended.stderr
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr


def test_a_driver_that_was_killed_leaves_no_lock(runs):
    script = (
        "import os, signal; from pathlib import Path; from gantune.run import Run\n"
        f"kept = Run(Path({str(runs / 'a')!r})).lock(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert (runs / "a").is_dir()
    with Run(runs / "a").lock():
        pass


def test_a_run_that_cannot_be_made_says_where_and_what_to_do(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError) as caught:
        Run(tmp_path / "file" / "run").lock()
    assert str(tmp_path / "file" / "run") in str(caught.value)
    assert "use --runs" in str(caught.value)


# Beginning and continuing


def test_a_new_run_holds_its_space_and_what_it_was_made_with(runs, space):
    run = Run(runs / "a")
    with run.lock():
        assert run.begin(space) is False
    assert load_space(run.folder / "space.yaml") == space
    manifest = run.manifest()
    assert manifest["seed"] == 0
    assert manifest["space"] == json.loads(json.dumps(space.document()))
    session = manifest["sessions"][0]
    assert session["packages"]["torch"]
    assert session["machine"]["python"] == sys.version.split()[0]
    assert not list(run.folder.glob("*.partial")) + list(run.folder.glob(".*.partial"))


def test_a_continued_run_keeps_its_sessions(runs, space):
    run = begun(runs, "a", space)
    assert run.begin(space) is True
    assert run.begin(space) is True
    assert len(run.manifest()["sessions"]) == 3


def test_more_trials_other_hours_and_other_resources_continue(runs, space):
    run = begun(runs, "a", space)
    for budget in (
        replace(space.budget, trials=50),
        replace(space.budget, trials=1, hours=None),
        replace(space.budget, hours=9.5),
        replace(space.budget, samples=9000, gpu_hours=2.0, cost=3.0, price_per_hour=1.5),
    ):
        assert run.begin(replace(space, budget=budget)) is True
    assert run.begin(replace(space, resources=ResourcesConfig(cpus_per_trial=4, gpus_per_trial=0.5))) is True
    assert run.manifest()["space"]["resources"] == {"cpus_per_trial": 4, "gpus_per_trial": 0.5}
    assert load_space(run.folder / "space.yaml").resources.cpus_per_trial == 4


def test_another_name_continues(runs, space):
    run = begun(runs, "a", space)
    assert run.begin(replace(space, name="renamed")) is True


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("lr_g: log 1e-4..1e-2", "lr_g: log 1e-4..1e-3", "space.lr_g: log 0.0001..0.01 became log 0.0001..0.001"),
        ("size: 8", "size: 16", "data.size: 8 became 16"),
        ("samples_per_trial: 600", "samples_per_trial: 900", "budget.samples_per_trial: 600 became 900"),
        ("[8, 16]", "[8, 32]", "space.architecture.choose.mlp.hidden: [8, 16] became [8, 32]"),
        ("space:", "search: {seed: 7}\nspace:", "search.seed: 0 became 7"),
        ("space:", "collapse: {patience: 3}\nspace:", "collapse.patience: 4 became 3"),
    ],
)
def test_another_space_is_refused_with_the_first_difference_and_changes_nothing(
    runs, space, tmp_path, old, new, difference
):
    run = begun(runs, "a", space)
    run.results.append(row(0, 100))
    before = (run.folder / "manifest.json").read_bytes(), (run.folder / "space.yaml").read_bytes()
    other = tmp_path / "other.yaml"
    other.write_text(SPACE.replace(old, new))
    with pytest.raises(RunError) as caught:
        run.begin(load_space(other))
    text = str(caught.value)
    assert f"{run.folder}: was made from another space ({difference})" in text
    assert "--name" in text
    assert ((run.folder / "manifest.json").read_bytes(), (run.folder / "space.yaml").read_bytes()) == before


def of_data(tmp_path, dataset):
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE.replace("dataset: digits", f"dataset: {dataset}"))
    return load_space(path)


def test_data_may_lie_elsewhere_where_it_is_found_to_be_the_same(runs, tmp_path):
    places = [tmp_path / "one", tmp_path / "other"]
    for place in places:
        place.mkdir()
    one, other = (of_data(tmp_path, place) for place in places)
    run = begun(runs, "tiny", one)

    run.results.append(row(0, 100))
    assert run.begin(other)
    assert run.manifest()["space"]["data"]["dataset"] == str(places[0])  # until they are found to be the same
    run.note_data(str(places[1]))
    assert run.manifest()["space"]["data"]["dataset"] == str(places[1])
    assert str(places[1]) in (run.folder / "space.yaml").read_text()


def test_a_run_that_has_trained_nothing_is_made_again_from_another_space(runs, space):
    run = begun(runs, "a", space)
    run.reference_path.write_bytes(b"of the old space")
    run.study_path.write_text("of the old space")
    other = replace(space, search=SearchConfig(seed=5))
    assert run.begin(other) is False
    assert run.manifest()["space"]["search"]["seed"] == 5
    assert len(run.manifest()["sessions"]) == 1
    assert not run.reference_path.exists()
    assert not run.study_path.exists()


def test_a_space_that_differs_in_many_places_names_a_few(runs, space):
    run = begun(runs, "a", space)
    run.results.append(row(0, 100))
    other = replace(space, search=SearchConfig(seed=5), budget=BudgetConfig(samples_per_trial=9999), baseline={})
    with pytest.raises(RunError) as caught:
        run.begin(other)
    assert "search.seed: 0 became 5" in str(caught.value)
    assert "budget.samples_per_trial: 600 became 9999" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b'{"format": 1, "spa', b"[]", b"null", b"\xff\xfe", b'{"format": 1}'])
def test_a_damaged_manifest_is_named(runs, space, content):
    run = begun(runs, "a", space)
    (run.folder / "manifest.json").write_bytes(content)
    with pytest.raises(RunError) as caught:
        run.begin(space)
    assert str(run.folder / "manifest.json") in str(caught.value)
    with pytest.raises(RunError, match=r"manifest\.json"):
        run.baseline([])


def test_a_manifest_of_another_format_says_which(runs, space):
    run = begun(runs, "a", space)
    (run.folder / "manifest.json").write_text(json.dumps({**run.manifest(), "format": 99}))
    with pytest.raises(RunError, match="has format 99; this gantune reads 4"):
        run.begin(space)


def test_a_missing_manifest_is_named(runs):
    with pytest.raises(RunError, match=r"manifest\.json: cannot be read"):
        Run(runs / "a").manifest()


# Trials and the best of them


def filled(runs, *rows):
    run = Run(runs / "a")
    for item in rows:
        run.results.append(item)
    return run


def best(run):
    return run.best(run.trials())


def test_best_is_the_lowest_score_of_the_survivors(runs):
    run = filled(
        runs,
        row(0, 100, "finished", 5.0, 5.0),
        row(1, 100, "running", 4.0, 4.0),
        row(2, 100, "pruned", 3.0, 3.0),
        row(3, 100, "finished", 6.0, 6.0),
    )
    assert best(run).number == 2
    assert [trial.number for trial in run.trials()] == [0, 1, 2, 3]


def test_of_equal_scores_the_first_trial_is_best(runs):
    run = filled(runs, row(1, 100, "finished", 5.0, 5.0), row(0, 200, "finished", 5.0, 5.0))
    assert best(run).number == 0


@pytest.mark.parametrize("state", ["collapsed", "failed"])
def test_collapsed_trial_is_never_best(runs, state):
    run = filled(
        runs,
        row(0, 100, "running", 1.0, 1.0),
        row(0, 200, state, 8.0, 1.0, verdict="mode_collapse", cause="diversity 0.1"),
        row(1, 100, "finished", 9.0, 9.0),
    )
    assert best(run).number == 1


def test_a_trial_that_never_met_the_constraints_is_never_best(runs):
    run = filled(runs, row(0, 100, "finished", 1.0, None), row(1, 100, "finished", 9.0, 9.0))
    assert best(run).number == 1


def test_a_record_tells_the_best_report_and_not_the_last(runs):
    run = filled(
        runs,
        row(0, 100, score=8.0, best_score=8.0, metrics={"recall": 0.1}),
        row(0, 200, score=5.0, best_score=5.0, metrics={"recall": 0.6}),
        row(0, 300, "finished", 7.0, 5.0, metrics={"recall": 0.2, "final_recall": 0.65, "final_fid_classifier": 4.8}),
    )
    (trial,) = run.trials()
    assert trial.best_score == 5.0
    assert trial.best_samples_seen == 200
    assert trial.samples_seen == 300
    assert trial.metrics == {"recall": 0.6, "final_recall": 0.65, "final_fid_classifier": 4.8}
    assert trial.parameters == {"lr_g": 0.001}
    assert trial.seed == 100
    assert trial.seconds == 30.0
    assert trial.survived


def test_a_record_skips_a_lower_score_that_missed_the_constraints():
    rows = [row(0, 100, score=6.0, best_score=6.0), row(0, 200, "finished", 3.0, 6.0)]
    assert (trial_record(rows).best_score, trial_record(rows).best_samples_seen) == (6.0, 100)


def test_a_best_score_whose_report_was_lost_in_a_kill_still_counts():
    lost = [row(0, 100, score=8.0, best_score=8.0), row(0, 200, "finished", 6.0, 5.5)]
    for rows in (lost, lost[1:]):
        assert trial_record(rows).best_score == 5.5
        assert trial_record(rows).survived


def test_where_nothing_survived_every_reason_is_listed(runs):
    run = filled(
        runs,
        row(0, 100, "collapsed", None, None, cause="weights are not finite at 10%"),
        row(1, 2000, "failed", None, None, cause="its worker died"),
        row(2, 600, "finished", 4.0, None),
    )
    with pytest.raises(NoSurvivorError) as caught:
        best(run)
    assert caught.value.exit_code == 3
    text = str(caught.value)
    assert text.startswith(f"{run.folder}: no trial survived")
    assert "#0 collapsed at 100 samples: weights are not finite at 10%" in text
    assert "#1 failed at 2,000 samples: its worker died" in text
    assert "#2 finished at 600 samples: no report met the constraints" in text


def test_before_the_first_report_there_is_no_best(runs):
    with pytest.raises(NoSurvivorError, match="no trial has reported yet"):
        best(Run(runs / "a"))


def test_the_baseline_is_the_first_trial_where_the_space_has_one(runs, space):
    run = begun(runs, "without", space)
    run.results.append(row(0, 100))
    assert run.baseline(run.trials()) is None
    with_baseline = replace(space, baseline={"loss": "hinge", "lr_g": 0.001, "architecture.mlp.hidden": 8})
    run = begun(runs, "with", with_baseline)
    assert run.baseline(run.trials()) is None
    for number in (1, 0):
        run.results.append(row(number, 100))
    assert run.baseline(run.trials()).number == 0


def test_folders_of_trials_sort_by_number(runs):
    run = Run(runs / "a")
    assert run.trial_folder(7) == runs / "a" / "trials" / "0007"
    assert run.study_path.parent == run.reference_path.parent == run.folder


# How scores are measured


def test_scores_measured_otherwise_do_not_join_a_run(runs, space):
    run = begun(runs, "a", space)
    assert run.score_name == "score"
    run.settle("fid_classifier", "abc")
    run.begin(space)
    run.settle("fid_classifier", "abc")
    assert run.score_name == "fid_classifier"
    for score, reference in (("kid_classifier", "abc"), ("fid_classifier", "abd"), ("fid_lite0", "abc")):
        with pytest.raises(RunError, match=r"fid_classifier.*abc.*do not compare.*--name"):
            run.settle(score, reference)
    assert run.score_name == "fid_classifier"
