"""Runs on S3: moto's server on the loopback, a switch before it that goes off, and real searches.

moto wants an older dateutil than the one pinned here, so it lives in an environment of its own: tests/moto.txt.
"""

import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace

import optuna
import pytest
from made_runs import make_run
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from gantune import mirror as mirror_module
from gantune.api import open_run
from gantune.errors import StorageError
from gantune.following import Follower
from gantune.lease import Lease
from gantune.listing import entries
from gantune.results import ENDED
from gantune.storage import Patience, Place

MOTO = shutil.which("moto_server")
SECRETS = {"AWS_ACCESS_KEY_ID": "AKIDofthistest", "AWS_SECRET_ACCESS_KEY": "secretofthistest"}
BUCKET = "lab"
SPACE = """
version: 1
name: tiny
data: {dataset: digits, size: 8}
objective: {samples: {report: 300, final: 300}, reports: 5}
budget: {trials: 5, samples_per_trial: 20_000}
search: {scheduler: {asha: {first_rung: 0.4, reduction: 2}}}
space:
  architecture: {mlp: {hidden: [32, 64]}}
  loss: [non_saturating, hinge]
  optimizer: adam
  lr_g: log 1e-4..1e-2
  batch_size: [32, 64]
"""

pytestmark = pytest.mark.skipif(MOTO is None, reason="moto_server is not on the PATH; see tests/moto.txt")


class Switch:
    """Passes connections on to a server; switched off it refuses them and cuts those that are open."""

    def __init__(self, target):
        self._target = target
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._listener = None
        self._open = []

    def on(self):
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def off(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in [*self._open]:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener):
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near):
        with near, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as far:
            self._open += [near, far]
            back = threading.Thread(target=self._pass_on, args=(far, near), daemon=True)
            back.start()
            self._pass_on(near, far)
            back.join()
            for each in (near, far):
                self._open.remove(each)

    @staticmethod
    def _pass_on(source, sink):
        with contextlib.suppress(OSError):
            while content := source.recv(65536):
                sink.sendall(content)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module", autouse=True)
def _credentials():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setattr(mirror_module, "SECONDS_BETWEEN_LOOKS", 0.0)
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def server(_credentials, tmp_path_factory):
    """The port of an S3 with a bucket."""
    from pyarrow.fs import S3FileSystem

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("moto") / "log"
    with log.open("w") as stream:
        process = subprocess.Popen([MOTO, "-H", "127.0.0.1", "-p", str(port)], stdout=stream, stderr=stream)
    try:
        until = time.monotonic() + 120
        while True:
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert time.monotonic() < until
            time.sleep(0.1)
        options = {"endpoint_override": f"127.0.0.1:{port}", "scheme": "http", "region": "us-east-1"}
        S3FileSystem(allow_bucket_creation=True, **options).create_dir(BUCKET)
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def switch(server):
    made = Switch(server)
    made.on()
    yield made
    with contextlib.suppress(OSError):
        made.off()


def uri(port, name):
    return f"s3://{BUCKET}/{name}?endpoint_override=127.0.0.1:{port}&region=us-east-1&scheme=http"


def test_files_come_back_as_they_went(server):
    place = Place(uri(server, "files"))
    place.put("a/b/one", b"first")
    place.put("a/b/one", content := bytes(range(256)) * 20_000)
    place.put("a/two", b"")
    assert place.get("a/b/one") == content
    assert place.get("a/two") == b""
    assert {name: stored.size for name, stored in place.files("a").items()} == {"a/b/one": len(content), "a/two": 0}
    assert (place / "a").folders() == ["b"]
    assert [*place.stored_each(["a/two", "none"])] == ["a/two"]
    place.remove(["a/b/one", "none"])
    assert place.stored("a/b/one") is None
    with pytest.raises(FileNotFoundError):
        place.get("a/b/one")


def test_a_bucket_that_does_not_exist_is_told_at_once(server):
    started = time.monotonic()
    with pytest.raises(StorageError, match="NO_SUCH_BUCKET"):
        Place(uri(server, "x").replace(BUCKET, "nowhere"), patience=Patience(60.0)).put("file", b"")
    assert time.monotonic() - started < 30


def test_a_server_that_goes_away_and_comes_back_is_waited_for(switch):
    place = Place(uri(switch.port, "away"), patience=Patience(60.0))
    place.put("file", b"before")
    switch.off()
    threading.Timer(2.0, switch.on).start()
    place.put("file", b"after")
    assert place.get("file") == b"after"


def test_a_reader_sees_a_run_there_and_who_drives_it(server, tmp_path, monkeypatch):
    monkeypatch.setenv("GANTUNE_CACHE", str(tmp_path / "reader"))
    made, runs = make_run(tmp_path, trials=4, weights=False), Place(uri(server, "seen"))
    place = runs / "made"
    for path in made.folder.rglob("*"):
        if path.is_file():
            place.put(str(path.relative_to(made.folder)), path.read_bytes())
    follower = Follower(open_run(place.uri))
    assert follower.look().state == "stopped"
    with Lease(place):
        view = follower.look()
        (entry,) = entries(runs)
    assert [(driver.host, driver.pid) for driver in view.drivers] == [(platform.node(), os.getpid())]
    made.results.append(replace(made.results.rows()[-1], state="finished", run_seconds=10_000.0))
    (part,) = {path.name for path in (made.folder / "results").iterdir()} - {
        name[8:] for name in place.files("results")
    }
    place.put(f"results/{part}", (made.folder / "results" / part).read_bytes())
    later = follower.look().situation
    assert later.done == view.situation.done + 1
    assert (entry.shown_state, entry.best, entry.done) == ("searching here", view.situation.best, view.situation.done)


# Real searches


def command(folder, cache, *arguments):
    environment = {**os.environ, **SECRETS, "GANTUNE_CACHE": str(cache), "AWS_EC2_METADATA_DISABLED": "true"}
    return {"args": [sys.executable, "-m", "gantune", *arguments], "cwd": folder, "env": environment}


def wait_for(process, condition, seconds=240):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the search ended before it could be interrupted"
        assert time.monotonic() < until, "the search did not get that far"
        time.sleep(0.05)


def reports(place):
    """How many rows lie there."""
    with contextlib.suppress(Exception):  # it is being made
        return len(open_run(place).results.rows())
    return 0


def assert_whole(run, trials):
    rows = run.results.rows()
    ends = Counter(row.trial for row in rows if row.state in ENDED)
    assert ends == dict.fromkeys(range(trials), 1)
    assert max(Counter((row.trial, row.samples_seen) for row in rows if row.state == "running").values()) == 1
    storage = JournalStorage(JournalFileBackend(str(run.files.fetch(run.study_path))))
    assert {trial.state for trial in optuna.load_study(study_name=None, storage=storage).trials} <= {
        TrialState.COMPLETE,
        TrialState.PRUNED,
    }


def test_a_search_whose_machine_is_lost_is_continued_from_another(server, tmp_path, monkeypatch):
    runs = uri(server, "killed")
    place = str(Place(runs) / "tiny")
    (tmp_path / "tiny.yaml").write_text(SPACE)
    monkeypatch.setenv("GANTUNE_CACHE", str(tmp_path / "reader"))
    arguments = ("search", "tiny.yaml", "--runs", runs)
    first = subprocess.Popen(**command(tmp_path, tmp_path / "lost", *arguments), start_new_session=True)
    wait_for(first, lambda: reports(place) >= 4)
    os.killpg(first.pid, signal.SIGKILL)  # the driver, Ray and its workers: a machine that lost its power
    first.wait()
    before = open_run(place).results.rows()
    done = subprocess.run(
        **command(tmp_path, tmp_path / "fresh", *arguments), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"continuing {place}" in done.stderr
    run = open_run(place)
    assert run.results.rows()[: len(before)] == before
    assert_whole(run, 5)
    best = run.best()
    assert run.weights(run.checkpoint(best, [])).stat().st_size > 0
    seen = [path for path in tmp_path.rglob("*") if path.is_file()]
    texts = [path.read_bytes() for path in seen] + [run.place.get(name) for name in run.place.files()]
    assert not [secret for secret in SECRETS.values() for text in texts if secret.encode() in text]


def test_a_server_that_is_stopped_in_the_middle_ends_nothing_and_loses_nothing(switch, tmp_path, monkeypatch):
    runs = uri(switch.port, "stopped")
    place = str(Place(runs) / "tiny")
    (tmp_path / "tiny.yaml").write_text(SPACE)
    monkeypatch.setenv("GANTUNE_CACHE", str(tmp_path / "reader"))
    log = tmp_path / "log"
    with log.open("w") as stream:
        wish = command(tmp_path, tmp_path / "driver", "search", "tiny.yaml", "--runs", runs)
        process = subprocess.Popen(**wish, stderr=stream, start_new_session=True)
    try:
        wait_for(process, lambda: reports(place) >= 3)
        switch.off()
        time.sleep(12)  # longer than the driver is silent about it
        assert process.poll() is None
        switch.on()
        assert process.wait(timeout=300) == 0, log.read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    told = log.read_text()
    assert told.count("does not answer") == told.count("answers again") == 1, told
    assert_whole(open_run(place), 5)
    assert json.loads(open_run(place).place.get("manifest.json"))["sessions"][1:] == []
