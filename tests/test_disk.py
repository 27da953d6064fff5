"""A disk that is full in the middle of a search: one message, nothing lost, and the same command continues."""

import errno
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_ledger import Books, progress

from gantune.driver import storage
from gantune.driver.search import _disk_of
from gantune.errors import RunError

FULL = OSError(errno.ENOSPC, "No space left on device")


def full(*anything, **more):
    raise FULL


@pytest.fixture
def books(tmp_path):
    found = Books(tmp_path)
    found.run.folder.mkdir(parents=True)
    return found


PLACES = {
    "a results part": (pq, "write_table"),
    "the study's journal": (storage._Journal, "append_logs"),
    "any file that is renamed": (os, "replace"),
    "a configuration": (Path, "write_text"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk_is_one_message_and_loses_nothing(books, monkeypatch, place):
    first = books.open()
    proposal = first.next()
    first.record(0, progress(100, 9.0, "running"), stopped=False)
    books.keep(0)
    before = books.rows()
    monkeypatch.setattr(*PLACES[place], full)

    def go_on():
        with _disk_of(books.run):
            first.record(0, progress(200, 8.0, "running"), stopped=False)
            first.next()

    with pytest.raises(RunError, match="No space left on device") as caught:
        go_on()
    assert str(books.run.folder) in str(caught.value)
    monkeypatch.undo()

    again = books.open()
    assert books.rows()[: len(before)] == before
    assert again.next() == proposal
    again.record(0, progress(200, 8.0, "running"), stopped=False)
    again.record(0, progress(600, 7.0), stopped=True)
    assert [row.samples_seen for row in books.rows(0)] == [100, 200, 600]
    assert books.trials()[0].intermediate_values == {100: 9.0, 200: 8.0, 600: 7.0}


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(books, monkeypatch):
    books.open()
    before = books.run.manifest()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunError, match="No space left on device"):
        books.run.begin(books.space())
    monkeypatch.undo()
    assert books.run.manifest() == before


def test_an_error_that_is_no_disks_stays_what_it_is(books):
    with pytest.raises(ConnectionError), _disk_of(books.run):
        raise ConnectionError("refused")
