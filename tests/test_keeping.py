"""Checkpoints of ended trials are let go by the rows, the policy, and nothing else; what may go on keeps its own."""

import json
import random
from dataclasses import replace

import pytest
from click.testing import CliRunner
from test_crew import Drivers, finish, running
from test_ledger import Books, dead, progress
from test_population import Search
from test_replay import copied, finished, replayed  # noqa: F401
from test_run import row

from gantune import api
from gantune.cli.best import command as best
from gantune.cli.check import command as check
from gantune.driver import crew as crew_module
from gantune.driver.keeping import Keeping
from gantune.errors import CheckpointError, RunError, SpecError
from gantune.pace import BEST_SHARE
from gantune.pace import disk as needed
from gantune.reports import BEST, LATEST
from gantune.results import ENDED
from gantune.run import Run
from gantune.space import load_space
from gantune.trial import BEST as TRIALS_BEST
from gantune.trial import LATEST as TRIALS_LATEST
from gantune.trial import PICTURE

SPACE = """
version: 1
name: tiny
data: {dataset: digits, size: 8}
budget: {trials: 9, samples_per_trial: 600}
space:
  architecture: mlp
  loss: [minimax, hinge]
  optimizer: adam
  lr_g: log 1e-4..1e-2
"""
BASELINE = "baseline={loss: hinge, lr_g: 5e-4}"
SIZE = 1000  # bytes of each file
OTHERS = ("config.yaml", PICTURE)


class Trials:
    """A run of pretended trials: rows, and files of a known size."""

    def __init__(self, folder, *overrides):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tiny.yaml").write_text(SPACE)
        self.space = load_space(folder / "tiny.yaml", overrides)
        self.run = Run(folder / "run")
        self.run.folder.mkdir(exist_ok=True)
        self.run.begin(self.space)
        self.clock = 0

    def add(self, number, state, score=None, repeat=0, **metrics):
        self.files(number, repeat)
        self.clock += 1
        told = {"run_seconds": float(self.clock), "metrics": metrics, "best_score": score, "repeat": repeat}
        self.run.results.append(row(number, 100, state, score, **told))

    def files(self, number, repeat=0):
        folder = self.run.trial_folder(number, repeat)
        folder.mkdir(parents=True, exist_ok=True)
        for name in (LATEST, BEST, *OTHERS):
            (folder / name).write_bytes(bytes(SIZE))

    def sweep(self):
        keeping = Keeping(self.run, self.space)
        keeping.sweep()
        return keeping

    def having(self, name):
        """The trials that have such a file."""
        return {path.parent.name.removeprefix("000") for path in self.run.folder.glob(f"trials/*/{name}")}


@pytest.fixture
def trials(tmp_path):
    return lambda *overrides: Trials(tmp_path, *overrides)


def test_the_files_have_the_names_that_trials_give_them():
    assert (LATEST, BEST) == (TRIALS_LATEST, TRIALS_BEST)


def test_of_itself_only_what_an_ended_trial_needs_to_go_on_leaves_the_disk(trials):
    found = trials()
    for number, state in enumerate(("finished", "pruned", "collapsed", "failed", "running")):
        found.add(number, state, 10.0)
    found.files(5)  # issued, and without a report yet
    found.add(0, "finished", 9.0, repeat=1)
    found.add(0, "running", 9.0, repeat=2)
    found.sweep()
    assert found.having(LATEST) == {"3", "4", "5", "0.2"}
    everything = found.having("config.yaml")
    assert len(everything) == 8
    assert found.having(BEST) == found.having(PICTURE) == everything


def test_a_trial_that_failed_once_and_ended_later_has_ended(trials):
    found = trials()
    found.add(0, "failed", 10.0)
    found.sweep()
    assert found.having(LATEST) == {"0"}
    found.add(0, "pruned", 9.0)
    found.sweep()
    assert found.having(LATEST) == set()


def test_the_best_survivors_keep_their_weights_and_always_the_baseline_and_the_finalists(trials):
    found = trials("keep.top=2", BASELINE)
    for number, score in enumerate((50.0, 40.0, 30.0, 20.0)):
        found.add(number, "finished", score)
    found.add(4, "collapsed", 1.0)
    found.add(5, "pruned")  # no report met the constraints
    found.add(6, "failed", 2.0)
    found.add(7, "running", 3.0)
    found.sweep()
    assert found.having(BEST) == {"0", "2", "3", "6", "7"}
    assert found.having(PICTURE) == set("01234567")


def test_finalists_and_their_repeats_keep_their_weights_whatever_stands_before_them_later(trials):
    found = trials("keep.top=1", "confirm.top=2")
    found.add(0, "finished", 20.0)
    found.add(1, "finished", 30.0)
    found.add(2, "finished", 40.0)
    found.sweep()
    assert found.having(BEST) == {"0", "1"}
    for number in (0, 1):
        found.add(number, "finished", 25.0, repeat=1)
    for number in (3, 4):  # the search went on
        found.add(number, "finished", float(number))
    found.sweep()
    assert found.having(BEST) == {"0", "1", "0.1", "1.1", "3", "4"}


def test_the_front_of_several_objectives_keeps_its_weights(trials):
    found = trials("keep.top=1", "objective.metric=[fid, generator_parameters]")
    for number, (score, size) in enumerate([(10.0, 900), (20.0, 500), (30.0, 600), (40.0, 100)]):
        found.add(number, "finished", score, generator_parameters=float(size))
    found.sweep()
    assert found.having(BEST) == {"0", "1", "3"}


def test_a_trial_that_runs_pushes_nobody_out_for_it_may_still_collapse(trials):
    found = trials("keep.top=1")
    found.add(0, "finished", 10.0)
    found.add(1, "running", 5.0)
    found.sweep()
    assert found.having(BEST) == {"0", "1"}
    found.add(1, "collapsed", 5.0)
    found.sweep()
    assert found.having(BEST) == {"0"}


@pytest.mark.parametrize("objectives", ["fid", "[fid, generator_parameters]"])
@pytest.mark.parametrize("seed", range(5))
def test_looking_at_every_row_or_once_at_the_end_comes_to_the_same(tmp_path, seed, objectives):
    overrides = ("keep.top=2", "confirm.top=1", f"objective.metric={objectives}", BASELINE)
    often, once = Trials(tmp_path / "often", *overrides), Trials(tmp_path / "once", *overrides)
    luck = random.Random(seed)
    for number in range(9):
        state, score = luck.choice([*ENDED, "running"]), luck.choice([None, luck.uniform(1, 9)])
        parameters = float(luck.randrange(5))
        for found in (often, once):
            found.add(number, state, score, generator_parameters=parameters)
        often.sweep()
    once.sweep()
    once.sweep()
    for name in (BEST, LATEST, PICTURE):
        assert often.having(name) == once.having(name)


def test_beyond_the_gigabytes_the_worst_go_first_and_no_more_than_must(trials):
    found = trials(f"keep.gb={6.5 * SIZE / 1e9}", BASELINE)
    for number, score in enumerate((70.0, 20.0, 30.0, 40.0)):
        found.add(number, "finished", score)
    found.add(4, "collapsed", 1.0)
    found.add(5, "running", 90.0)
    found.sweep()  # 5 best, and two of what runs: one too many
    assert found.having(BEST) == {"0", "1", "2", "3", "5"}
    assert found.having(LATEST) == {"5"}
    found.add(6, "failed", 95.0)
    assert found.sweep().trouble == ""
    assert found.having(BEST) == {"0", "1", "5", "6"}
    assert found.having(LATEST) == {"5", "6"}


def test_what_is_to_stay_stays_beyond_the_gigabytes_and_this_is_said(trials):
    found = trials("keep.gb=1e-9")
    found.add(0, "finished", 10.0)
    found.add(1, "finished", 20.0)
    found.add(2, "running", 30.0)
    assert "checkpoints take 3e-06 GB" in found.sweep().trouble
    assert found.having(BEST) == {"0", "2"}
    assert found.having(LATEST) == {"2"}


def test_a_file_that_cannot_be_deleted_is_told_and_hinders_nothing(trials):
    found = trials("keep.top=1")
    for number in range(3):
        found.add(number, "finished", 10.0 + number)
    stuck = found.run.trial_folder(0) / LATEST
    stuck.unlink()
    stuck.mkdir()
    keeping = found.sweep()
    assert str(stuck) in keeping.trouble
    assert "could not be deleted" in keeping.trouble
    assert found.having(LATEST) == {"0"}
    assert found.having(BEST) == {"0"}
    stuck.rmdir()
    keeping.sweep()
    assert keeping.trouble == ""


# The books let go


@pytest.fixture
def books(tmp_path):
    found = Books(tmp_path)
    found.run.folder.mkdir(parents=True)
    return found


def put(folder):
    for name in (LATEST, BEST):
        (folder / name).write_bytes(bytes(SIZE))


def test_a_trial_lets_go_as_its_end_is_noted_and_not_before(books):
    ledger = books.open("budget.trials=5")
    numbers = [ledger.next().number for _ in range(5)]
    latest = [ledger.folder(number) / LATEST for number in numbers]
    for number in numbers:
        put(ledger.folder(number))
        ledger.record(number, progress(100, 9.0, "running"), stopped=False)
    assert all(path.exists() for path in latest)
    ledger.record(0, progress(600, 8.0), stopped=True)
    ledger.record(1, progress(200, 8.0, "running"), stopped=True)
    ledger.record(2, dead(200), stopped=True)
    ledger.fail(3, "no such file")
    assert [path.exists() for path in latest] == [False, False, False, True, True]
    assert all((path.parent / BEST).exists() for path in latest)
    again = books.open("budget.trials=5")
    assert {again.next().number, again.next().number} == {3, 4}
    again.keeping.sweep()
    assert [path.exists() for path in latest] == [False, False, False, True, True]
    again.close("budget.hours is used up")
    assert [path.exists() for path in latest] == [False, False, False, True, True]  # what is paused goes on from it


def test_what_a_killed_driver_did_not_live_to_delete_the_next_one_does(books):
    ledger = books.open("keep.top=1")
    for _ in range(3):
        put(ledger.folder(ledger.next().number))
    for number in range(3):  # only the rows were written
        books.run.results.append(ledger._row(number, "finished", progress(600, 10.0 + number), ""))
    books.open("keep.top=1").keeping.sweep()
    folders = [books.run.trial_folder(number) for number in range(3)]
    assert [(folder / BEST).exists() for folder in folders] == [True, False, False]
    assert not any((folder / LATEST).exists() for folder in folders)


def test_with_several_drivers_each_lets_go_of_what_has_ended_and_of_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(crew_module, "SECONDS_BETWEEN", 0)
    drivers = Drivers(tmp_path)
    one, other = (drivers.join("keep.top=1", "baseline=null") for _ in range(2))
    first, second, third = one.next().number, other.next().number, one.next().number
    for number in (first, second, third):
        put(one.folder(number))
    other.record(second, running(100, 5.0), stopped=False)
    finish(one, first, 20.0)
    finish(one, third, 30.0)
    one.keeping.sweep()

    def left(number):
        return [(one.folder(number) / name).exists() for name in (LATEST, BEST)]

    assert [left(number) for number in (first, second, third)] == [[False, True], [True, True], [False, False]]
    finish(other, second, 5.0)
    other.keeping.sweep()
    assert [left(number) for number in (first, second, third)] == [[False, False], [False, True], [False, False]]


def test_a_member_of_a_population_keeps_its_own_while_another_runs(tmp_path):
    search = Search(tmp_path)
    books = search.open()
    search.carry(books)  # ends them all
    folders = [search.run.trial_folder(trial.number) for trial in search.run.trials()]
    assert len(folders) == 4
    assert all((folder / LATEST).exists() for folder in folders)
    books.keeping.sweep()
    assert not any((folder / LATEST).exists() for folder in folders)


def test_a_population_that_was_killed_while_it_was_ended_still_takes_over(tmp_path):
    search = Search(tmp_path)
    books = search.open()
    while not books._plan:  # up to the end of the first generation
        proposal = books.next()
        books.record(proposal.number, search.train(proposal.number), stopped=True)
    ((number, donor),) = books._plan.items()
    search.run.results.append(replace(books._members[donor], state="pruned", run_seconds=books.seconds()))
    again = search.open()
    again.keeping.sweep()
    search.carry(again)
    assert donor in [told.donor for told in search.run.results.rows() if told.trial == number]
    assert [trial.state for trial in search.run.trials()].count("pruned") == 1


# The policy may change, and its effects are told


def test_what_is_kept_may_differ_between_sessions_and_older_runs_lack_it(trials):
    found = trials()
    assert found.run.begin(trials("keep.top=3", "keep.gb=20").space)
    assert found.run.manifest()["space"]["keep"] == {"top": 3, "gb": 20.0}
    manifest = found.run.manifest()
    del manifest["space"]["keep"]
    (found.run.folder / "manifest.json").write_text(json.dumps(manifest))
    assert found.run.begin(found.space)
    found.add(0, "finished", 10.0)
    with pytest.raises(RunError, match="was made from another space"):
        found.run.begin(replace(found.space, rules=(), objective=replace(found.space.objective, reports=5)))


@pytest.mark.parametrize("wrong", ["keep.top=0", "keep.top=some", "keep.gb=0", "keep.tops=1", "keep=3"])
def test_a_policy_that_makes_no_sense_is_refused_with_its_place(trials, wrong):
    with pytest.raises(SpecError, match=r"--set keep"):
        trials(wrong)


def test_check_tells_the_policy(tmp_path):
    (tmp_path / "tiny.yaml").write_text(SPACE + "keep: {top: 3, gb: 20}\n")
    out = CliRunner().invoke(check, [str(tmp_path / "tiny.yaml")]).output
    assert "kept: weights of the 3 best, at most 20 GB of checkpoints\n" in out


def test_best_says_how_to_have_weights_again_and_replay_hands_them_over(copied, tmp_path):  # noqa: F811
    (winner,) = {copied.best().number}
    path = copied.trial_folder(winner) / BEST
    assert copied.let_go(path) == ""
    path.unlink()
    again = f"gantune replay {winner} {copied.folder} --out FOLDER"
    shown = CliRunner().invoke(best, [str(copied.folder)])
    assert shown.exit_code == 0
    assert again in shown.output
    asked = CliRunner().invoke(best, [str(copied.folder), "--export", str(tmp_path / "winner")])
    assert isinstance(asked.exception, CheckpointError)
    assert again in str(asked.exception)
    assert not (tmp_path / "winner").exists()
    with pytest.raises(CheckpointError, match="--out FOLDER"):
        api.generator(copied, winner)
    done = replayed(winner, copied.folder, "--out", tmp_path / "again")
    assert f"its best weights are in {tmp_path / 'again' / BEST}" in done.output
    assert (tmp_path / "again" / BEST).exists()


def test_what_took_over_anothers_weights_is_not_said_to_be_replayable(trials):
    found = trials()
    found.run.results.append(row(3, 100, cause="takes over #1 at 100 samples: nothing changed"))
    assert "cannot be trained again by itself" in found.run.let_go(found.run.trial_folder(3) / BEST)
    assert "gantune replay 2.1 " in found.run.let_go(found.run.trial_folder(2, 1) / BEST)


# The forecast


def disk(*overrides, at_once=2):
    document = load_space({"version": 1, **_plain()}, overrides)
    return needed(document, at_once, checkpoint=1_000_000_000) / 1e9


def _plain():
    parameters = {"architecture": "mlp", "loss": "hinge", "optimizer": "adam", "lr_g": "log 1e-4..1e-2"}
    return {"data": {"dataset": "digits", "size": 8}, "budget": {"trials": 100}, "space": parameters}


def test_the_forecast_counts_what_goes_on_and_what_is_kept():
    assert disk() == pytest.approx(2 + 100 * BEST_SHARE)
    assert disk(at_once=1000) == pytest.approx(100 + 100 * BEST_SHARE)
    assert disk("search.scheduler=pbt") == pytest.approx(100 + 100 * BEST_SHARE)
    assert disk("keep.top=5") == pytest.approx(2 + (5 + 1 + 2) * BEST_SHARE)
    assert disk("keep.top=5", "confirm.top=10") == pytest.approx(2 + (10 + 1 + 2 + 30) * BEST_SHARE)
    assert disk("keep.top=1000") == disk()


def test_the_forecast_is_bounded_by_the_gigabytes_and_by_what_is_never_deleted():
    assert disk("keep.gb=20") == pytest.approx(20)
    assert disk("keep.gb=2000") == disk()
    assert disk("keep.gb=0.001") == pytest.approx(2 + (1 + 1 + 2) * BEST_SHARE)
    assert disk("keep.gb=0.001") <= disk("keep.gb=0.001", "keep.top=50")
