import contextlib
import random
import shutil
import signal
import string
import subprocess
import sys

import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from gantune import results as results_module
from gantune.errors import RunError
from gantune.results import SCHEMA, Results, Row


def row(trial=0, samples_seen=100, state="running", **values):
    defaults = {
        "score": 10.0,
        "best_score": 9.0,
        "metrics": {"recall": 0.5},
        "seed": 1,
        "config": "{}",
        "cause": "",
        "verdict": "healthy",
        "evidence": {},
        "trial_seconds": 1.0,
        "run_seconds": float(samples_seen),
    }
    return Row(trial=trial, samples_seen=samples_seen, state=state, **{**defaults, **values})


def random_row(rng, index):
    def number():
        return rng.choice([rng.gauss(0, 1), 10 ** rng.uniform(-300, 300), 5e-324, -0.1, 0.0, 1.7976931348623157e308])

    def text():
        return "".join(rng.choice(string.printable + "é漢🙂") for _ in range(rng.randrange(20)))

    def mapping():
        return {text(): number() for _ in range(rng.randrange(4))}

    return row(
        trial=rng.randrange(5),
        samples_seen=index * 2**40,
        state=rng.choice(["running", "finished", "pruned", "collapsed", "failed"]),
        score=rng.choice([None, number()]),
        best_score=rng.choice([None, number()]),
        metrics=mapping(),
        seed=rng.randrange(2**62),
        config=text(),
        cause=text(),
        verdict=text(),
        evidence=mapping(),
        trial_seconds=abs(number()),
        run_seconds=float(index),
    )


def parts(folder):
    return sorted(path.name for path in folder.glob("part-*.parquet"))


@pytest.mark.parametrize("seed", range(3))
def test_rows_come_back_as_they_were(tmp_path, seed):
    rng = random.Random(seed)
    rows = [random_row(rng, index) for index in range(12)]
    results = Results(tmp_path / "results")
    for item in rows:
        results.append(item)
    assert results.rows() == rows
    results.merge()
    assert results.rows() == rows


def test_a_run_without_results_has_no_rows(tmp_path):
    assert Results(tmp_path / "nowhere").rows() == []


def test_each_row_is_seen_by_another_reader_as_soon_as_it_is_written(tmp_path):
    writer, reader = Results(tmp_path), Results(tmp_path)
    for index in range(1, 6):
        writer.append(row(samples_seen=index))
        assert [item.samples_seen for item in reader.rows()] == list(range(1, index + 1))


def test_what_was_written_before_a_kill_is_kept(tmp_path):
    script = f"""
import os, signal
from pathlib import Path
from gantune.results import Results, Row
results = Results(Path({str(tmp_path)!r}))
for index in range(3):
    results.append(Row(trial=index, state="running", samples_seen=1, score=None, best_score=None, metrics={{}}, seed=0,
        config="", cause="", verdict="", evidence={{}}, trial_seconds=0.0, run_seconds=float(index)))
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert [item.trial for item in Results(tmp_path).rows()] == [0, 1, 2]


def test_rows_are_in_the_order_of_the_runs_clock(tmp_path):
    results = Results(tmp_path)
    for seconds in (3.0, 1.0, 2.0):
        results.append(row(samples_seen=int(10 - seconds), run_seconds=seconds))
    assert [item.run_seconds for item in results.rows()] == [1.0, 2.0, 3.0]


def test_a_second_writer_goes_on_where_the_first_stopped(tmp_path):
    Results(tmp_path).append(row(samples_seen=1))
    Results(tmp_path).append(row(samples_seen=2))
    assert parts(tmp_path) == ["part-000000.parquet", "part-000001.parquet"]
    assert len(Results(tmp_path).rows()) == 2


def test_two_writers_that_take_turns_write_over_nothing(tmp_path):
    one, other = Results(tmp_path), Results(tmp_path)
    for index in range(3):
        one.append(row(samples_seen=2 * index, run_seconds=2.0 * index))
        other.append(row(samples_seen=2 * index + 1, run_seconds=2.0 * index + 1))
    assert [item.samples_seen for item in Results(tmp_path).rows()] == [*range(6)]


def test_writing_a_row_does_not_list_the_directory(tmp_path, monkeypatch):
    results = Results(tmp_path)
    results.append(row(samples_seen=1))
    monkeypatch.setattr(Results, "_parts", lambda self: pytest.fail("it was listed"))
    results.append(row(samples_seen=2))


# Merging


def test_merging_keeps_all_rows_in_one_part(tmp_path):
    results = Results(tmp_path)
    for index in range(20):
        results.append(row(trial=index % 3, samples_seen=index))
    before = results.rows()
    results.merge()
    assert len(parts(tmp_path)) == 1
    assert results.rows() == before
    results.append(row(samples_seen=99))
    results.merge()
    assert len(results.rows()) == 21


def test_merging_nothing_or_one_part_changes_nothing(tmp_path):
    results = Results(tmp_path / "results")
    results.merge()
    results.append(row())
    results.merge()
    assert parts(tmp_path / "results") == ["part-000000.parquet"]


def test_parts_are_merged_as_they_pile_up(tmp_path, monkeypatch):
    monkeypatch.setattr(results_module, "MERGE_AT", 5)
    results = Results(tmp_path)
    for index in range(23):
        results.append(row(samples_seen=index))
        assert len(parts(tmp_path)) < 5 + 5  # of one row, and of five
    assert [item.samples_seen for item in results.rows()] == list(range(23))


def test_a_row_is_written_a_few_times_however_many_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(results_module, "MERGE_AT", 3)
    written, write = [], Results._write
    monkeypatch.setattr(Results, "_write", lambda self, rows: (written.extend(rows), write(self, rows)))
    for index in range(81):
        Results(tmp_path).append(row(samples_seen=index))  # also by writers that did not write what they merge
    assert Results(tmp_path).rows() == [row(samples_seen=index) for index in range(81)]
    assert len(parts(tmp_path)) == 1
    assert len(written) == 81 * (1 + 4)


@pytest.mark.parametrize("left", [1, 4, 9])
def test_a_merge_cut_short_counts_each_row_once(tmp_path, left):
    folder, aside = tmp_path / "results", tmp_path / "aside"
    results = Results(folder)
    for index in range(9):
        results.append(row(samples_seen=index))
    before = results.rows()
    shutil.copytree(folder, aside)
    results.merge()
    for name in parts(aside)[-left:]:  # the kill came before these were removed
        shutil.copy(aside / name, folder / name)
    assert results.rows() == before
    results.append(row(samples_seen=9))
    results.merge()
    assert len(parts(folder)) == 1
    assert results.rows() == [*before, row(samples_seen=9)]


def test_a_reader_sees_every_row_even_while_parts_are_merged(tmp_path, monkeypatch):
    writer = Results(tmp_path)
    for index in range(5):
        writer.append(row(samples_seen=index))
    before = writer.rows()
    opening, merged = pq.ParquetFile, []

    def merged_meanwhile(path, **options):
        if not merged:  # after the reader has listed the parts, before it opens the first
            merged.append(True)
            writer.merge()
        return opening(path, **options)

    monkeypatch.setattr(pq, "ParquetFile", merged_meanwhile)
    assert Results(tmp_path).rows() == before


# Damage


def test_what_a_kill_left_half_written_is_ignored_and_written_over(tmp_path):
    results = Results(tmp_path)
    results.append(row(samples_seen=1))
    whole = (tmp_path / "part-000000.parquet").read_bytes()
    (tmp_path / "part-000001.partial").write_bytes(whole[:50])
    (tmp_path / "part-000007.partial").write_bytes(b"")
    assert len(results.rows()) == 1
    results.append(row(samples_seen=2))
    assert [item.samples_seen for item in results.rows()] == [1, 2]


@pytest.mark.parametrize("damage", ["cut", "empty", "zeroed", "text"])
def test_a_damaged_part_is_named(tmp_path, damage):
    results = Results(tmp_path)
    for index in range(3):
        results.append(row(samples_seen=index))
    path = tmp_path / "part-000001.parquet"
    whole = path.read_bytes()
    zeroed = whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :]
    path.write_bytes({"cut": whole[:-20], "empty": b"", "zeroed": zeroed, "text": b"trial,score\n1,2\n"}[damage])
    with pytest.raises(RunError) as caught:
        results.rows()
    assert str(path) in str(caught.value)
    assert "cannot be read" in str(caught.value)


def test_a_flipped_byte_is_told_or_harmless_and_never_another_result(tmp_path):
    results = Results(tmp_path)
    results.append(row(cause="a cause that is long enough to be hit", config='{"lr_g": 0.001}'))
    before = results.rows()
    path = tmp_path / "part-000000.parquet"
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0xA5
        path.write_bytes(damaged)
        with contextlib.suppress(RunError):
            assert results.rows() == before


def test_a_part_with_other_columns_is_named(tmp_path):
    results = Results(tmp_path)
    results.append(row())
    path = tmp_path / "part-000001.parquet"
    pq.write_table(pq.read_table(tmp_path / "part-000000.parquet").drop_columns(["seed"]), path)
    with pytest.raises(RunError) as caught:
        results.rows()
    assert str(path) in str(caught.value)
    assert "other columns" in str(caught.value)


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(tmp_path):
    (tmp_path / "results").write_text("a file in the way")
    results = Results(tmp_path / "results")
    for use in (results.rows, results.news, results.written, lambda: results.append(row())):
        with pytest.raises(RunError, match=f"^{tmp_path}/results: cannot be read: Not a directory; restore it$"):
            use()
    assert Results(tmp_path / "none").rows() == []


def test_results_that_cannot_be_written_say_where(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", refuse)
    with pytest.raises(RunError, match=f"^{tmp_path}/part-000000.parquet: cannot be written: No space left on device;"):
        Results(tmp_path).append(row())


# Other readers


def test_plain_pyarrow_reads_all_parts_as_one_table(tmp_path):
    results = Results(tmp_path)
    for index in range(4):
        results.append(row(trial=index, metrics={"recall": 0.25 * index}, score=None if index == 2 else 1.5))
    table = pyarrow.dataset.dataset(tmp_path, format="parquet").to_table()
    assert table.schema == SCHEMA
    table = table.sort_by("trial")
    assert table["trial"].to_pylist() == [0, 1, 2, 3]
    assert table["score"].to_pylist() == [1.5, 1.5, None, 1.5]
    assert dict(table["metrics"][3].as_py()) == {"recall": 0.75}


def test_plain_pyarrow_reads_what_a_kill_left_behind(tmp_path, monkeypatch):
    results = Results(tmp_path)
    results.append(row())

    def killed(table, where, **options):
        where.write_bytes(b"PAR1 half a part")
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        results.append(row(samples_seen=200))
    assert pyarrow.dataset.dataset(tmp_path, format="parquet").to_table().num_rows == 1
