"""Runs that lie at a place: what lies there could go on at every moment, and no secret lies there."""

import contextlib
import io
import json
import os
import pickle
import platform
import shutil
import time
from collections import Counter

import pytest
from pyarrow.fs import LocalFileSystem

from gantune import lease as lease_module
from gantune import mirror as mirror_module
from gantune import storage
from gantune.api import open_run, prepare
from gantune.driver import workplace as workplace_module
from gantune.driver.away import driving
from gantune.driver.keeping import Keeping
from gantune.driver.ledger import Ledger
from gantune.driver.screen import Screen
from gantune.driver.study import Study
from gantune.driver.transplant import moved
from gantune.driver.workplace import workplace
from gantune.errors import RunError, SpecError, StorageError
from gantune.lease import FILE, STALE_SECONDS, Holder, Lease
from gantune.manifest import FORMAT, SECTIONS
from gantune.progress import Progress
from gantune.reports import BEST, LATEST
from gantune.requests import Requests, check_open
from gantune.results import ENDED
from gantune.run import Run
from gantune.space import load_space, load_trial
from gantune.storage import AwayError, Patience, Place

SPACE = {
    "version": 1,
    "name": "tiny",
    "data": {"dataset": "digits", "size": 8},
    "budget": {"trials": 2, "samples_per_trial": 600},
    "space": {"architecture": "mlp", "loss": ["minimax", "hinge"], "optimizer": "adam", "lr_g": "log 1e-4..1e-2"},
}
REPORTS = (300, 600)
SECRETS = {"AWS_ACCESS_KEY_ID": "AKIDofthistest", "AWS_SECRET_ACCESS_KEY": "secretofthistest"}


class KilledError(BaseException):
    """What ends a process between two requests: nothing that comes after it reaches the storage."""


class Recorder:
    """A file system that notes what is written and deleted, and whose user may be killed before it."""

    type_name = "s3"  # what it is given appears whole

    def __init__(self, kill_before=None):
        self._inner = LocalFileSystem()
        self._kill_before = kill_before
        self.done = []

    def _note(self, verb, path):
        if self._kill_before is not None and len(self.done) >= self._kill_before:
            raise KilledError
        if not path.endswith(FILE):
            self.done.append((verb, path.partition("/runs/tiny/")[2]))

    def create_dir(self, path, recursive):
        self._inner.create_dir(path, recursive=recursive)

    def open_output_stream(self, path):
        self._note("put", path)
        self._inner.create_dir(path.rpartition("/")[0], recursive=True)
        return self._inner.open_output_stream(path)

    def delete_file(self, path):
        self._note("delete", path)
        self._inner.delete_file(path)

    def open_input_stream(self, path):
        return self._inner.open_input_stream(path)

    def get_file_info(self, wish):
        return self._inner.get_file_info(wish)


@pytest.fixture(autouse=True)
def _machine(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(mirror_module, "SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(storage, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setenv("GANTUNE_CACHE", str(tmp_path / "here"))


@pytest.fixture
def move(tmp_path, monkeypatch):
    """Go on from another machine: one that has no copy of anything."""

    def to(name):
        monkeypatch.setenv("GANTUNE_CACHE", str(tmp_path / name))

    return to


@pytest.fixture
def runs(tmp_path):
    return Place(f"file://{tmp_path}/bucket/runs")


def at(runs, recorder=None, name="tiny"):
    return Run.at(Place(runs.uri, filesystem=recorder), name)


def space(**budget):
    return load_space({**SPACE, "budget": {**SPACE["budget"], **budget}})


def train(folder):
    """Reports of a trial that writes what a trial writes; continued, it repeats its last report."""
    parameters = load_trial(folder / "config.yaml").parameters()
    seen = 0
    if (folder / LATEST).exists():
        held = json.loads((folder / LATEST).read_text())
        assert held["parameters"] == parameters, "it belongs to another configuration"
        assert json.loads((folder / BEST).read_text()) >= held["seen"]
        seen = held["seen"]
        yield progress(seen)
    for samples in REPORTS:
        if samples > seen:
            (folder / BEST).write_text(str(samples))
            (folder / LATEST).write_text(json.dumps({"seen": samples, "parameters": parameters}))
            yield progress(samples)


def progress(samples):
    state = "finished" if samples == REPORTS[-1] else "running"
    return Progress(samples_seen=samples, score=9.0, best_score=9.0, metrics={}, state=state, seconds=1.0)


@contextlib.contextmanager
def driven(run, say=None):
    with run.lock(), driving(run, say or (lambda text: None)):
        yield run


def drive(run, wish, monkeypatch):
    """A search without Ray: its books, and one worker."""
    monkeypatch.setattr(workplace_module, "_at", lambda uri: run.place)
    with driven(run):
        run.begin(wish)
        if not run.reference_path.exists():
            run.reference_path.write_bytes(b"the yardstick")
            run.files.send_once(run.reference_path)
        ledger = Ledger(run, wish, Study(run.study_path, wish, 500.0, run.files.study_changed))
        ledger.keeping.sweep()
        while (proposal := ledger.next()) is not None:
            with workplace(run.place.uri, str(ledger.folder(proposal.number)), "") as here:
                assert here.reference.read_bytes() == b"the yardstick"
                for report in here.sent(train(here.folder)):
                    ledger.record(proposal.number, report, stopped=False)
        assert ledger.complete()
        run.results.merge()
        ledger.settle()


def assert_whole(run, trials):
    ends = Counter(row.trial for row in run.results.rows() if row.state in ENDED)
    assert ends == dict.fromkeys(range(trials), 1)
    assert [row.samples_seen for row in run.results.rows()] == [*REPORTS] * trials


def files_in(place):
    return {name for name in place.files() if name != FILE}


# What a run leaves at its place


def test_a_run_at_a_place_is_there_whole_and_reads_the_same_from_another_machine(runs, move, monkeypatch):
    run = at(runs)
    drive(run, space(), monkeypatch)
    assert files_in(run.place) == {
        *("space.yaml", "manifest.json", "study.journal", "reference.safetensors", "results/part-000004.parquet"),
        *(f"trials/{number:04d}/{name}" for number in (0, 1) for name in ("config.yaml", BEST)),
    }
    assert run.place.stored(FILE) is None
    move("there")
    for again in (open_run(run.shown), open_run("tiny", runs=runs.uri), open_run(runs=runs)):
        assert again.trials() == run.trials()
        assert again.manifest() == run.manifest()
        assert again.shown == run.shown
    assert_whole(again, 2)
    assert again.weights(again.checkpoint(again.best(), [])).read_text() == "600"


def test_another_machine_has_the_table_of_the_files_of_a_run(runs, move):
    run = at(runs)
    with driven(run):
        run.begin(space())
        run.data_path.write_bytes(b"a table")
        run.files.send_once(run.data_path)
    move("there")
    with driven(at(runs)) as again:
        assert again.data_path.read_bytes() == b"a table"
    move("elsewhere")
    again = at(runs)
    assert again.files.fetch(again.data_path).read_bytes() == b"a table"


def test_a_finished_run_asks_for_more_from_another_machine(runs, move, monkeypatch):
    drive(at(runs), space(), monkeypatch)
    move("there")
    again = at(runs)
    drive(again, space(trials=3), monkeypatch)
    assert_whole(again, 3)
    assert len(again.manifest()["sessions"]) == 2


def test_what_does_not_exist_is_told_with_what_does(runs, monkeypatch):
    with pytest.raises(RunError, match="there are no runs in file://"):
        open_run(runs=runs)
    drive(at(runs), space(), monkeypatch)
    for where in ("nope", f"{runs}/nope"):
        with pytest.raises(RunError, match=r"nope` is not a run; runs in file://.*: tiny"):
            open_run(where, runs=runs)


def test_the_run_last_used_is_the_one_whose_manifest_is_newest(runs, tmp_path):
    for name, seconds in (("first", 30), ("second", 10)):
        (tmp_path / "bucket" / "runs" / name).mkdir(parents=True)
        path = tmp_path / "bucket" / "runs" / name / "manifest.json"
        path.write_text(json.dumps({"format": FORMAT, "space": {key: {} for key in SECTIONS}, "sessions": [{}]}))
        os.utime(path, (time.time() - seconds,) * 2)
    (tmp_path / "bucket" / "runs" / "no_run").mkdir()
    assert open_run(runs=runs).name == "second"


def test_a_reader_sees_each_report_as_it_comes_and_disturbs_no_driver(runs, move):
    run, wish = at(runs), space()
    with driven(run):
        run.begin(wish)
        ledger = Ledger(run, wish, Study(run.study_path, wish, 500.0, run.files.study_changed))
        number = ledger.next().number
        same = open_run(run.shown)  # on this machine
        move("there")
        other = open_run(run.shown)
        for samples in REPORTS:
            ledger.record(number, progress(samples), stopped=False)
            assert [row.samples_seen for row in other.results.rows()][-1] == samples
            assert [row.samples_seen for row in same.results.rows()][-1] == samples
        run.results.merge()
        assert [row.samples_seen for row in other.results.rows()] == [*REPORTS]
        with pytest.raises(RunError, match="#0 has ended already"):
            check_open(other, 0)
        with pytest.raises(RunError, match="there is no trial #1"):
            check_open(other, 1)
        ledger.next()
        check_open(other, 1)


def test_no_secret_is_in_the_run_nor_in_its_copies(runs, tmp_path, monkeypatch):
    drive(at(runs), space(), monkeypatch)
    seen = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(seen) > 10
    for path in seen:
        assert not [name for name, secret in SECRETS.items() if secret.encode() in path.read_bytes()], path


def test_a_folder_of_this_machine_asks_no_storage(tmp_path, monkeypatch):
    monkeypatch.setattr(Place, "__init__", None)
    run = prepare(SPACE, runs=tmp_path / "runs").run
    with driven(run):
        run.begin(space())
        assert run.manifest()
    assert run.shown == str(tmp_path / "runs" / "tiny")
    assert run.place is None


def test_the_books_of_a_driver_may_be_pickled_and_take_no_connection_along(runs):
    with driven(at(runs, Recorder())) as run:
        again = pickle.loads(pickle.dumps(run))
    assert again.shown == run.shown
    assert isinstance(again.place.filesystem, LocalFileSystem)


def test_weights_that_keep_lets_go_go_from_the_place(runs, monkeypatch):
    run = at(runs)
    drive(run, space(trials=3), monkeypatch)
    wish = load_space({**SPACE, "keep": {"top": 1}})
    Keeping(run, wish).sweep()
    assert sorted(name for name in files_in(run.place) if name.endswith(BEST)) == [f"trials/0000/{BEST}"]
    with pytest.raises(StorageError.__mro__[1], match="gantune replay 1"):
        run.weights(run.trial_folder(1) / BEST)


def test_a_transplant_reads_and_writes_where_the_run_lies(runs, tmp_path):
    run = at(runs)
    donor, folder = run.trial_folder(0), run.trial_folder(1)
    for name in (f"trials/0000/{LATEST}", f"trials/0001/{LATEST}", f"trials/0001/{BEST}"):
        run.place.put(name, name.encode())
    with moved(run.files, donor, folder):
        (folder / LATEST).write_bytes((donor / LATEST).read_bytes())
    assert run.place.get(f"trials/0001/{LATEST}") == f"trials/0000/{LATEST}".encode()
    assert run.place.stored(f"trials/0001/{BEST}")
    with moved(run.files, donor, folder):
        (folder / BEST).unlink()
    assert run.place.stored(f"trials/0001/{BEST}") is None


def test_requests_reach_a_driver_on_another_machine_and_its_answers_come_back(runs, move):
    run = at(runs)
    with driven(run):
        run.begin(space())
        driver = Requests(run)
        move("there")
        other = open_run(run.shown)
        asker = Requests(other)
        assert other.driven()
        request = asker.ask("kill", 0)
        assert driver.pending() == [request]
        driver.reply(request, "accepted", "soon")
        assert asker.answer(request).text == "soon"
        driver.reply(request, "done", "ended")
        assert driver.pending() == []
        assert asker.answer(request).text == "ended"
        asker.forget(request)
        assert not [name for name in files_in(run.place) if name.startswith("requests/")]


# The order in which things get there


def test_whatever_presumes_something_gets_there_after_it(runs, monkeypatch):
    recorder = Recorder()
    drive(at(runs, recorder), space(), monkeypatch)
    puts = [name for verb, name in recorder.done if verb == "put"]
    for number in (0, 1):
        folder = f"trials/{number:04d}"
        assert puts[puts.index(f"{folder}/config.yaml") - 1] == "study.journal"
        latest = [at for at, name in enumerate(puts) if name == f"{folder}/{LATEST}"]
        best = [at for at, name in enumerate(puts) if name == f"{folder}/{BEST}"]
        rows = [at for at, name in enumerate(puts) if name == f"results/part-{2 * number:06d}.parquet"]
        assert puts.index(f"{folder}/config.yaml") < best[0] < latest[0] < rows[0] < best[1] < latest[1]
    assert puts.index("reference.safetensors") < puts.index("trials/0000/config.yaml")
    merged = recorder.done.index(("put", "results/part-000004.parquet"))
    assert all(recorder.done.index(("delete", f"results/part-{part:06d}.parquet")) > merged for part in range(4))
    ended = recorder.done.index(("delete", f"trials/0000/{LATEST}"))
    assert ended > recorder.done.index(("put", "results/part-000001.parquet"))


def test_only_what_has_changed_is_sent(runs, tmp_path):
    place = Place(runs.uri, filesystem=(recorder := Recorder())) / "tiny"
    for name in ("config.yaml", LATEST, BEST):
        place.put(f"trials/0000/{name}", b"old")
    recorder.done.clear()
    away = workplace_module._Away(place, "0000")

    def reports():
        (away.folder / LATEST).write_bytes(b"newer")
        yield 1
        yield 2
        (away.folder / BEST).unlink()
        (away.folder / "collapse.png").write_bytes(b"picture")
        yield 3

    done = [list(recorder.done) for _ in away.sent(reports())]
    first, picture = ("put", f"trials/0000/{LATEST}"), ("put", "trials/0000/collapse.png")
    assert done == [[first], [first], [first, ("delete", f"trials/0000/{BEST}"), picture]]


def test_a_search_killed_before_any_of_its_requests_ends_with_every_trial_once(runs, move, monkeypatch, tmp_path):
    counter = Recorder()
    drive(at(runs, counter), space(), monkeypatch)
    for kill_before in range(len(counter.done)):
        shutil.rmtree(tmp_path / "bucket")
        move(f"first{kill_before}")
        with pytest.raises(KilledError):
            drive(at(runs, Recorder(kill_before)), space(), monkeypatch)
        move(f"second{kill_before}")
        run = at(runs)
        drive(run, space(), monkeypatch)
        assert_whole(run, 2)
        assert run.checkpoint(run.best(), []).name == BEST


def test_what_a_driver_did_not_live_to_send_is_let_go(runs, monkeypatch):
    run = at(runs)
    drive(run, space(), monkeypatch)
    rows = run.results.rows()
    (run.folder / "results" / "part-000009.parquet").write_bytes(b"never sent")
    shutil.copy(run.folder / "results" / "part-000004.parquet", run.folder / "results" / "part-000005.parquet")
    drive(run, space(), monkeypatch)
    assert run.results.rows() == rows


def test_a_machine_brings_the_reference_once(runs, move):
    run = at(runs)
    run.place.put("reference.safetensors", b"the yardstick")
    move("there")
    path = workplace_module.reference_of(run.place.uri, "/elsewhere")
    first = path.stat()
    assert path.read_bytes() == b"the yardstick"
    assert workplace_module.reference_of(run.place.uri, "/elsewhere").stat().st_ino == first.st_ino
    assert workplace_module.reference_of("", str(path)) == path


# Who drives


def held_by(place, **changes):
    now = time.time()
    values = {"id": "other", "host": "elsewhere", "processes": "pid:[1]", "pid": 7, "began": now, "beat": now}
    values |= changes
    place.put(FILE, json.dumps(values).encode())
    return Holder(**values)


def test_a_driver_of_another_machine_is_told_of_and_until_when_to_wait(runs):
    run = at(runs)
    other = held_by(run.place)
    until = time.strftime("%H:%M:%S", time.localtime(other.beat + STALE_SECONDS))
    with pytest.raises(RunError, match=rf"elsewhere \(process 7, since .*is free at {until}"):
        run.lock()
    assert run.driven()
    assert Run(run.folder).driven() is False  # its lock was let go


@pytest.mark.parametrize(
    "changes",
    [
        {"beat": time.time() - STALE_SECONDS},
        {"host": platform.node(), "processes": lease_module._processes(), "pid": 2**22 + 1},
    ],
    ids=["it has been silent", "its process is gone"],
)
def test_a_dead_driver_s_run_is_taken_over(runs, changes):
    run = at(runs)
    held_by(run.place, **changes)
    assert not run.driven()
    with driven(run):
        assert json.loads(run.place.get(FILE))["host"] == platform.node()
    assert run.place.stored(FILE) is None


def test_a_driver_whose_run_was_taken_over_sends_nothing_more(runs, monkeypatch):
    run = at(runs)
    with driven(run):
        run.begin(space())
        before = run.place.files()
        held_by(run.place)
        monkeypatch.setattr(lease_module, "STALE_SECONDS", 0.0)  # it has not been heard of for long
        monkeypatch.setattr(Holder, "alive", True)
        with pytest.raises(RunError, match="elsewhere"):
            run.settle("fid", "key")
    after = run.place.files()
    assert after.pop(FILE)
    before.pop(FILE)
    assert after == before


def test_a_lease_is_rewritten_while_its_driver_lives(runs, monkeypatch):
    monkeypatch.setattr(lease_module, "BEAT_SECONDS", 0.02)
    place = runs / "tiny"
    with Lease(place):
        first = json.loads(place.get(FILE))
        until = time.monotonic() + 10
        while json.loads(place.get(FILE))["beat"] == first["beat"]:
            assert time.monotonic() < until
            time.sleep(0.01)
    assert place.stored(FILE) is None


def test_several_drivers_of_a_run_at_a_place_are_refused(runs):
    from gantune.driver.search import search

    with pytest.raises(SpecError, match=r"--storage: .*need locks"):
        search(space(), at(runs), Screen(io.StringIO()), storage="postgresql+psycopg://me@127.0.0.1:1/none")


# Storages that do not answer, or refuse


class Failing(LocalFileSystem):
    """Fails so many times, then answers."""

    def __init__(self, times, words="AWS Error NETWORK_CONNECTION during PutObject operation"):
        super().__init__()
        self.times, self.words = times, words

    def open_input_stream(self, path):
        self.times -= 1
        if self.times >= 0:
            raise OSError(self.words)
        return super().open_input_stream(path)


@pytest.fixture
def failing(runs):
    """A place with one file, whose file system fails."""
    runs.put("file", b"content")

    def make(times, patience, **values):
        return Place(runs.uri, filesystem=Failing(times, **values), patience=patience)

    return make


def test_a_storage_that_is_away_is_waited_for_and_told_of_once(failing):
    said = []
    assert failing(5, Patience(60.0, said.append)).get("file") == b"content"
    assert [text.partition("bucket/runs ")[2].split(";")[0].split(",")[0] for text in said] == [
        "does not answer",
        "answers again",
    ]


def test_an_answer_that_is_long_in_coming_is_told_of_meanwhile(failing, monkeypatch):
    monkeypatch.setattr(storage, "SECONDS_UNTIL_TOLD", 0.01)
    said = []
    patience = Patience(60.0, said.append)
    with patience.watching("it"):
        until = time.monotonic() + 10
        while not said:
            assert time.monotonic() < until
            time.sleep(0.01)
    patience.answered()
    assert len(said) == 2


def test_a_storage_that_stays_away_is_a_clear_error(failing):
    with pytest.raises(AwayError, match=r"does not answer: AWS Error NETWORK_CONNECTION.*the same command continues"):
        failing(10**6, Patience(0.05)).get("file")
    with pytest.raises(AwayError):
        failing(1, Patience()).get("file")  # a reader does not wait


def test_what_is_refused_is_not_waited_for_and_told_without_secrets(failing):
    words = f"AWS Error ACCESS_DENIED: no key {SECRETS['AWS_SECRET_ACCESS_KEY']} for {SECRETS['AWS_ACCESS_KEY_ID']}"
    with pytest.raises(StorageError, match=r"no key \*\*\* for \*\*\*"):
        failing(1, Patience(60.0), words=words).get("file")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s3://AKIDAKID:hushhush@bucket/runs", "before an `@`.*AWS_SECRET_ACCESS_KEY"),
        ("s3://AKIDAKID@bucket/runs", "before an `@`"),
        ("gs://me:hushhush@bucket/runs", "before an `@`"),
        ("s3://bucket/runs?access_key=hushhush", "`access_key`.*AWS_ACCESS_KEY_ID"),
        ("s3://bucket/runs?secret_key=hushhush", "`secret_key`"),
        ("s3://bucket/runs?region=x&session_token=hushhush", "`session_token`"),
        ("s3://bucket/runs?colour=red", "unknown option `colour`; there are endpoint_override, scheme, region"),
        ("s3://", "write s3://bucket/prefix"),
    ],
)
def test_a_uri_that_holds_a_secret_or_means_nothing_is_refused(uri, words):
    with pytest.raises(SpecError, match=words) as caught:
        prepare(SPACE, runs=uri)
    assert "hushhush" not in str(caught.value)
    assert "AKIDAKID" not in str(caught.value)


def test_one_place_has_one_name_however_it_is_written():
    first = Place("s3://bucket/runs/?scheme=http&region=us-east-1&endpoint_override=127.0.0.1:1", filesystem=object())
    second = Place("s3://bucket/runs?endpoint_override=127.0.0.1:1&region=us-east-1&scheme=http", filesystem=object())
    assert str(first) == str(second)
    assert first.copy == second.copy
    assert str((first / "tiny").parent) == str(first)
    elsewhere = Place("s3://bucket/runs", filesystem=object())
    assert (elsewhere / "tiny").copy != (first / "tiny").copy


def test_a_file_is_there_whole_or_not_at_all(runs):
    class Full(LocalFileSystem):
        def move(self, source, target):
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        Place(runs.uri, filesystem=Full(), patience=Patience(60.0)).put("file", b"content")
    assert runs.stored("file") is None
    runs.put("file", b"first")
    runs.put("file", b"second")
    assert runs.get("file") == b"second"
    runs.remove(["file", "never there"])
    assert runs.stored("file") is None


def test_the_server_of_a_bucket_is_that_of_the_uri_or_else_of_the_environment(monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    assert storage._endpoint({}) == (None, None)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://general:1")
    assert storage._endpoint({}) == ("general:1", "https")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://store:2")
    assert storage._endpoint({}) == ("store:2", "http")
    assert storage._endpoint({"endpoint_override": "told:3", "scheme": "http"}) == ("told:3", "http")
