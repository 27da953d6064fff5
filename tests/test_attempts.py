"""What the books do about trials that crash, lack memory, fail, or cannot be blamed."""

from types import SimpleNamespace

import pytest
from optuna.trial import TrialState
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.tune.experiment import Trial
from test_ledger import Books, progress

from gantune.driver.attempts import FILE, Attempts, read_attempts, write_attempts
from gantune.driver.books import MOST_MOVES
from gantune.driver.deaths import error_of
from gantune.driver.room import placed
from gantune.driver.trainable import fault_of
from gantune.driver.tune import _Asking, _Limit, _machine_lost
from gantune.errors import DataError, PluginError, RunError, ShortOfMemoryError, StorageError
from gantune.packing import Share

DIED = ActorDiedErrorContext(error_message="its node has died", class_name="GanTrainable", actor_id=b"a" * 16)


@pytest.fixture
def books(tmp_path):
    found = Books(tmp_path)
    found.run.folder.mkdir(parents=True)
    return found


def test_a_trial_whose_worker_dies_is_issued_again_before_any_other(books):
    ledger = books.open()
    first, second = ledger.next(), ledger.next()
    assert ledger.crash(first.number, "its worker died") is None
    assert ledger.running == 1
    assert not ledger.complete()
    assert ledger.next() == first
    assert books.rows() == []
    assert ledger.next().number == second.number + 1


@pytest.mark.parametrize("retries", [0, 2])
def test_a_trial_that_kills_every_worker_fails_after_its_retries_over_all_sessions(books, retries):
    ended = []
    for session in range(retries + 1):  # each session dies after one crash
        assert ended == []
        ledger = books.open(f"search.retries={retries}")
        assert ledger.next().number == 0
        row = ledger.crash(0, "its worker died")
        ended += [] if row is None else [row]
        assert (row is None) == (session < retries)
    assert ended[0].state == "failed"
    assert ended[0].cause == f"its worker died (after {retries} retries; see ray.log)"


def test_a_trial_whose_machine_is_lost_goes_on_and_that_is_no_crash(books):
    ledger = books.open("search.retries=0")
    first = ledger.next()
    for _ in range(MOST_MOVES):
        assert ledger.move(0, "the machine of #0 was lost") is None
        assert ledger.next() == first
    assert read_attempts(ledger.folder(0)) == Attempts(moves=MOST_MOVES)
    row = ledger.move(0, "the machine of #0 was lost")
    assert (row.state, row.cause) == (
        "failed",
        "the machine of #0 was lost (with 20 others before, under this trial; see ray.log)",
    )


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("The actor died because its node has died. Node Id: 1f The raylet died unexpectedly", True),
        ("The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR", False),
    ],
)
def test_a_lost_machine_is_told_from_a_worker_that_died(text, lost):
    context = ActorDiedErrorContext(error_message=text, class_name="GanTrainable", actor_id=b"a" * 16)
    assert _machine_lost(ActorDiedError(context)) is lost
    assert not _machine_lost(ActorDiedError())
    assert not _machine_lost(None)


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (ActorDiedError(cause=DIED), ActorDiedError),
        (OutOfMemoryError("1 worker(s) were killed due to the node running low on memory"), OutOfMemoryError),
        (ValueError("its node has died"), RuntimeError),
    ],
)
def test_what_tune_knows_of_an_error_is_known_while_the_trial_ends(tmp_path, error, known):
    trial = Trial("GanTrainable", stub=True, storage=SimpleNamespace(trial_driver_staging_path=str(tmp_path)))
    assert error_of(trial) is None
    trial.handle_error(error)
    assert type(error_of(trial)) is known
    assert str(error) in str(error_of(trial))
    assert _machine_lost(error_of(trial)) is (known is ActorDiedError)


def test_a_failed_trial_is_tried_again_once_a_session_and_told_once(books):
    first = books.open("budget.trials=1")
    first.next()
    first.record(0, progress(100, 9.0, "running"), stopped=False)
    assert first.fail(0, "no such file").state == "failed"
    assert first.next() is None  # not in this session
    assert first.complete()
    assert books.trials()[0].state == TrialState.RUNNING

    books.keep(0)
    second = books.open("budget.trials=1")
    assert not second.complete()
    assert sum(second.ended.values()) == 0
    assert second.next().number == 0
    assert second.record(0, progress(100, 9.0, "running"), stopped=False) is None
    second.record(0, progress(600, 5.0), stopped=True)
    assert second.complete()
    second.settle()
    assert books.trials()[0].state == TrialState.COMPLETE
    assert [row.state for row in books.rows()] == ["running", "failed", "finished"]
    assert [(trial.state, trial.best_score) for trial in books.run.trials()] == [("finished", 5.0)]
    assert books.open("budget.trials=1").ended == {"finished": 1}


@pytest.mark.parametrize("by", ["settle", "close"])
def test_what_failed_is_told_at_the_end_of_the_search(books, by):
    ledger = books.open("budget.trials=1")
    ledger.next()
    ledger.fail(0, "no such file")
    ledger = books.open("budget.trials=1")
    if by == "settle":
        ledger.next()
        ledger.fail(0, "still no such file")
        ledger.settle()
    else:
        ledger.close("budget.hours is used up")
    assert books.trials()[0].state == TrialState.FAIL
    assert ledger.ended == {"failed": 1}
    again = books.open("budget.trials=1")
    assert again.complete()
    assert again.next() is None


def test_a_trial_short_of_memory_goes_on_in_twice_as_many_chunks_until_they_are_too_small(books):
    ledger = books.open("space.batch_size=16")
    asking = _Asking(ledger, books.run, Share(cpus=1, gpus=0.25), SimpleNamespace(asked=False))
    told = []
    for _ in range(4):
        config = asking.suggest("any")
        assert config["number"] == 0
        told.append((config["micro_batches"], config["alone"]))
        row = ledger.lack_memory(0, "out of memory with every batch in 8 chunks; lower batch_size or the width")
    assert told == [(1, False), (2, True), (4, True), (8, True)]
    assert row.state == "failed"
    assert "lower batch_size" in row.cause


def test_a_session_knows_how_many_chunks_the_one_before_came_to(books):
    ledger = books.open()
    ledger.next()
    ledger.lack_memory(0, "out of memory")
    again = books.open()
    assert (
        _Asking(again, books.run, Share(cpus=1, gpus=0), SimpleNamespace(asked=False)).suggest("any")["micro_batches"]
        == 2
    )


def test_who_is_short_of_memory_has_a_gpu_to_itself():
    assert placed(Share(cpus=1, gpus=0.25), {"alone": True}).required_resources == {"CPU": 1, "GPU": 1}
    assert placed(Share(cpus=1, gpus=0.25), {"alone": False}).required_resources == {"CPU": 1, "GPU": 0.25}
    assert placed(Share(cpus=1, gpus=2), {"alone": True}).required_resources == {"CPU": 1, "GPU": 2}
    assert placed(Share(cpus=1, gpus=0), {"alone": True}).required_resources.get("GPU", 0) == 0


def test_a_fault_of_the_machine_stops_the_search_and_leaves_the_trial_open(books):
    ledger = books.open()
    first = ledger.next()
    ledger.halt("trials/0000: cannot be written: No space left on device")
    assert ledger.next() is None
    assert _Limit(ledger, SimpleNamespace(stop=False), SimpleNamespace(asked=False)).stop_all()
    assert "No space left on device; nothing is lost: mend it, and the same command continues" in ledger.stuck()
    assert books.rows() == []
    assert not ledger.complete()
    again = books.open()
    assert again.stuck() == ""
    assert again.next() == first


def test_what_is_out_is_taken_back_in_order_where_ray_is_gone(books):
    ledger = books.open()
    proposals = [ledger.next() for _ in range(2)]
    ledger.recall()
    assert ledger.running == 0
    assert [ledger.next() for _ in range(2)] == proposals


def test_attempts_that_cannot_be_read_are_none_and_that_cannot_be_written_are_an_error(tmp_path):
    write_attempts(tmp_path, Attempts(crashes=2, micro_batches=4))
    assert read_attempts(tmp_path) == Attempts(crashes=2, micro_batches=4)
    (tmp_path / FILE).write_text('{"crashes"')
    assert read_attempts(tmp_path) == Attempts()
    with pytest.raises(RunError, match="cannot be written"):
        write_attempts(tmp_path / FILE / "below a file", Attempts())


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (ShortOfMemoryError("out of memory"), "memory"),
        (StorageError("disk full"), "machine"),
        (OSError(28, "No space left on device"), "machine"),
        (DataError("gone"), "machine"),
        (PluginError("no such shape"), "configuration"),
    ],
)
def test_an_error_is_its_configurations_or_its_machines(error, fault):
    assert fault_of(error) == fault


def test_a_confirmation_is_issued_again_too(books):
    from gantune.driver.confirmation import Confirmation

    ledger = books.open("budget.trials=1")
    ledger.record(ledger.next().number, progress(600, 5.0), stopped=True)
    space = books.space("budget.trials=1", "confirm.top=1", "confirm.seeds=2")
    confirmation = Confirmation(books.run, space)
    first = confirmation.next()
    assert confirmation.crash(first.number, "its worker died") is None
    assert confirmation.next() == first
    assert confirmation.fail(first.number, "no such file").state == "failed"
    again = Confirmation(books.run, space)
    assert not again.complete()
    assert again.next() == first


def test_a_budget_that_ends_before_a_finalist_begins_leaves_no_trace_of_it(books):
    from gantune.driver.confirmation import Confirmation

    ledger = books.open("budget.trials=1")
    ledger.record(ledger.next().number, progress(600, 5.0), stopped=True)
    space = books.space("budget.trials=1", "confirm.top=1", "confirm.seeds=2")
    confirmation = Confirmation(books.run, space)
    first, second = confirmation.next(), confirmation.next()
    confirmation.record(first.number, progress(300, 6.0, "running"), stopped=False)
    left = (".best.safetensors.6085.partial", "collapse.png", "samples-000000000300.png")
    for name in left:  # by a worker that was killed before its first report
        (confirmation.folder(second.number) / name).write_bytes(b"half")
    confirmation.close("the time budget is used up")
    assert [row.state for row in books.rows() if row.repeat] == ["running", "paused"]
    assert confirmation.folder(first.number).exists()
    assert not confirmation.folder(second.number).exists()
    assert Confirmation(books.run, space).next() == first
