"""What is told of every row: TensorBoard's files, and trackers through Tune's own callbacks."""

import json
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import ray
from click.testing import CliRunner
from made_runs import make_run
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from tensorboardX.record_writer import masked_crc32c
from test_ledger import Books

from gantune.api import search
from gantune.cli.main import cli
from gantune.driver import trackers as trackers_module
from gantune.driver.connection import connected
from gantune.driver.tensorboard import TensorBoard
from gantune.driver.trackers import Trackers, check_trackers
from gantune.errors import SpecError
from gantune.mirror import Mirror
from gantune.progress import Progress
from gantune.results import Row
from gantune.run import Run
from gantune.storage import Place

CONFIG = {"loss": "hinge", "lr_g": 1e-3, "architecture.mlp.hidden": 64, "precision": None}


def row(trial=0, samples=1000, state="running", score=20.0, **values):
    given = {"metrics": {"recall": 0.5, "in_force.lr_g": 1e-3}, "config": json.dumps(CONFIG), "cause": ""} | values
    return Row(
        trial=trial,
        state=state,
        samples_seen=samples,
        score=score,
        best_score=score,
        seed=1,
        verdict="healthy",
        evidence={},
        trial_seconds=2.0,
        run_seconds=samples / 100,
        **given,
    )


def events(folder):
    """Every event below a folder, file by file; what a torn record begins is not read."""
    found = []
    for path in sorted(Path(folder).glob("*")):
        content = path.read_bytes()
        while len(content) >= 12:
            (length,) = struct.unpack("<Q", content[:8])
            if len(content) < length + 16:
                break
            data = content[12 : 12 + length]
            assert struct.unpack("<I", content[8:12]) == (masked_crc32c(content[:8]),)
            assert struct.unpack("<I", content[12 + length : 16 + length]) == (masked_crc32c(data),)
            found.append(Event.FromString(data))
            content = content[16 + length :]
    return found


def scalars(folder, tag):
    return [
        (event.step, value.simple_value)
        for event in events(folder)
        for value in event.summary.value
        if value.tag == tag and value.WhichOneof("value") == "simple_value"
    ]


def float32(value):
    return float(np.float32(value))


def tagged(folder, tag):
    return [value for event in events(folder) for value in event.summary.value if value.tag == tag]


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "runs" / "tiny")
    run.folder.mkdir(parents=True)
    return run


def test_every_report_of_a_trial_is_a_point_of_its_series(tmp_path):
    made = make_run(tmp_path, trials=4, weights=False)
    board, seen = TensorBoard(made), {}
    for each in made.results.rows():
        board.note(each, each.samples_seen > seen.get(each.trial, 0))
        seen[each.trial] = each.samples_seen
    assert sorted(path.name for path in (made.folder / "tensorboard").iterdir()) == ["0000", "0001", "0002", "0003"]
    for trial in range(4):
        own = [each for each in made.results.rows() if each.trial == trial]
        folder = made.folder / "tensorboard" / f"{trial:04d}"
        assert scalars(folder, "score") == [(each.samples_seen, float32(each.score)) for each in own]
        recall = [(each.samples_seen, float32(each.metrics["recall"])) for each in own]
        assert scalars(folder, "metrics/recall") == recall
        pictures = tagged(folder, "samples")
        drawn = made.trial_folder(trial) / f"samples-{own[0].samples_seen:012d}.png"
        assert pictures[0].image.encoded_image_string == drawn.read_bytes()
        assert len(pictures) == len(own)


def test_hyperparameters_are_those_of_the_trial_and_its_end_is_told(run):
    board = TensorBoard(run)
    board.note(row(), True)
    board.note(row(samples=2000, state="collapsed", cause="mode collapse"), True)
    folder = run.folder / "tensorboard" / "0000"
    (start,) = tagged(folder, "_hparams_/session_start_info")
    told = HParamsPluginData.FromString(start.metadata.plugin_data.content).session_start_info.hparams
    assert told["lr_g"].number_value == 1e-3
    assert told["loss"].string_value == "hinge"
    assert told["precision"].string_value == "none"
    assert len(tagged(folder, "_hparams_/session_end_info")) == 1
    (end,) = tagged(folder, "end/text_summary")
    assert b"mode collapse" in end.tensor.string_val[0]


def test_trial_that_is_woken_and_continued_by_another_session_goes_on_in_its_series(tmp_path):
    books = Books(tmp_path)
    books.run.folder.mkdir(parents=True)
    for session in range(3):
        ledger = books.open()
        trackers = Trackers(books.run, (), print)
        trackers._board._file += str(session)  # of one process and second
        ledger.watch = trackers.note
        assert ledger.next().number == 0
        books.keep(0)
        for samples in range(max(100, 200 * session - 100), 200 * (session + 1), 100):  # the last report comes again
            ledger.record(0, Progress(samples_seen=samples, score=5.0, best_score=5.0, metrics={}), stopped=False)
    ledger.record(0, Progress(samples_seen=600, score=4.0, best_score=4.0, metrics={}, state="finished"), stopped=False)
    folder = books.run.folder / "tensorboard" / "0000"
    assert [step for step, _ in scalars(folder, "score")] == [100, 200, 300, 400, 500, 600]
    assert len(tagged(folder, "_hparams_/session_start_info")) == 1


def test_end_without_new_samples_adds_no_point(tmp_path):
    books = Books(tmp_path)
    books.run.folder.mkdir(parents=True)
    ledger = books.open()
    with Trackers(books.run, (), print) as trackers:
        ledger.watch = trackers.note
        ledger.next()
        ledger.record(0, Progress(samples_seen=100, score=5.0, best_score=5.0, metrics={}), stopped=False)
        ledger.withdraw(0, "enough")
    folder = books.run.folder / "tensorboard" / "0000"
    assert scalars(folder, "score") == [(100, 5.0)]
    assert len(tagged(folder, "_hparams_/session_end_info")) == 1


def test_nothing_is_held_open_and_all_can_be_read_after_a_kill(run):
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_trackers import TensorBoard, Run, row
board = TensorBoard(Run(Path({str(run.folder)!r})))
for trial in range(300):
    board.note(row(trial), True)
assert len(os.listdir("/proc/self/fd")) < 40, os.listdir("/proc/self/fd")
os.kill(os.getpid(), 9)
"""
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc tells which files are open")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    assert all(scalars(folder, "score") == [(1000, 20.0)] for folder in (run.folder / "tensorboard").iterdir())
    assert len(list((run.folder / "tensorboard").iterdir())) == 300


def test_disk_that_is_full_costs_no_result_and_is_told_of_once(tmp_path):
    books, said = Books(tmp_path), []
    books.run.folder.mkdir(parents=True)
    ledger = books.open()
    trackers = Trackers(books.run, (), said.append)
    ledger.watch = trackers.note
    (books.run.folder / "tensorboard").write_text("in the way")
    ledger.next()
    for samples in (100, 200):
        ledger.record(0, Progress(samples_seen=samples, score=5.0, best_score=5.0, metrics={}), stopped=False)
    assert [each.samples_seen for each in books.run.results.rows()] == [100, 200]
    assert len(said) == 1
    assert "the results are" in said[0]


def test_run_at_a_uri_has_a_trial_when_it_rests_or_ends_and_drivers_do_not_fetch_it(tmp_path, monkeypatch):
    monkeypatch.setenv("GANTUNE_CACHE", str(tmp_path / "cache"))
    place = Place(f"file://{tmp_path}/store/tiny")
    run = Run(tmp_path / "copy" / "tiny", place)
    run.folder.mkdir(parents=True)
    board = TensorBoard(run)
    board.note(row(), True)
    there = tmp_path / "store" / "tiny" / "tensorboard" / "0000"
    assert not there.exists()
    board.note(row(samples=2000, state="paused"), True)
    assert scalars(there, "score") == [(1000, 20.0), (2000, 20.0)]
    other = Mirror(tmp_path / "other" / "tiny", place)
    other.take()
    assert not (tmp_path / "other" / "tiny" / "tensorboard").exists()
    assert isinstance(run.files, Mirror)
    run.files.take()
    assert scalars(run.folder / "tensorboard" / "0000", "score")  # what this machine has, it keeps


class Slow:
    """A tracker whose server does not answer."""

    def __init__(self, run):
        self.go = threading.Event()
        Slow.last = self

    def note(self, row, fresh):
        self.go.wait(20)
        raise ConnectionError("no answer")

    def close(self):
        pass


def test_tracker_that_does_not_answer_keeps_nobody_waiting_and_is_told_of_once(run, monkeypatch):
    monkeypatch.setitem(trackers_module.MAKE, "mlflow", Slow)
    said = []
    with Trackers(run, ("mlflow",), said.append) as trackers:
        started = time.monotonic()
        for samples in range(50):
            trackers.note(row(samples=samples), True)
        assert time.monotonic() - started < 5
        assert said == []
        Slow.last.go.set()
        (telling,) = trackers._telling
        telling.join(5)
        trackers.note(row(samples=51), True)
        trackers.note(row(samples=52), True)
    assert said == ["mlflow is not told any more: ConnectionError: no answer; the results have it all"]


def test_tracker_that_is_still_slow_at_the_end_is_left(run, monkeypatch):
    monkeypatch.setitem(trackers_module.MAKE, "mlflow", Slow)
    monkeypatch.setattr(trackers_module, "PATIENCE_SECONDS", 0.05)
    said = []
    with Trackers(run, ("mlflow",), said.append) as trackers:
        trackers.note(row(), True)
    assert said == ["mlflow is slow and lacks the last reports; the results have them"]
    Slow.last.go.set()


def test_second_ctrl_c_waits_for_no_tracker(run, monkeypatch):
    monkeypatch.setitem(trackers_module.MAKE, "mlflow", Slow)
    started = time.monotonic()
    trackers = Trackers(run, ("mlflow",), print)
    trackers.note(row(), True)
    with pytest.raises(KeyboardInterrupt), trackers:
        raise KeyboardInterrupt
    assert time.monotonic() - started < 10
    Slow.last.go.set()


def test_tracker_that_is_not_installed_stops_a_search_before_it_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers_module.importlib.util, "find_spec", lambda name: None)
    parameters = {"loss": "hinge", "architecture": "mlp", "optimizer": "adam", "lr_g": "log 1e-4..1e-3"}
    space = {"version": 1, "name": "x", "data": {"dataset": "digits"}, "space": parameters}
    with pytest.raises(SpecError, match=r"pip install 'gantune\[wandb\]'"):
        search(space, runs=tmp_path / "runs", track=["wandb"])
    with pytest.raises(SpecError, match="pip install aim"):
        search(space, runs=tmp_path / "runs", track="aim")
    assert not (tmp_path / "runs").exists()


def test_unknown_tracker_is_refused_with_the_nearest_one():
    with pytest.raises(SpecError, match="did you mean `mlflow`"):
        check_trackers(["mlfow"])
    done = CliRunner().invoke(cli, ["search", "space.yaml", "--track", "tensorbored"])
    assert done.exit_code == 2
    assert "mlflow" in done.output


def test_command_lines_choices_are_the_known_trackers():
    for verb in ("search", "resume"):
        (option,) = [each for each in cli.get_command(None, verb).params if each.name == "track"]
        assert tuple(option.type.choices) == trackers_module.TRACKERS == tuple(trackers_module.MAKE)


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A run that has begun, in whose folder we are."""
    monkeypatch.chdir(tmp_path)
    books = Books(tmp_path)
    books.run.folder.mkdir(parents=True)
    books.run.begin(books.space())
    return books.run


def tell(run, name, rows, said):
    with Trackers(run, (name,), said.append) as trackers:
        for each, fresh in rows:
            run.trial_folder(each.trial).mkdir(parents=True, exist_ok=True)
            trackers.note(each, fresh)


def test_mlflow_has_one_run_a_trial_over_pauses_and_sessions(begun, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{begun.folder}/mlflow.db")
    from mlflow import MlflowClient

    said = []
    rests = row(samples=2000, state="paused", cause="stopped by the scheduler")
    tell(begun, "mlflow", [(row(), True), (row(trial=1), True), (rests, True)], said)
    mutated = json.dumps(CONFIG | {"lr_g": 5e-4})  # as a population's members are
    tell(begun, "mlflow", [(row(samples=3000, score=9.0, state="finished", config=mutated), True)], said)
    assert said == []
    client = MlflowClient()
    experiment = client.get_experiment_by_name("tiny").experiment_id
    runs = {each.info.run_name: each for each in client.search_runs([experiment])}
    assert [*sorted(runs)] == ["tiny/0000", "tiny/0001"]
    first = runs["tiny/0000"]
    assert first.data.params == {name: str(value) for name, value in CONFIG.items()}
    history = client.get_metric_history(first.info.run_id, "score")
    assert [(point.step, point.value) for point in history] == [(1000, 20.0), (2000, 20.0), (3000, 9.0)]
    assert first.data.metrics["recall"] == 0.5
    assert first.data.tags["state"] == "finished"
    assert first.data.tags["cause"] == ""
    assert first.info.status == "FINISHED"
    assert runs["tiny/0001"].info.status == "RUNNING"


class FakeAim:
    """Aim's Run, as far as Tune's callback uses it."""

    made: list["FakeAim"] = []  # noqa: RUF012

    def __init__(self, *, repo, experiment, run_hash=None):
        before = [made for made in FakeAim.made if made.hash == run_hash]
        self.hash = run_hash or f"run-{len(FakeAim.made)}"
        self.values, self.tracked, self.closed = {}, before[0].tracked if before else [], False
        if before:
            FakeAim.made.remove(before[0])
        FakeAim.made.append(self)

    def __setitem__(self, name, value):
        self.values[name] = value

    def track(self, *, value, name, step, epoch, context):
        assert not self.closed
        self.tracked.append((name, step, value))

    def close(self):
        self.closed = True


def test_aim_has_one_run_a_trial_and_session(begun, monkeypatch):
    from ray.tune.logger import aim

    monkeypatch.setattr(aim, "Run", FakeAim)
    FakeAim.made.clear()
    said = []
    rests = row(samples=2000, state="paused")
    tell(begun, "aim", [(row(), True), (rests, True), (row(samples=3000, state="finished"), True)], said)
    assert said == []
    (made,) = FakeAim.made
    assert [step for name, step, _ in made.tracked if name == "ray/tune/score"] == [1000, 2000, 3000]
    assert made.values["hparams"]["architecture.mlp.hidden"] == 64
    assert made.values["gantune"]["state"] == "finished"
    assert made.closed


def records(path):
    """The records of a file of wandb's: LevelDB's log, after seven bytes."""
    from wandb.proto import wandb_internal_pb2

    content, at, held = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        held += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(held)
            held = b""


def items(of):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in of}


def test_wandb_has_parameters_series_and_end_of_each_trial_over_pauses(begun, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(trackers_module, "PATIENCE_SECONDS", 240.0)  # a machine may be busy
    said = []
    rests = row(samples=2000, state="paused", cause="stopped by the scheduler")
    ended = row(trial=1, samples=2000, state="collapsed", cause="mode collapse")
    with connected(tmp_path / "ray.log", None):
        tell(begun, "wandb", [(row(), True), (row(trial=1), True), (rests, True), (ended, False)], said)
        tell(begun, "wandb", [(row(samples=3000, state="finished"), True)], said)
    assert said == []
    config, steps, ids = {}, {}, {}
    for path in sorted((begun.folder / "wandb").glob("offline-run-*/*.wandb")):
        name = ""
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                name = record.run.display_name
                ids.setdefault(name, set()).add(record.run.run_id)
                assert record.run.project == "tiny"
                config.setdefault(name, {}).update(items(record.run.config.update))
            elif kind == "config":
                config[name] |= items(record.config.update)
            elif kind == "history":
                steps.setdefault(name, []).append(items(record.history.item)["_step"])
    assert steps == {"tiny/0000": [1000, 2000, 3000], "tiny/0001": [1000, 2000]}
    assert {len(each) for each in ids.values()} == {1}
    assert config["tiny/0000"] | CONFIG | {"state": "finished", "cause": ""} == config["tiny/0000"]
    assert (config["tiny/0001"]["state"], config["tiny/0001"]["cause"]) == ("collapsed", "mode collapse")


def test_wandb_is_told_nothing_where_ray_has_not_started(begun, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    said = []
    tell(begun, "wandb", [(row(state="pruned"), False)], said)
    assert said == []
    assert not ray.is_initialized()
