"""Several drivers of one run: laws in one process, then real drivers on a real PostgreSQL server."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import pytest
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from gantune.collapse import Verdict
from gantune.driver import crew as crew_module
from gantune.driver import database as database_module
from gantune.driver.crew import Crew, SharedConfirmation, SharedLedger
from gantune.driver.database import Database
from gantune.driver.schedulers import build_scheduler
from gantune.driver.study import Study
from gantune.errors import RunError, SpecError
from gantune.progress import Progress
from gantune.reports import LATEST
from gantune.results import ENDED
from gantune.run import Run
from gantune.space import load_space, load_trial

LAWS = """
version: 1
name: tiny
data: {dataset: digits, size: 8}
budget: {trials: 6, samples_per_trial: 600}
search: {scheduler: {asha: {first_rung: 0.5, reduction: 2, spared: 0}}}
space:
  architecture: mlp
  loss: [minimax, hinge]
  optimizer: adam
  lr_g: log 1e-4..1e-2
baseline: {loss: hinge, lr_g: 5e-4}
"""


class Drivers:
    """Drivers of one run, each with books of its own, as in several processes; they take turns, so SQLite will do."""

    def __init__(self, folder):
        self.folder = folder
        self.url = f"sqlite:///{folder}/studies.db"

    def join(self, *overrides, kind=SharedLedger):
        path = self.folder / "tiny.yaml"
        path.write_text(LAWS)
        space, run = load_space(path, overrides), Run(self.folder / "runs" / "tiny")
        crew = Crew(run)
        run.begin(space, storage="sqlite")
        crew.enrol(run)
        if kind is SharedConfirmation:
            return SharedConfirmation(run, space, crew)
        database = Database(url=self.url, study=run.manifest()["study"], driver=crew.name)
        return SharedLedger(run, space, Study(database, space, 500.0), crew)

    @property
    def run(self):
        return Run(self.folder / "runs" / "tiny")

    def trials(self):
        return optuna.load_study(study_name=self.run.manifest()["study"], storage=self.url).trials


@pytest.fixture
def drivers(tmp_path, monkeypatch):
    monkeypatch.setattr(crew_module, "SECONDS_BETWEEN", 0)
    return Drivers(tmp_path)


def die(ledger):
    """What the operating system does for a driver that is killed."""
    ledger._crew.__exit__()


def report(samples_seen=600, score=10.0, state="finished", **values):
    values = {"metrics": {"recall": 0.5}, "seconds": samples_seen / 100, "best_score": score, **values}
    return Progress(samples_seen=samples_seen, score=score, state=state, **values)


def running(samples_seen, score=10.0):
    return report(samples_seen, score, "running")


def finish(ledger, number, score=10.0):
    return ledger.record(number, report(score=score), stopped=True)


def ends(run):
    return Counter((row.trial, row.repeat) for row in run.results.rows() if row.state in ENDED)


# What is asked for


def test_no_number_is_issued_twice_and_no_more_than_the_budget(drivers):
    crew = [drivers.join() for _ in range(3)]
    issued = [ledger.next() for _ in range(4) for ledger in crew]
    numbers = [proposal.number for proposal in issued if proposal is not None]
    assert sorted(numbers) == list(range(6))
    configs = {load_trial(drivers.run.trial_folder(number) / "config.yaml") for number in numbers}
    assert len(configs) == 6
    assert not any(ledger.complete() for ledger in crew)


def test_the_baseline_is_enqueued_once_and_is_trial_0(drivers):
    crew = [drivers.join() for _ in range(3)]
    issued = {proposal.number: proposal.config.lr_g for proposal in (ledger.next() for ledger in crew)}
    assert issued[0] == 5e-4
    assert list(issued.values()).count(5e-4) == 1


def test_drivers_that_start_alike_draw_apart(drivers):
    crew = [drivers.join("budget.trials=9") for _ in range(3)]
    drawn = [ledger.next().config.lr_g for _ in range(3) for ledger in crew]
    assert len(set(drawn)) == 9
    assert not any("rejected" in trial.user_attrs for trial in drivers.trials())


def test_a_finite_space_is_used_up_for_all(drivers):
    finite = ["space.lr_g=[5e-4, 1e-3]", "search.sampler=random", "budget.trials=9"]
    one, other = drivers.join(*finite), drivers.join(*finite)
    issued = []
    for ledger in (one, other) * 4:
        proposal = ledger.next()
        if proposal is not None:
            issued.append(proposal)
            finish(ledger, proposal.number)
    assert len({(item.config.loss.name, item.config.lr_g) for item in issued}) == len(issued) == 4
    assert one.next() is None
    assert other.next() is None
    assert one.complete()
    assert other.complete()


@pytest.mark.parametrize("first", [0, 1])
def test_the_search_is_complete_when_the_last_driver_has_told_its_last_trial(drivers, first):
    crew = [drivers.join("budget.trials=2") for _ in range(2)]
    numbers = [ledger.next().number for ledger in crew]
    last = 1 - first
    finish(crew[first], numbers[first])
    assert crew[first].next() is None
    assert crew[first].more()  # the other may die
    assert not crew[first].complete()
    finish(crew[last], numbers[last])
    for ledger in crew:
        assert ledger.next() is None
        assert ledger.complete()
        assert not ledger.more()
        assert ledger.ended == {"finished": 2}
    assert all(trial.state == TrialState.COMPLETE for trial in drivers.trials())


# Dead drivers


def test_a_living_drivers_trials_are_left_alone(drivers):
    one, other = drivers.join("budget.trials=2"), drivers.join("budget.trials=2")
    assert [one.next().number, one.next().number] == [0, 1]
    assert other.next() is None
    assert drivers.join("budget.trials=2").next() is None


def test_a_dead_drivers_trials_are_continued_once_before_new_ones(drivers):
    one, two, three = (drivers.join() for _ in range(3))
    proposals = {proposal.number: proposal for proposal in (one.next(), one.next())}
    one.record(0, running(100), stopped=False)
    (one.folder(0) / LATEST).touch()
    die(one)
    taken = [two.next(), three.next()]
    assert {proposal.number: proposal for proposal in taken} == proposals
    assert [two.next().number, three.next().number] == [2, 3]
    mine = two if taken[0].number == 0 else three
    assert mine.record(0, running(100), stopped=False) is None  # a trial that continues repeats its last report
    assert finish(mine, 0) is not None
    rows = [row for row in drivers.run.results.rows() if row.trial == 0]
    assert [row.samples_seen for row in rows] == [100, 600]
    assert drivers.trials()[0].intermediate_values == {100: 10.0, 600: 10.0}


def test_a_driver_that_comes_later_continues_the_trials_of_the_dead(drivers):
    one = drivers.join("budget.trials=1")
    one.next()
    die(one)
    other = drivers.join("budget.trials=1")
    assert not other.complete()
    assert other.next().number == 0


def test_an_end_that_its_driver_did_not_live_to_tell_is_told_and_not_trained_again(drivers, monkeypatch):
    one, other = drivers.join("budget.trials=1"), drivers.join("budget.trials=1")
    one.next()

    def killed(*anything, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Study, "tell", killed)
        with pytest.raises(KeyboardInterrupt):
            finish(one, 0)
    assert other.next() is None
    assert not other.complete()
    die(one)
    assert other.next() is None
    assert other.complete()
    (trial,) = drivers.trials()
    assert trial.state == TrialState.COMPLETE
    assert ends(drivers.run) == {(0, 0): 1}


@pytest.mark.parametrize("lives", [True, False])
def test_a_trial_that_ends_just_before_it_is_taken_over_is_not_trained_again(drivers, monkeypatch, lives):
    one, other = drivers.join("budget.trials=1"), drivers.join("budget.trials=1")
    one.next()
    claim = Crew.claim

    def late(crew, folder):
        """The other driver has seen that the trial is open; now the trial ends, and its driver as well."""
        monkeypatch.undo()
        with contextlib.suppress(KeyboardInterrupt), monkeypatch.context() as patch:
            if not lives:
                patch.setattr(Study, "tell", lambda *anything, **more: (_ for _ in ()).throw(KeyboardInterrupt))
            finish(one, 0)
        die(one)
        return claim(crew, folder)

    monkeypatch.setattr(Crew, "claim", late)
    assert other.next() is None
    assert ends(drivers.run) == {(0, 0): 1}
    assert drivers.trials()[0].state == TrialState.COMPLETE


def test_a_driver_that_dies_while_it_asks_leaves_a_trial_to_be_drawn(drivers, monkeypatch):
    one, other = drivers.join(), drivers.join()
    one.next()
    with monkeypatch.context() as patch:
        patch.setattr(Study, "_draw_valid", lambda *anything: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            one.next()
    die(one)
    numbers = []
    while (proposal := other.next()) is not None:
        numbers.append(proposal.number)
        finish(other, proposal.number)
    assert sorted(numbers) == list(range(6))
    assert other.complete()


# What others found counts


def test_rows_of_another_driver_count_at_rungs(drivers):
    one, other = drivers.join(), drivers.join()
    schedulers = [
        build_scheduler(load_space(drivers.folder / "tiny.yaml"), ledger.rows(), heard=ledger.heard)
        for ledger in (one, other)
    ]
    one.next()  # the baseline is never stopped
    mine, theirs = other.next().number, one.next().number
    for number, score in ((0, 12.0), (theirs, 10.0)):
        result = {"number": number, "samples_seen": 300, "score": score}
        assert schedulers[0].on_trial_result(None, None, result) == "CONTINUE"
        one.record(number, running(300, score), stopped=False)
    other.hear()
    assert schedulers[1].on_trial_result(None, None, {"number": mine, "samples_seen": 300, "score": 50.0}) == "STOP"


@pytest.mark.parametrize(("state", "stopped"), [("running", True), ("pruned", False)])
def test_what_another_driver_decided_is_not_decided_again(drivers, state, stopped):
    one, other = drivers.join(), drivers.join()
    space = load_space(drivers.folder / "tiny.yaml")
    scheduler = build_scheduler(space, other.rows(), heard=other.heard)
    for score in (12.0, 10.0, 50.0):
        number = one.next().number
        one.record(number, running(300, score), stopped=score == 50.0 and state == "pruned")
    other.hear()
    scheduler.hear()
    assert scheduler.certificate.is_doomed(2) is stopped  # it went on though a rung would have stopped it


def test_best_ends_and_budgets_are_common(drivers):
    limits = ("budget.samples=1000", "budget.target=3")
    one, other = drivers.join(*limits), drivers.join(*limits)
    numbers = [one.next().number, other.next().number]
    finish(one, numbers[0], 7.0)
    other.hear()
    assert (other.best.trial, other.best.score) == (numbers[0], 7.0)
    assert other.ended == {"finished": 1}
    assert not other.out_of_budget()
    one.record(one.next().number, running(400, 8.0), stopped=False)
    other.hear()
    assert "budget.samples is used up" in other.out_of_budget()
    assert other.next() is None
    finish(other, numbers[1], 2.0)
    one.hear()
    assert "the target of 3 was reached by #1" in one.out_of_budget()


def test_the_clock_of_the_run_is_one(drivers, monkeypatch):
    one, other = drivers.join("budget.hours=1"), drivers.join("budget.hours=1")
    one.next()
    one._clock.before += 3700
    one.record(0, running(100), stopped=False)
    other.hear()
    assert other.seconds() >= 3700
    assert "budget.hours" in other.out_of_budget()


def test_a_search_that_is_closed_pauses_the_trials_of_the_dead(drivers):
    one, other = drivers.join(), drivers.join()
    one.next()
    one.record(0, running(100), stopped=False)
    one.next()
    die(one)
    mine = other.next()
    other.close("the target was reached")
    assert mine is not None
    rows = {row.trial: row for row in drivers.run.results.rows()}
    assert {number: row.state for number, row in rows.items()} == {0: "paused"}  # the other has not begun
    again = drivers.join()
    (again.folder(0) / LATEST).touch()
    assert [again.next().number for _ in range(3)] == [0, 1, 2]


def test_each_driver_merges_its_own_rows_alone(drivers):
    crew = [drivers.join() for _ in range(2)]
    for ledger in crew:
        number = ledger.next().number
        for samples_seen in (100, 200, 300):
            ledger.record(number, running(samples_seen), stopped=False)
    before = drivers.run.results.rows()
    crew[0]._run.results.merge()
    names = sorted(path.name for path in (drivers.run.folder / "results").iterdir())
    assert names == ["part-0001-000003.parquet", *(f"part-0002-00000{index}.parquet" for index in range(3))]
    assert drivers.run.results.rows() == before
    crew[1].hear()
    assert len(crew[1].rows()) == len(before) == 6


def test_a_collapse_heard_of_is_no_best(drivers):
    one, other = drivers.join(), drivers.join()
    number = one.next().number
    one.record(number, running(100, 5.0), stopped=False)
    other.hear()
    assert other.best.trial == number
    verdict = Verdict(state="diverged", cause="not finite", evidence={})
    one.record(number, report(200, None, "collapsed", best_score=5.0, verdict=verdict), stopped=True)
    other.hear()
    assert other.best is None


# Finalists


def test_finalists_are_shared_and_a_dead_drivers_are_trained_again(drivers):
    wanted = ("budget.trials=2", "confirm.top=2", "confirm.seeds=2")
    ledger = drivers.join(*wanted)
    for _ in range(2):
        finish(ledger, ledger.next().number)
    one, other = (drivers.join(*wanted, kind=SharedConfirmation) for _ in range(2))
    issued = [one.next(), other.next(), one.next()]
    assert len({one.identity(proposal.number) for proposal in issued}) == 3
    finish(one, issued[0].number)
    die(one)
    left = [other.next().number, other.next().number]
    assert issued[2].number in left
    assert other.next() is None
    assert other.more()
    for number in (issued[1].number, *left):
        finish(other, number)
    assert other.complete()
    assert not other.more()
    assert ends(drivers.run) == {(trial, repeat): 1 for trial in (0, 1) for repeat in (0, 1, 2)}


def test_a_finalists_run_that_ends_just_before_it_is_taken_over_is_not_trained_again(drivers, monkeypatch):
    wanted = ("budget.trials=1", "confirm.top=1", "confirm.seeds=2")
    ledger = drivers.join(*wanted)
    finish(ledger, ledger.next().number)
    one, other = (drivers.join(*wanted, kind=SharedConfirmation) for _ in range(2))
    numbers = [one.next().number, one.next().number]
    claim = Crew.claim

    def late(crew, folder):
        monkeypatch.undo()
        for number in numbers:
            finish(one, number)
        return claim(crew, folder)

    monkeypatch.setattr(Crew, "claim", late)
    assert other.next() is None
    assert other.complete()
    assert ends(drivers.run) == {(0, 0): 1, (0, 1): 1, (0, 2): 1}


# What is refused


def test_a_run_keeps_to_its_kind_of_study(drivers):
    drivers.join()
    space = load_space(drivers.folder / "tiny.yaml")
    with pytest.raises(RunError, match="--storage or GANTUNE_STORAGE"):
        drivers.run.begin(space)
    alone = Run(drivers.folder / "runs" / "alone")
    alone.folder.mkdir()
    alone.begin(space)
    with pytest.raises(RunError, match="leave --storage out"):
        alone.begin(space, storage="a database")


def test_runs_of_one_name_do_not_share_a_study(drivers, tmp_path):
    names = {drivers.join()._run.manifest()["study"]}
    (tmp_path / "other").mkdir()
    other = Drivers(tmp_path / "other")
    other.url = drivers.url
    ledger = other.join()
    names.add(ledger._run.manifest()["study"])
    assert len(names) == 2
    assert ledger.next().number == 0


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("sqlite:///studies.db", SpecError, "SQLite"),
        ("me:s3cret@host/db", SpecError, "cannot be read as the URL"),
        ("postgrex://me:s3cret@host/db", SpecError, "no database is called `postgrex`"),
        ("postgresql+psycopg://me:s3cret@127.0.0.1:1/db?sslpassword=s3cret", RunError, "does not answer"),
        ("postgresql+pg8000://me:s3cret@host/db", RunError, "gantune[postgres]"),
    ],
)
def test_a_database_that_will_not_do_is_refused_without_its_password(url, error, words):
    if "+psycopg:" in url and find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed")
    with pytest.raises(error) as caught:
        Database(url=url).check()
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "s3cret" not in repr(Database(url=url))


def test_a_server_that_goes_away_is_waited_for_a_while(monkeypatch):
    monkeypatch.setattr(database_module, "SECONDS_BETWEEN", 0)
    database = Database(url="postgresql+psycopg://me:s3cret@host/db", study="tiny-1")
    gone = OperationalError("SELECT 's3cret'", {}, Exception("it is gone, said me:s3cret\nfor ever"))
    left = [gone, gone]

    def asked(value):
        if left:
            raise optuna.exceptions.StorageInternalError("in a commit") from left.pop()
        return value

    assert database.patient(asked)(7) == 7
    monkeypatch.setattr(database_module, "PATIENCE_SECONDS", 0)
    left.append(gone)
    with pytest.raises(RunError) as caught:
        database.patient(asked)(7)
    told = (
        "study tiny-1 at postgresql+psycopg://me:***@host/db: does not answer: it is gone, said me:***; nothing is lost"
    )
    assert told in str(caught.value)
    with pytest.raises(ZeroDivisionError):
        database.patient(lambda: 1 / 0)()


def test_a_missing_driver_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(RunError) as caught:
        Database(url="postgresql+psycopg://me:s3cret@host/db").check()
    assert "pip install 'gantune[postgres]'" in str(caught.value)
    assert "s3cret" not in str(caught.value)


# Real drivers on a real server

ONE_WORKER = f"resources: {{cpus_per_trial: {os.cpu_count()}}}"
SPACE = (
    ONE_WORKER
    + """
version: 1
name: tiny
data: {dataset: digits, size: 8}
objective: {samples: {report: 300, final: 300}, reports: 3}
budget: {trials: 12, samples_per_trial: 2500}
collapse: {enabled: false}
space:
  architecture: {mlp: {hidden: [32, 64]}}
  loss: [non_saturating, hinge]
  optimizer: adam
  lr_g: log 1e-4..1e-2
baseline: {architecture: {mlp: {hidden: 64}}, loss: hinge, lr_g: 1e-3}
"""
)
PASSWORD = "s3cret"
NOBODY = 65534  # PostgreSQL does not run as root


def program(name):
    """A program of PostgreSQL's server, which distributions keep out of the way."""
    found = shutil.which(name)
    if found is None and shutil.which("pg_config"):
        folder = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=True).stdout.strip()
        found = shutil.which(name, path=folder)
    return found


class Server:
    """A PostgreSQL of its own on loopback."""

    def __init__(self, folder):
        self.folder = folder
        self.as_user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:{self.port}/postgres"
        if self.as_user:
            os.chown(folder, NOBODY, NOBODY)
        self._run("initdb", "-D", f"{folder}/data", "-U", "me", "--auth=trust", "--no-sync")

    def start(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-w", "-l", f"{self.folder}/log", "-o", options, "start")

    def stop(self):
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-m", "immediate", "-w", "stop")

    def _run(self, name, *arguments):
        done = subprocess.run(
            [program(name), *arguments],
            cwd=self.folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if name == "initdb" else subprocess.DEVNULL,  # a server would hold a pipe open
            text=True,
            timeout=60,
            **self.as_user,
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def server():
    if not all(program(name) for name in ("initdb", "postgres", "pg_ctl")):
        pytest.skip("there is no PostgreSQL server")
    if find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed")
    folder = Path(tempfile.mkdtemp(prefix="gantune-postgres-"))  # below pytest's own, another user could not reach it
    started = Server(folder)
    started.start()
    yield started
    started.stop()
    shutil.rmtree(folder)


@pytest.fixture
def drive(server, tmp_path):
    """Starts drivers, which find the database in their environment."""
    started = []

    def start():
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "gantune", "search", "tiny.yaml"],
                cwd=tmp_path,
                env={**os.environ, "GANTUNE_STORAGE": server.url},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def trains(run, sessions, pid):
    """Whether a driver has reported on a trial that is still open."""
    name = next(f"{index:04d}" for index, session in enumerate(sessions, 1) if session["pid"] == pid)
    last = {}
    for path in sorted(run.folder.glob(f"results/part-{name}-*.parquet")):
        last.update({row["trial"]: row["state"] for row in pq.read_table(path).to_pylist()})
    return "running" in last.values()


def test_three_drivers_share_a_search_and_two_finish_what_a_killed_one_began(server, drive, tmp_path):
    (tmp_path / "tiny.yaml").write_text(SPACE)
    run = Run(tmp_path / "runs" / "tiny")
    crew = [drive() for _ in range(3)]
    until = time.monotonic() + 360
    victim = None
    while victim is None:
        assert time.monotonic() < until, "the search did not get that far"
        assert all(process.poll() is None for process in crew), [process.communicate() for process in crew]
        time.sleep(0.05)
        sessions = run.manifest()["sessions"] if (run.folder / "manifest.json").exists() else []
        if len(sessions) == 3:
            victim = next((process for process in crew if trains(run, sessions, process.pid)), None)
    victim.kill()
    before = run.results.rows()
    told = [process.communicate(timeout=until - time.monotonic())[1] for process in crew]
    assert [process.returncode for process in crew if process is not victim] == [0, 0], told

    after = run.results.rows()
    assert [row for row in after if row in before] == before
    assert ends(run) == {(number, 0): 1 for number in range(12)}
    assert max(Counter((row.trial, row.samples_seen, row.state) for row in after).values()) == 1
    storage = optuna.storages.RDBStorage(server.url, engine_kwargs=Database(url=server.url).engine_options)
    trials = optuna.load_study(study_name=run.manifest()["study"], storage=storage).trials
    storage.engine.dispose()
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert [trial.number for trial in trials if "rejected" not in trial.user_attrs] == list(range(12))
    assert len({path.stem.split("-")[1] for path in run.folder.glob("results/part-*.parquet")}) > 1

    found = [path for path in run.folder.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert found == []
    assert not any(PASSWORD in text or "Traceback" in text for text in told)
    best = subprocess.run(
        [sys.executable, "-m", "gantune", "best", "--json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(best.stdout)["trial"] in range(12)


def test_a_server_that_is_started_again_in_mid_search_is_waited_for(server, drive, tmp_path):
    (tmp_path / "tiny.yaml").write_text(SPACE.replace("trials: 12", "trials: 4"))
    run = Run(tmp_path / "runs" / "tiny")
    process = drive()
    until = time.monotonic() + 120
    while not run.results.rows():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "the search did not get that far"
        time.sleep(0.05)
    server.stop()
    time.sleep(2)
    server.start()
    told = process.communicate(timeout=120)[1]
    assert process.returncode == 0, told
    assert ends(run) == {(number, 0): 1 for number in range(4)}


def test_a_search_stops_with_one_message_where_its_server_stays_away(server, drive, tmp_path):
    (tmp_path / "tiny.yaml").write_text(SPACE.replace("trials: 12", "trials: 2"))
    server.stop()
    try:
        process = drive()
        told = process.communicate(timeout=120)[1]
    finally:
        server.start()
    assert process.returncode == 1
    words = r"--storage: postgresql\+psycopg://me:\*\*\*@127.0.0.1:\d+/postgres does not answer: .*\n"
    assert re.fullmatch(rf"loading PyTorch and Ray\n{words}", told)
    assert not (tmp_path / "runs").exists()
