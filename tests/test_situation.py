"""One picture of a search, from its driver's books and from its rows alone."""

import json
import platform
import random
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from filelock import FileLock
from made_runs import SPACE, make_run

from gantune.checkpoint import write_checkpoint
from gantune.config import Pbt
from gantune.driver.ledger import Ledger
from gantune.driver.study import Study
from gantune.following import Follower, last_words
from gantune.progress import Progress
from gantune.remaining import Rules
from gantune.reports import BEST
from gantune.results import Row
from gantune.run import Run
from gantune.situation import Outline, Tally
from gantune.space import load_space
from gantune.spending import spending


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("runs"), trials=16, running=2, weights=False)
    return run, run.results.rows()


def test_driver_and_reader_see_the_same(tmp_path):
    space = load_space(SPACE)
    run = Run(tmp_path / "made")
    run.folder.mkdir()
    run.begin(space)
    run.settle("fid_classifier", "0123")
    run.note_resources({"cpus_per_trial": 1, "gpus_per_trial": 0})
    books = Ledger(run, space, Study(run.study_path, space, 500.0))
    first, second, silent = (books.next().number for _ in range(3))
    for number in (first, second):
        books.train(number)
    follower = Follower(run)
    for number, samples, score, state in [
        (first, 1000, 90.0, "running"),
        (second, 1000, 80.0, "running"),
        (first, 2000, 70.0, "collapsed"),
        (second, 2000, 60.0, "running"),
    ]:
        metrics = {"gpu_utilization": 0.5, "gpu_memory": 0.25}
        progress = Progress(samples_seen=samples, score=score, best_score=score, metrics=metrics, state=state)
        books.record(number, replace(progress, place="10.0.0.1 ab gpu0"), stopped=False)
        follower.look()
    with FileLock(run.folder / ".lock"):
        view = follower.look()
    driver, reader = books.situation(), view.situation
    for name in ("running", "waiting"):
        for one, other in zip(getattr(driver, name), getattr(reader, name), strict=True):
            assert replace(one, seconds_ago=None) == replace(other, seconds_ago=None)
    same = ("name", "score_name", "done", "asked", "counts", "causes", "best", "baseline", "failures", "limits")
    assert {name: getattr(driver, name) for name in same} == {name: getattr(reader, name) for name in same}
    (running,), (unheard,) = reader.running, reader.waiting
    assert (running.trial, running.scores, running.place) == (second, (80.0, 60.0), "10.0.0.1 gpu0")
    assert (running.gpu_utilization, running.gpu_memory) == (0.5, 0.25)
    assert (unheard.trial, unheard.samples_seen, unheard.seconds_ago) == (silent, 0, None)
    assert reader.seconds == pytest.approx(driver.seconds, abs=5.0)
    assert view.state == "searching"
    assert [each.host for each in view.drivers] == [platform.node()]


def test_what_a_reader_sees_is_what_the_run_says(made):
    run, rows = made
    situation = Follower(run).look().situation
    best = run.best()
    assert (situation.best.trial, situation.best.score) == (best.number, best.best_score)
    states = [trial.state for trial in run.trials()]
    assert situation.counts == {state: states.count(state) for state in set(states) - {"running"}}
    assert situation.running == ()  # nobody drives it
    assert [trial.trial for trial in situation.waiting] == [t.number for t in run.trials() if t.state == "running"]
    assert situation.baseline == run.trials()[0].best_score
    assert situation.spending == spending(run, rows)


@pytest.mark.parametrize("driven", [True, False])
def test_a_report_that_only_a_checkpoint_holds_is_seen_where_nobody_is_about_to_write_its_row(tmp_path, driven):
    run = make_run(tmp_path, trials=8, running=2, weights=False)
    written = run.best().best_score
    trial = next(trial for trial in run.trials() if trial.state == "running")
    ahead = Progress(samples_seen=9_999, score=written / 2, best_score=written / 2, metrics={"recall": 0.5})
    meta = {"progress": ahead.as_dict(), "seed": 7, "parameters": trial.parameters}
    write_checkpoint(run.trial_folder(trial.number) / BEST, "generator", {"weights": torch.zeros(1)}, meta)
    follower = Follower(run)
    with FileLock(run.folder / ".lock") if driven else nullcontext():
        shown = [follower.look().situation.best for _ in range(2)]
    expected = written if driven else written / 2
    assert [best.score for best in shown] == [expected, expected]
    assert driven or shown[0].trial == trial.number == run.best().number
    values = {"trial": trial.number, "state": "running", "run_seconds": 1e6}
    take(run, samples_seen=10_000, score=written / 4, best_score=written / 4, **values)
    assert follower.look().situation.best.score == written / 4


def test_rows_that_come_again_change_nothing(made):
    run, rows = made
    outline = Outline.of(run)

    def seen(rows):
        tally = Tally()
        for row in rows:
            tally.hear(row)
        return tally.situation(outline, clock=tally.meter.clock, out=tally.running(), confirming=False)

    stream = random.Random(0)
    again = [row for at, row in enumerate(rows) for row in (row, stream.choice(rows[: at + 1]))]
    assert seen(again) == seen(rows)
    assert seen([*rows, *rows]) == seen(rows)


def test_a_look_reads_only_what_is_new(made, monkeypatch):
    run, _ = made
    follower = Follower(run)
    follower.look()
    monkeypatch.setattr("gantune.results.pq.ParquetFile", None)  # nothing is opened again
    follower.look()


def take(run, **changes):
    run.results.append(replace(run.results.rows()[-1], **changes))


def test_a_run_is_finished_once_its_driver_says_so_or_all_that_was_asked_for_has_ended(tmp_path):
    run = make_run(tmp_path, trials=6, running=0, weights=False)
    assert Follower(run).look().state == "stopped"  # 6 of 24
    run.note_end()  # as where the space holds no more
    assert Follower(run).look().state == "finished"
    whole = make_run(tmp_path, trials=24, running=0, weights=False, name="whole")
    assert Follower(whole).look().state == "finished"
    assert Follower(make_run(tmp_path, trials=24, running=1, weights=False, name="open")).look().state == "stopped"


@pytest.mark.parametrize(("budget", "state"), [({"target": 1000.0}, "finished"), ({"target": 0.001}, "stopped")])
def test_a_target_ends_a_search(tmp_path, budget, state):
    space = {**SPACE, "budget": {**SPACE["budget"], **budget}}
    assert Follower(make_run(tmp_path, trials=5, running=0, weights=False, space=space)).look().state == state


def test_while_finalists_are_confirmed_their_runs_are_what_is_counted(tmp_path):
    space = {**SPACE, "confirm": {"top": 2, "seeds": 3}}
    run = make_run(tmp_path, trials=24, running=0, weights=False, space=space)
    assert Follower(run).look().state == "stopped"
    clock = run.results.rows()[-1].run_seconds
    take(run, trial=3, repeat=1, state="running", score=20.0, best_score=20.0, run_seconds=clock + 1, cause="")
    situation = Follower(run).look().situation
    assert (situation.confirming, situation.done, situation.asked) == (True, 0, 6)
    assert [trial.label for trial in situation.waiting] == ["#3.1"]


def test_a_member_that_takes_over_loses_the_best_that_died_with_its_weights():
    def row(at, score, best, cause=""):
        return Row(
            trial=0,
            state="running",
            samples_seen=at,
            score=score,
            best_score=best,
            metrics={},
            seed=0,
            config="{}",
            cause=cause,
            verdict="healthy",
            evidence={},
            trial_seconds=at,
            run_seconds=at,
        )

    tally = Tally()
    for each in [row(1, 5.0, 5.0), row(2, None, None, "takes over #1 at 2 samples"), row(3, 7.0, 7.0)]:
        tally.hear(each)
    outline = Outline(
        name="a",
        score_name="fid",
        finalists=0,
        seeds=0,
        ended=False,
        rules=Rules(scheduler=Pbt(interval=0.2), samples=10, reports=5, asked=2, baseline=False),
        limits={},
        target=None,
        price=None,
        cpus=None,
        gpus=None,
    )
    situation = tally.situation(outline, clock=3.0, out={(0, 0)}, confirming=False)
    assert situation.best.score == 7.0
    assert situation.stage == "generation 2 of 5"


def test_of_several_drivers_those_that_live_are_named(tmp_path):
    run = make_run(tmp_path, trials=3, weights=False)
    manifest = run.manifest()
    manifest["sessions"] = [{"host": f"node{number}", "pid": number, "began": 100.0} for number in (1, 2, 3)]
    (run.folder / "manifest.json").write_text(json.dumps(manifest))
    locks = [run.folder / "drivers" / name / ".lock" for name in ("0001", "0002", "0003")]
    for lock in locks:
        lock.parent.mkdir(parents=True)
    with FileLock(locks[0]), FileLock(locks[2]):
        view = Follower(run).look()
    assert [driver.host for driver in view.drivers] == ["node1", "node3"]
    assert view.state == "searching"


def test_the_last_lines_about_a_failure_come_from_the_log(tmp_path):
    run = make_run(tmp_path, trials=2, running=0, weights=False)
    assert last_words(run) == []
    lines = ["INFO ray: begins", "12:00 ERROR ray: trial 3: first", "12:01 ERROR ray: trial 4: its worker died", "why"]
    (run.folder / "ray.log").write_text("\n".join(lines))
    assert last_words(run) == lines[2:]
