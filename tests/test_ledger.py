import gc
import json
from types import SimpleNamespace

import optuna
import pyarrow.dataset
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from gantune import clock as clock_module
from gantune.collapse import Verdict
from gantune.driver.ledger import Ledger
from gantune.driver.study import Study
from gantune.progress import Progress
from gantune.reports import LATEST
from gantune.requests import Requests
from gantune.results import ENDED, Row
from gantune.run import Run
from gantune.space import load_space, load_trial

SPACE = """
version: 1
name: tiny
data: {dataset: digits, size: 8}
objective: {constraints: [recall >= 0.2]}
budget: {trials: 3, samples_per_trial: 600}
space:
  architecture: mlp
  loss: [minimax, hinge]
  optimizer: adam
  lr_g: log 1e-4..1e-2
"""


class Books:
    """A run directory that is opened again and again, as by sessions that end at any moment."""

    def __init__(self, folder):
        self.folder = folder
        self.run = Run(folder / "runs" / "tiny")

    def space(self, *overrides):
        path = self.folder / "tiny.yaml"
        path.write_text(SPACE)
        return load_space(path, overrides)

    def open(self, *overrides):
        space = self.space(*overrides)
        self.run = Run(self.run.folder)  # with a clock of its own
        self.run.begin(space)
        return Ledger(self.run, space, Study(self.run.study_path, space, 500.0, recorded=self.recorded()))

    def recorded(self):
        return {row.trial: json.loads(row.config) for row in reversed(self.rows())}

    def keep(self, *numbers):
        """Leave what trials continue from, as workers do before they report."""
        for number in numbers:
            (self.run.trial_folder(number) / LATEST).touch()

    def trials(self):
        storage = JournalStorage(JournalFileBackend(str(self.run.study_path)))
        (name,) = optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=name, storage=storage).trials

    def written(self):
        """How many rows lie in the files, also such as a reader would take for one."""
        return pyarrow.dataset.dataset(self.run.folder / "results", format="parquet").count_rows()

    def rows(self, number=None):
        return [row for row in self.run.results.rows() if number in (None, row.trial)]


@pytest.fixture
def books(tmp_path):
    found = Books(tmp_path)
    found.run.folder.mkdir(parents=True)
    return found


def progress(samples_seen=600, score=10.0, state="finished", best_score=None, **values):
    best_score = score if best_score is None else best_score
    metrics = {"recall": 0.5} if score is not None else {}
    values = {"metrics": metrics, "seconds": samples_seen / 100, **values}
    return Progress(samples_seen=samples_seen, score=score, best_score=best_score, state=state, **values)


def dead(samples_seen, score=None, best_score=None):
    verdict = Verdict(state="diverged", cause="weights are not finite", evidence={"share_of_budget": 0.5})
    return Progress(
        samples_seen=samples_seen,
        score=score,
        best_score=best_score,
        metrics={"recall": 0.0} if score else {},
        verdict=verdict,
        state="collapsed",
    )


def drain(ledger):
    """Finish whatever is asked for, one at a time; the numbers that were asked."""
    numbers = []
    while (proposal := ledger.next()) is not None:
        numbers.append(proposal.number)
        ledger.record(proposal.number, progress(score=10.0 + proposal.number), stopped=True)
    return numbers


# What is asked for


@pytest.mark.parametrize("trials", [1, 3, 5])
def test_exactly_the_trials_of_the_budget_are_asked_for(books, trials):
    ledger = books.open(f"budget.trials={trials}")
    assert drain(ledger) == list(range(trials))
    assert ledger.next() is None
    assert ledger.complete()
    assert ledger.ended == {"finished": trials}
    assert len(books.rows()) == trials


def test_the_baseline_is_one_of_the_trials(books):
    baseline = "\nbaseline: {loss: hinge, lr_g: 5e-4}\n"
    path = books.folder / "with-baseline.yaml"
    path.write_text(SPACE + baseline)
    space = load_space(path)
    ledger = Ledger(books.run, space, Study(books.run.study_path, space, 500.0))
    assert drain(ledger) == [0, 1, 2]
    first = load_trial(books.run.trial_folder(0) / "config.yaml")
    assert (first.loss.name, first.lr_g) == ("hinge", 5e-4)


def test_trials_out_at_once_count_as_asked(books):
    ledger = books.open()
    proposals = [ledger.next() for _ in range(5)]
    assert [proposal is None for proposal in proposals] == [False] * 3 + [True] * 2
    assert ledger.running == 3
    assert not ledger.complete()
    for number in (2, 0, 1):
        ledger.record(number, progress(), stopped=True)
    assert ledger.complete()
    assert ledger.running == 0


def test_failed_and_collapsed_trials_count_as_trials(books):
    ledger = books.open()
    ledger.record(ledger.next().number, dead(100), stopped=True)
    ledger.fail(ledger.next().number, "its worker died")
    ledger.record(ledger.next().number, progress(), stopped=True)
    assert ledger.next() is None
    assert ledger.ended == {"collapsed": 1, "failed": 1, "finished": 1}


def test_a_completed_run_asks_for_nothing_more_until_its_budget_grows(books):
    drain(books.open())
    ledger = books.open()
    assert ledger.complete()
    assert ledger.next() is None
    assert drain(books.open("budget.trials=5")) == [3, 4]
    assert len(books.trials()) == 5


def test_a_search_is_complete_where_its_space_holds_no_more(books):
    finite = ["space.lr_g=[1e-3, 1e-4]", "search.sampler=grid", "budget.trials=9"]
    ledger = books.open(*finite)
    first = [ledger.next().number for _ in range(2)]
    assert not ledger.used_up()
    ledger = books.open(*finite)  # the two are issued again
    issued = [ledger.next() for _ in range(5)]
    assert [proposal.number for proposal in issued[:4]] == [*first, 2, 3]
    assert issued[4] is None
    assert ledger.used_up()
    assert ledger.asked == 4
    assert not ledger.complete()
    for proposal in issued[:4]:
        ledger.record(proposal.number, progress(), stopped=True)
    assert ledger.complete()
    assert books.open(*finite).complete()
    assert not books.open(*finite[:2], "budget.trials=4").used_up()


def test_each_proposal_lies_in_its_folder_as_a_trial_that_reads_back(books):
    ledger = books.open()
    for _ in range(3):
        proposal = ledger.next()
        assert load_trial(books.run.trial_folder(proposal.number) / "config.yaml") == proposal.config


def test_rows_tell_the_configuration_and_the_progress(books):
    ledger = books.open()
    proposal = ledger.next()
    ledger.record(proposal.number, progress(200, 12.0, "running"), stopped=False)
    verdict = Verdict(state="mode_collapse", cause="diversity 0.1", evidence={"diversity": 0.1})
    ledger.record(proposal.number, progress(400, 15.0, "collapsed", 12.0, verdict=verdict), stopped=True)
    first, last = books.rows()
    assert (first.state, first.samples_seen, first.score, first.verdict) == ("running", 200, 12.0, "healthy")
    assert (last.state, last.score, last.best_score) == ("collapsed", 15.0, 12.0)
    assert (last.cause, last.verdict, last.evidence) == ("diversity 0.1", "mode_collapse", {"diversity": 0.1})
    assert json.loads(last.config) == proposal.config.parameters()
    assert last.seed == proposal.config.seed
    assert last.trial_seconds == 4.0


# Continuing


def test_a_cut_off_trial_is_asked_again_before_new_ones(books):
    first = books.open()
    proposals = [first.next() for _ in range(2)]
    first.record(1, progress(200, 12.0, "running"), stopped=False)
    second = books.open()
    assert second.running == 0
    assert not second.complete()
    books.keep(1)
    assert [second.next(), second.next()] == proposals[::-1]  # what has a score comes before what never began
    assert second.next().number == 2
    assert second.next() is None


def test_the_driver_keeps_one_row_a_trial_in_memory(books):
    def kept():
        gc.collect()
        return sum(type(found) is Row for found in gc.get_objects())

    ledger = books.open()
    before, number = kept(), ledger.next().number
    for samples in range(10, 200, 10):
        ledger.record(number, progress(samples, 14.0, "running"), stopped=False)
    assert kept() - before == 1
    assert len(ledger.rows()) == 19


def test_a_trial_that_starts_over_says_so_in_a_row(books):
    ledger = books.open()
    number = ledger.next().number
    for samples in (100, 200, 300, 100, 200, 300, 400):
        ledger.record(number, progress(samples, 14.0, "running"), stopped=False)
    rows = books.rows()
    assert [row.samples_seen for row in rows] == [100, 200, 300, 0, 100, 200, 300, 400]
    assert [row.starts_over for row in rows] == [False] * 3 + [True] + [False] * 4
    assert "its checkpoint could not be read" in rows[3].cause
    assert ledger.taken_notices() == [f"#{number} is trained again from its seed: its checkpoint could not be read"]
    assert [limit.spent for limit in books.open("budget.samples=9999").situation().limits] == [700]


def test_a_trial_without_its_checkpoint_is_trained_again_from_its_seed(books):
    first = books.open()
    proposal = first.next()
    first.record(0, progress(100, 4.0, "running"), stopped=False)
    second = books.open()
    assert second.next() == proposal
    assert second.taken_notices() == [f"#0 is trained again from its seed: {LATEST} is gone"]
    assert second.best is None
    second.record(0, progress(100, 5.0, "running"), stopped=False)
    assert second.best.score == 5.0
    (trial,) = books.run.trials()
    assert (trial.best_score, trial.samples_seen) == (5.0, 100)


def test_the_repeated_report_of_a_continued_trial_is_not_doubled(books):
    first = books.open()
    number = first.next().number
    first.record(number, progress(100, 14.0, "running"), stopped=False)
    first.record(number, progress(200, 12.0, "running"), stopped=False)
    books.keep(number)
    second = books.open()
    assert second.next().number == number
    assert second.record(number, progress(200, 12.0, "running"), stopped=False) is None
    assert [row.samples_seen for row in books.rows()] == [100, 200]
    assert books.written() == 2
    second.record(number, progress(300, 11.0, "running"), stopped=False)
    assert second.record(number, progress(600, 9.0), stopped=True).state == "finished"
    assert [row.samples_seen for row in books.rows()] == [100, 200, 300, 600]
    assert books.trials()[0].intermediate_values == {100: 14.0, 200: 12.0, 300: 11.0, 600: 9.0}


def test_the_repeated_report_of_a_retried_worker_is_not_doubled(books):
    ledger = books.open()
    number = ledger.next().number
    for _ in range(2):
        ledger.record(number, progress(100, 14.0, "running"), stopped=False)
    assert books.written() == len(ledger.rows()) == 1


ENDINGS = {
    "finished": lambda ledger: ledger.record(0, progress(600, 9.0), stopped=True),
    "pruned": lambda ledger: ledger.record(0, progress(300, 9.0, "running"), stopped=True),
    "collapsed": lambda ledger: ledger.record(0, dead(300), stopped=True),
    "failed": lambda ledger: ledger.fail(0, "its worker died"),
}
TOLD = {
    "finished": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "collapsed": TrialState.COMPLETE,
}


@pytest.mark.parametrize("state", TOLD)
def test_what_the_rows_know_and_the_study_does_not_is_told_on_restart(books, monkeypatch, state):
    first = books.open("budget.trials=1")
    first.next()
    first.record(0, progress(100, 14.0, "running"), stopped=False)

    def killed(*anything, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(Study, "tell", killed)
    with pytest.raises(KeyboardInterrupt):
        ENDINGS[state](first)
    monkeypatch.undo()
    assert books.trials()[0].state == TrialState.RUNNING
    rows = books.rows()

    second = books.open("budget.trials=1")
    trial = books.trials()[0]
    assert trial.state == TOLD[state]
    assert trial.user_attrs["state"] == state
    assert trial.intermediate_values[100] == 14.0
    if state == "pruned":
        assert trial.last_step == 300
    assert second.ended == {state: 1}
    assert second.complete()
    assert second.next() is None
    assert books.rows() == rows


def test_reports_that_the_study_missed_are_told_on_restart(books, monkeypatch):
    first = books.open()
    first.next()

    def killed(*anything, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(Study, "report", killed)
    with pytest.raises(KeyboardInterrupt):
        first.record(0, progress(100, 14.0, "running"), stopped=False)
    monkeypatch.undo()
    books.open()
    assert books.trials()[0].intermediate_values == {100: 14.0}


@pytest.mark.parametrize("cut", [False, True])
def test_a_study_that_lacks_trials_of_the_results_is_filled_from_them(books, cut):
    drain(books.open("budget.trials=2"))
    before, journal = books.trials(), books.run.study_path
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[: len(lines) // 2])) if cut else journal.unlink()
    second = books.open()
    assert second.ended == {"finished": 2}
    assert [(trial.number, trial.params, trial.values) for trial in books.trials()] == [
        (trial.number, trial.params, trial.values) for trial in before
    ]
    assert drain(second) == [2]


def test_a_trial_whose_end_only_the_study_knows_is_trained_again(books):
    first = books.open()
    drain(first)
    for part in (books.run.folder / "results").iterdir():
        part.unlink()
    second = books.open()
    assert [notice for notice in second.taken_notices() if "trained again" in notice] == [
        "the results lack the end of #0, #1, #2: trained again from the trial's seed"
    ]
    assert drain(second) == [0, 1, 2]
    assert second.complete()
    assert [row.samples_seen for row in books.rows()] == [600] * 3


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless a test moves it."""
    clock = SimpleNamespace(now=1000.0)
    fake = SimpleNamespace(monotonic=lambda: clock.now, time=lambda: clock.now)
    monkeypatch.setattr(clock_module, "time", fake)
    return clock


def test_the_runs_clock_goes_on_across_sessions(books, clock):
    first = books.open()
    assert first.seconds() == 0
    first.next()
    clock.now += 40
    first.record(0, progress(100, 14.0, "running"), stopped=False)
    clock.now = 7.0  # another process, another clock
    second = books.open()
    assert second.seconds() == 40
    second.next()
    clock.now += 5
    second.record(0, progress(), stopped=True)
    assert [row.run_seconds for row in books.rows() if not row.starts_over] == [40, 45]


# Ending


@pytest.mark.parametrize("state", ENDINGS)
def test_a_trial_ends_once(books, state):
    ledger = books.open()
    ledger.next()
    assert ENDINGS[state](ledger).state == state
    for again in ENDINGS.values():
        assert again(ledger) is None
    ledger.close("time is up")
    for again in ENDINGS.values():
        assert again(books.open()) is None
    books.open().close("time is up")
    assert [row.state for row in books.rows(0)] == [state]
    assert books.written() == 1


def test_a_scheduler_stops_a_running_trial_and_no_other(books):
    ledger = books.open()
    for _ in range(3):
        ledger.next()
    assert ledger.record(0, progress(200, 5.0, "running"), stopped=True).state == "pruned"
    assert ledger.record(1, progress(600, 5.0, "finished"), stopped=True).state == "finished"
    assert ledger.record(2, dead(200), stopped=True).state == "collapsed"
    assert "stopped by the scheduler at 200 samples" in books.rows(0)[0].cause


def test_a_failure_keeps_the_last_report(books):
    ledger = books.open()
    ledger.next()
    ledger.record(0, progress(200, 5.0, "running"), stopped=False)
    row = ledger.fail(0, "its worker died")
    assert (row.state, row.samples_seen, row.score, row.cause) == ("failed", 200, 5.0, "its worker died")
    assert [found.state for found in books.rows(0)] == ["running", "failed"]


def test_closing_pauses_what_has_begun_and_gives_back_what_has_not(books):
    first = books.open()
    proposals = [first.next(), first.next()]
    first.record(0, progress(200, 5.0, "running"), stopped=False)
    books.keep(0)
    second = books.open()
    second.next()  # the first is out again, the second still waits
    second.close("the time budget is used up")
    assert second.running == 0
    (row,) = (books.rows(0)[-1],)
    assert (row.state, row.cause, row.samples_seen) == ("paused", "the time budget is used up", 200)
    assert books.rows(1) == []
    assert not books.run.trial_folder(1).exists()
    assert (books.run.trial_folder(0) / LATEST).exists()
    assert [trial.state for trial in books.trials()][1] == TrialState.RUNNING
    third = books.open()
    assert [third.next(), third.next()] == proposals
    assert third.next().number == 2
    assert third.taken_notices() == []


def test_a_budget_pauses_the_baseline_promoted_ones_and_the_best_in_this_order_of_going_on(books):
    first = books.open("budget.trials=6", "baseline={loss: hinge, lr_g: 1e-3}")
    for score in (30.0, 9.0, 11.0, 10.0, 20.0):
        number = first.next().number
        first.record(number, progress(200, score, "running"), stopped=False)
        books.keep(number)
    assert first.next().number == 5
    Requests(books.run).promote(4, 200)
    first.close("budget.hours is used up: 1 of 1")
    second = books.open("budget.trials=7", "baseline={loss: hinge, lr_g: 1e-3}")
    assert [second.next().number for _ in range(7)] == [0, 4, 1, 3, 2, 5, 6]
    assert second.taken_notices() == []


def test_a_trial_closed_before_its_first_report_teaches_the_study_no_score(books):
    ledger = books.open()
    ledger.record(ledger.next().number, progress(600, 9.0), stopped=True)
    ledger.next()
    ledger.close("the target was reached")
    assert books.trials()[1].values is None


def test_no_trial_has_two_endings_whatever_comes(books):
    for session in range(4):
        ledger = books.open("budget.trials=6")
        for _ in range(2):
            proposal = ledger.next()
            if proposal is None:
                continue
            state = ("running", "finished", "running", "collapsed")[session]
            ledger.record(proposal.number, progress(100 * session + 100, 9.0, "running"), stopped=session == 2)
            if state != "running":
                ledger.record(proposal.number, progress(100 * session + 150, 9.0, state), stopped=True)
            ledger.fail(proposal.number, "late")
    books.open("budget.trials=6").close("over")
    endings = [row.trial for row in books.rows() if row.state in ENDED and row.state != "failed"]
    assert sorted(endings) == sorted(set(endings))
    assert all(trial.state.is_finished() for trial in books.trials())


# Budgets


def test_the_target_ends_the_search(books):
    ledger = books.open("budget.target=6")
    ledger.record(ledger.next().number, progress(600, 9.0), stopped=True)
    assert ledger.out_of_budget() == ""
    number = ledger.next().number
    ledger.record(number, progress(300, 5.5, "running"), stopped=False)
    assert ledger.out_of_budget() == f"the target of 6 was reached by #{number}"
    assert ledger.next() is None
    assert books.open("budget.target=6").next() is None


def test_a_score_that_missed_the_constraints_reaches_no_target(books):
    ledger = books.open("budget.target=6")
    number = ledger.next().number
    missed = Progress(samples_seen=300, score=1.0, best_score=None, metrics={"recall": 0.0}, state="running")
    ledger.record(number, missed, stopped=False)
    assert ledger.best is None
    assert ledger.out_of_budget() == ""


def test_the_hours_of_all_sessions_end_the_search(books, clock):
    first = books.open("budget.hours=1")
    first.next()
    clock.now += 2000
    first.record(0, progress(), stopped=True)
    second = books.open("budget.hours=1")
    assert second.next() is not None
    clock.now += 1599
    assert second.out_of_budget() == ""
    clock.now += 1
    assert second.out_of_budget() == "budget.hours is used up: 1 of 1"
    assert second.next() is None
    assert books.open("budget.hours=2").next() is not None


def test_the_samples_of_all_trials_and_sessions_end_the_search(books):
    first = books.open("budget.samples=1500")
    first.record(first.next().number, progress(600), stopped=True)
    first.record(first.next().number, progress(400, 12.0, "running"), stopped=False)
    assert first.out_of_budget() == ""
    books.keep(1)
    second = books.open("budget.samples=1500")
    number = second.next().number
    second.record(number, progress(400, 12.0, "running"), stopped=False)
    assert second.out_of_budget() == ""  # 1000: the repeated report is not counted twice
    second.record(number, dead(590), stopped=True)
    number = second.next().number
    second.record(number, progress(310, 12.0, "running"), stopped=False)
    assert second.out_of_budget() == "budget.samples is used up: 1,500 of 1,500"
    assert second.next() is None
    assert books.open("budget.samples=1500").next() is None
    assert books.open("budget.samples=1501").next().number == number


def test_the_gpu_hours_of_all_trials_and_sessions_end_the_search(books):
    budget = ("budget.gpu_hours=1", "resources.gpus_per_trial=2")
    first = books.open(*budget)
    first.next()
    first.next()
    first.record(0, progress(600, seconds=700.0), stopped=True)
    first.record(1, progress(300, 12.0, "running", seconds=900.0), stopped=False)
    assert first.out_of_budget() == ""
    books.keep(1)
    second = books.open(*budget)
    second.next()
    second.record(1, progress(600, seconds=1099.0), stopped=True)
    assert second.out_of_budget() == ""
    second.record(second.next().number, progress(100, 12.0, "running", seconds=37.0), stopped=False)
    assert second.out_of_budget() == "budget.gpu_hours is used up: 1.02 of 1"
    assert second.next() is None
    assert books.open("budget.gpu_hours=1", "resources.gpus_per_trial=1.9").next() is not None
    assert books.open("budget.gpu_hours=1").next() is not None  # one GPU a trial where nothing is said


def test_the_cost_of_all_sessions_ends_the_search(books, clock):
    budget = ("budget.cost=5", "budget.price_per_hour=2.5")
    first = books.open(*budget)
    first.next()
    clock.now += 7000
    first.record(0, progress(), stopped=True)
    second = books.open(*budget)
    assert second.next() is not None
    clock.now += 199
    assert second.out_of_budget() == ""
    clock.now += 1
    assert second.out_of_budget() == "budget.cost is used up: 5 of 5"
    assert second.next() is None
    assert books.open("budget.cost=5", "budget.price_per_hour=2").next() is not None


def test_whichever_budget_is_used_up_is_named(books):
    every = ["budget={samples: 1000, hours: 9, gpu_hours: 9, cost: 9, price_per_hour: 1}"]
    ledger = books.open(*every)
    ledger.record(ledger.next().number, progress(1000, seconds=10.0), stopped=True)
    assert ledger.out_of_budget() == "budget.samples is used up: 1,000 of 1,000"
    every[0] = every[0].replace("samples: 1000", "samples: 1001")
    assert books.open(*every).out_of_budget() == ""


def test_open_trials_are_closed_with_the_budget_that_ended_them(books):
    ledger = books.open("budget.samples=500")
    ledger.next()
    ledger.next()
    ledger.record(0, progress(550, 5.0, "running"), stopped=False)
    ledger.close(ledger.out_of_budget())
    assert [row.cause for row in books.rows()][1:] == ["budget.samples is used up: 550 of 500"]


# The best so far


def test_best_is_the_lowest_and_never_a_collapsed_or_failed_trial(books):
    ledger = books.open("budget.trials=4")
    for _ in range(4):
        ledger.next()
    ledger.record(0, progress(600, 9.0), stopped=True)
    ledger.record(1, progress(300, 4.0, "running"), stopped=False)
    ledger.record(2, progress(300, 3.0, "running"), stopped=False)
    assert (ledger.best.trial, ledger.best.score) == (2, 3.0)
    ledger.record(2, dead(400, 20.0, 3.0), stopped=True)
    assert (ledger.best.trial, ledger.best.score) == (1, 4.0)
    ledger.fail(1, "its worker died")
    assert (ledger.best.trial, ledger.best.score) == (0, 9.0)
    again = books.open("budget.trials=4")
    assert (again.best.trial, again.best.score) == (0, 9.0)
    assert books.run.best(books.run.trials()).number == 0


def test_a_missed_constraint_is_told_by_how_far(books):
    ledger = books.open()
    ledger.next()
    ledger.next()
    missed = Progress(samples_seen=600, score=1.0, best_score=None, metrics={"recall": 0.05}, state="finished")
    ledger.record(0, missed, stopped=True)
    ledger.record(1, progress(600, 9.0), stopped=True)
    trials = books.trials()
    assert trials[0].constraints["recall >= 0.2"] == pytest.approx(0.15)
    assert trials[1].constraints["recall >= 0.2"] <= 0


def test_the_study_hears_the_lowest_score_so_far(books):
    ledger = books.open()
    ledger.next()
    ledger.record(0, progress(100, 9.0, "running"), stopped=False)
    ledger.record(0, progress(200, 5.0, "running"), stopped=False)
    ledger = books.open()
    ledger.next()
    ledger.record(0, progress(300, 7.0, "running", 5.0), stopped=True)
    trial = books.trials()[0]
    assert trial.intermediate_values == {100: 9.0, 200: 5.0, 300: 5.0}
    assert (trial.state, trial.value) == (TrialState.PRUNED, 5.0)
