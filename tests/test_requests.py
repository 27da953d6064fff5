"""What people ask of a search: stop, kill a trial, promote one; by fakes, and once with Ray."""

import io
import os
import subprocess
import sys
import time

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from gantune.config import Asha
from gantune.driver.control import Control
from gantune.driver.ledger import Ledger
from gantune.driver.schedulers import Halving, Remembering
from gantune.driver.screen import Screen
from gantune.driver.study import Study
from gantune.errors import RunError
from gantune.progress import Progress
from gantune.requests import Requests, check_open
from gantune.results import ENDED
from gantune.run import Run
from gantune.space import load_space

SPACE = """
version: 1
name: tiny
data: {dataset: digits, size: 8}
budget: {trials: 4, samples_per_trial: 1200}
space:
  architecture: mlp
  loss: [minimax, hinge]
  optimizer: adam
  lr_g: log 1e-4..1e-2
"""


class Books:
    """A run directory that is opened again and again, as by sessions that end at any moment."""

    def __init__(self, folder):
        (folder / "tiny.yaml").write_text(SPACE)
        self.space = load_space(folder / "tiny.yaml")
        self.run = Run(folder / "runs" / "tiny")
        self.run.folder.mkdir(parents=True)

    def open(self):
        self.run.begin(self.space)
        return Ledger(self.run, self.space, Study(self.run.study_path, self.space, 500.0))

    def told(self):
        study = optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(self.run.study_path))))
        return study.trials

    def rows(self, number):
        return [row for row in self.run.results.rows() if row.trial == number]


class Session:
    """A driver of a run without Ray: it reports for trials as Tune would."""

    def __init__(self, books):
        self.ledger = books.open()
        self.requests = Requests(books.run)
        self.requests.begin()
        self.said = io.StringIO()
        self.control = Control(self.requests, self.ledger, Screen(self.said))
        rule = Halving(Asha(first_rung=0.25, reduction=2.0, spared=0.0), 1200)
        self.look()
        self.control.scheduler = Remembering(rule, 0.0, self.ledger.rows(), (), self.requests.promoted())

    def look(self):
        self.control._looked = -1.0
        self.control.look()

    def report(self, number, samples_seen, score, state="running"):
        result = {"number": number, "samples_seen": samples_seen, "score": score, "state": state}
        self.control._looked = -1.0
        stopped = self.control.kills(result)
        if state == "running" and not stopped:
            stopped = self.control.scheduler.on_trial_result(None, None, result) == "STOP"
        progress = Progress(samples_seen=samples_seen, score=score, best_score=score, metrics={}, state=state)
        row = self.ledger.record(number, progress, stopped=stopped, by=self.control.stopper(number))
        if row is not None:
            self.control.ended(row)
        return row

    def last(self, request):
        return self.requests.answer(request)


@pytest.fixture
def books(tmp_path):
    return Books(tmp_path)


def test_a_killed_trial_ends_at_its_next_report_and_is_told_once(books):
    session = Session(books)
    for _ in range(2):
        session.ledger.next()
    session.ledger.train(0)
    session.report(0, 100, 9.0)
    request = session.requests.ask("kill", 0)
    session.look()
    assert session.last(request).state == "accepted"
    assert "next report" in session.last(request).text
    row = session.report(0, 200, 8.0)
    assert (row.state, row.cause) == ("pruned", "stopped by a person at 200 samples")
    assert session.last(request).state == "done"
    assert session.requests.pending() == []
    assert session.report(0, 300, 7.0) is None
    assert session.report(1, 100, 99.0) is None
    assert [row.state for row in books.rows(0)] == ["running", "pruned"]
    assert books.told()[0].state == TrialState.PRUNED


def test_a_trial_that_ends_by_itself_is_not_said_to_have_been_killed(books):
    session = Session(books)
    session.ledger.train(session.ledger.next().number)
    session.report(0, 100, 9.0)
    request = session.requests.ask("kill", 0)
    session.look()
    assert session.report(0, 1200, 8.0, "finished").state == "finished"
    assert session.last(request).text == "#0 finished at 1,200 samples, by itself"


def test_a_killed_trials_last_report_counts_at_its_rung_as_it_does_when_the_run_is_continued(books):
    session = Session(books)
    for _ in range(3):
        session.ledger.train(session.ledger.next().number)
    session.report(0, 100, 9.0)
    session.requests.ask("kill", 0)
    session.report(0, 300, 1.0)
    again = Session(books)
    for each in (session, again):
        result = {"number": 1, "samples_seen": 300, "score": 2.0}
        assert each.control.scheduler.on_trial_result(None, None, result) == "STOP"


def test_a_trial_that_waits_to_be_continued_is_ended_at_once(books):
    first = Session(books)
    first.ledger.next()
    first.report(0, 100, 9.0)
    request = Requests(books.run).ask("kill", 0)  # nobody looks: the driver has died
    again = Session(books)
    assert again.last(request).state == "done"
    (row,) = [row for row in books.rows(0) if row.state in ENDED]
    assert (row.state, row.samples_seen) == ("pruned", 100)
    assert "stopped by a person" in row.cause
    assert again.ledger.next().number == 1
    assert "#0 pruned" in again.said.getvalue()


@pytest.mark.parametrize("trains", [True, False])
def test_a_trial_that_has_not_reported_is_ended_at_once(books, trains):
    session = Session(books)
    number = session.ledger.next().number
    if trains:
        session.ledger.train(number)
    assert session.ledger.state_of(number) == ("running" if trains else "waiting")
    request = session.requests.ask("kill", number)
    session.look()
    when = "before its first report" if trains else "while it was waiting"
    assert session.last(request).text == f"#{number} has ended, {when}"
    assert session.report(number, 100, 9.0) is None  # what its worker still says
    (row,) = books.rows(number)
    assert (row.state, row.samples_seen, row.cause) == ("pruned", 0, f"stopped by a person {when}")
    assert session.ledger.next().number == number + 1


def test_a_kill_that_its_driver_did_not_live_to_carry_out_is_carried_out_by_the_next(books):
    first = Session(books)
    first.ledger.train(first.ledger.next().number)
    first.report(0, 100, 9.0)
    request = first.requests.ask("kill", 0)
    first.look()
    assert first.last(request).state == "accepted"
    assert Session(books).last(request).state == "done"
    assert books.rows(0)[-1].state == "pruned"


def test_a_promoted_trial_is_not_stopped_by_the_scheduler_and_the_next_driver_remembers(books):
    first = Session(books)
    for _ in range(3):
        first.ledger.next()
    for number, score in enumerate([5.0, 1.0]):
        first.report(number, 200, score)
    first.report(1, 300, 1.0)
    request = first.requests.ask("promote", 0)
    assert first.report(0, 300, 50.0) is None
    assert first.last(request).state == "done"
    again = Session(books)
    again.ledger.next()
    again.ledger.next()
    again.ledger.next()
    assert again.report(0, 600, 60.0) is None
    assert again.report(2, 300, 70.0).cause == "stopped by the scheduler at 300 samples"


def test_without_a_promotion_the_same_trial_is_stopped(books):
    session = Session(books)
    for _ in range(2):
        session.ledger.next()
    session.report(1, 300, 1.0)
    assert session.report(0, 300, 50.0).state == "pruned"


def test_a_promoted_trial_may_be_killed_and_may_collapse(books):
    session = Session(books)
    for _ in range(2):
        session.ledger.train(session.ledger.next().number)
    for number in range(2):
        session.report(number, 100, 9.0)
        session.requests.ask("promote", number)
    session.look()
    session.requests.ask("kill", 0)
    assert session.report(0, 200, 5.0).state == "pruned"
    assert session.report(1, 200, 5.0, "collapsed").state == "collapsed"


def test_what_a_scheduler_decided_before_a_promotion_is_replayed_as_it_was(books):
    def scheduler(promoted, rows=()):
        rule = Halving(Asha(first_rung=0.25, reduction=2.0), 1200)
        return Remembering(rule, 1.0, rows, (), promoted)  # whatever it would stop is spared

    whole = scheduler({})
    heard = [(0, 300, 1.0), (1, 300, 5.0), (2, 300, 0.5)]
    for report in heard:
        whole.decide(*report)
    assert whole.certificate.is_doomed(1)
    whole.keep({1: 300})
    replayed = scheduler({1: 300})
    for report in heard:
        replayed.decide(*report)
    assert replayed.certificate.is_doomed(1)


@pytest.mark.parametrize("verb", ["kill", "promote"])
def test_requests_for_unknown_and_ended_trials_are_refused_with_their_state(books, verb):
    session = Session(books)
    session.ledger.next()
    session.report(0, 1200, 8.0, "finished")
    for trial, text in ((0, "#0 has ended already: finished"), (7, "there is no trial #7")):
        request = session.requests.ask(verb, trial)
        session.look()
        assert session.last(request).state == "refused"
        assert session.last(request).text == text
    with pytest.raises(RunError, match="#0 has ended already: finished at 1,200 samples"):
        check_open(books.run, 0)
    with pytest.raises(RunError, match="there is no trial #7"):
        check_open(books.run, 7)
    session.ledger.next()
    check_open(books.run, 1)  # it has not reported yet
    assert session.requests.promoted() == {}


def test_a_stop_is_for_the_search_that_runs_and_not_for_the_next(books):
    first = Session(books)
    request = first.requests.ask("stop")
    assert not first.control.stop
    first.look()
    assert first.control.stop
    assert first.last(request).state == "accepted"  # a run may have other drivers, who are to hear it, too
    stale = first.requests.ask("stop")
    again = Session(books)
    assert not again.control.stop
    assert again.last(stale).state == "refused"


def test_what_is_no_request_is_taken_away(books):
    requests = Requests(books.run)
    requests.ask("kill", 0)
    folder = books.run.folder / "requests"
    (folder / "00000000000000000001-x.json").write_text("{")
    (folder / "00000000000000000002-x.json").write_text('{"verb": "erase"}')
    assert [request.trial for request in requests.pending()] == [0]
    assert len(list(folder.iterdir())) == 1
    Session(books)


def gantune(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "gantune", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_stop_says_where_nothing_runs_and_resume_where_another_driver_is(books, tmp_path):
    books.open()
    done = gantune(tmp_path, "stop", "tiny")
    assert done.returncode == 1
    assert "no search drives this run" in done.stderr
    assert Requests(books.run).pending() == []
    with books.run.lock():
        assert books.run.driven()
        refused = gantune(tmp_path, "resume")
    assert not books.run.driven()
    assert refused.returncode == 1
    assert "another search is driving this run" in refused.stderr


def test_a_kill_without_a_driver_is_noted_and_one_of_an_ended_trial_refused(books, tmp_path):
    session = Session(books)
    for _ in range(2):
        session.ledger.next()
    session.report(0, 1200, 9.0, "finished")
    session.report(1, 200, 9.0)
    refused = gantune(tmp_path, "kill", 0)
    assert (refused.returncode, "#0 has ended already: finished" in refused.stderr) == (1, True)
    noted = gantune(tmp_path, "kill", 1, "tiny")
    assert noted.returncode == 0, noted.stderr
    assert "gantune resume" in noted.stderr
    Session(books)
    assert books.rows(1)[-1].state == "pruned"


LONG = """
version: 1
name: long
data: {dataset: digits, size: 8}
objective: {metric: kid, samples: {report: 64, final: 64}, reports: 1000}
collapse: {enabled: false}
budget: {trials: 3, samples_per_trial: 4_000_000}
resources: {cpus_per_trial: 0.5}
search: {scheduler: {asha: {first_rung: 0.5, reduction: 2}}}
space:
  architecture: {mlp: {hidden: 8, depth: 1}}
  loss: hinge
  optimizer: adam
  lr_g: log 1e-4..1e-2
  batch_size: 32
"""


def test_a_running_search_obeys_kill_promote_and_stop_and_is_resumed(tmp_path):
    (tmp_path / "long.yaml").write_text(LONG)
    run = Run(tmp_path / "runs" / "long")
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gantune", "search", "long.yaml"], cwd=tmp_path, stderr=log, env={**os.environ}
        )
        try:
            until = time.monotonic() + 150
            while not {row.trial for row in run.results.rows()} >= {0, 1}:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < until
                time.sleep(0.2)
            assert "#0 gets its whole budget" in gantune(tmp_path, "promote", 0).stderr
            killed = gantune(tmp_path, "kill", 1)
            assert killed.returncode == 0, killed.stderr
            assert "#1 pruned at " in killed.stderr
            stopped = gantune(tmp_path, "stop")
            assert stopped.returncode == 0, stopped.stderr
            assert "stopped; continue it with: gantune resume" in stopped.stderr
            assert process.wait(timeout=120) == 130
        finally:
            process.kill()
    trials = {trial.number: trial for trial in run.trials()}
    assert trials[1].cause == f"stopped by a person at {trials[1].samples_seen:,} samples"
    assert trials[0].state == "running"
    assert list(Requests(run).promoted()) == [0]
    assert Requests(run).pending() == []
    for number in (0, 2):
        assert "noted for when it continues" in gantune(tmp_path, "kill", number).stderr
    done = gantune(tmp_path, "resume")
    assert done.returncode == 0, done.stderr
    assert {trial.state for trial in run.trials()} == {"pruned"}
    assert "it is finished" in done.stderr
