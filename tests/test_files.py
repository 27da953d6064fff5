import io
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gantune.config import DataConfig, ObjectiveConfig
from gantune.data import data_set, files
from gantune.data.data_set import open_data
from gantune.data.files import differing, hash_files, write_table
from gantune.data.source import Source
from gantune.errors import DataError
from gantune.metrics.reference_file import check_reference

COUNT = 64


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("GANTUNE_CACHE", str(folder))
    return folder


@pytest.fixture
def settled(monkeypatch):
    """Files that have just been written count as old enough to be remembered."""
    monkeypatch.setattr(files, "TICK_NS", -(10**15))


def picture(seed):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)).save(
        stream, "PNG", compress_level=0
    )
    return stream.getvalue()


def write_parquet(path, seeds=range(COUNT)):
    table = pa.table({"image": [{"bytes": picture(seed), "path": None} for seed in seeds]})
    pq.write_table(table, path, compression="none", use_dictionary=False)


def pictures(folder):
    for index in range(COUNT):
        path = folder / "ab"[index % 2] / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(index))
    return folder


def shards(folder):
    folder.mkdir(parents=True)
    write_parquet(folder / "0.parquet", range(40))
    write_parquet(folder / "1.parquet", range(40, COUNT))
    return folder


def one_file(folder):
    folder.mkdir(parents=True)
    write_parquet(folder / "train.parquet")
    return folder / "train.parquet"


def beside(folder):
    """A Parquet file that names its pictures."""
    pictures(folder)
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.png"))]
    cells = pa.array(
        [{"bytes": None, "path": name} for name in names], pa.struct({"bytes": "binary", "path": "string"})
    )
    pq.write_table(pa.table({"image": cells}), folder / "train.parquet")
    return folder / "train.parquet"


KINDS = {"pictures": pictures, "shards": shards, "one file": one_file, "pictures beside": beside}


def opened(path):
    return open_data(DataConfig(dataset=str(path)))


def here(path):
    """The same data by a name that is relative to the working directory."""
    os.chdir(path.parent)
    return path.name


def touch(path):
    for each in [path, *path.parent.rglob("*")]:
        os.utime(each, (1, 1))
    return path


def move(path):
    path.parent.rename(path.parents[1] / "moved")
    return path.parents[1] / "moved" / path.name


def copy(path):
    shutil.copytree(path.parent, path.parents[1] / "copied", copy_function=shutil.copyfile)
    return path.parents[1] / "copied" / path.name


def link(path):
    (path.parents[1] / "linked").symlink_to(path.parent, target_is_directory=True)
    return path.parents[1] / "linked" / path.name


@pytest.mark.parametrize("kind", KINDS)
def test_data_that_is_touched_moved_copied_or_reached_otherwise_is_the_same(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = KINDS[kind](tmp_path / "set" / "data")
    first = opened(path)
    monkeypatch.setattr(data_set, "_decode", lambda *anything: pytest.fail("decoded again"))
    for act in (touch, here, link, copy, move):
        other = opened(act(Path(path)))
        assert (other.key, other.files) == (first.key, first.files), act.__name__


def test_the_name_of_a_single_parquet_file_does_not_matter(tmp_path):
    path = one_file(tmp_path / "data")
    assert opened(path).key == opened(path.rename(tmp_path / "other.parquet")).key


@pytest.mark.parametrize("kind", ["pictures", "shards"])
def test_the_names_of_several_files_matter(tmp_path, kind):
    path = KINDS[kind](tmp_path / "data")
    key = opened(path).key
    last = max(each for each in path.rglob("*") if each.is_file())
    last.rename(last.with_stem("z"))
    assert opened(path).key != key


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_picture_is_told_though_size_and_time_are_as_before(tmp_path, settled, kind):
    folder = tmp_path / "data"
    path = KINDS[kind](folder)
    first = opened(path)
    write_table(first.files, tmp_path / "data.parquet")
    changed = max(folder.rglob("*.png" if "pictures" in kind else "*.parquet"))
    before = changed.stat()
    while changed.stat().st_ctime_ns == before.st_ctime_ns:  # the clock of the file system ticks
        if kind == "shards":
            write_parquet(changed, [99, *range(41, COUNT)])
        elif kind == "one file":
            write_parquet(changed, [99, *range(1, COUNT)])
        else:
            changed.write_bytes(picture(99))
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (changed.stat().st_size, changed.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    other = opened(path)
    assert other.key != first.key
    assert differing(tmp_path / "data.parquet", other.files) == [
        f"{changed.relative_to(folder).as_posix()} has changed"
    ]


def test_columns_of_parquet_belong_to_the_identity(tmp_path):
    path = tmp_path / "a.parquet"
    cells = [picture(index) for index in range(COUNT)]
    pq.write_table(pa.table({"image": cells, "scan": cells}), path)
    assert open_data(DataConfig(dataset=str(path), image_column="scan")).key != opened(path).key


def test_a_name_that_is_not_text_is_read(tmp_path, settled):
    folder = pictures(tmp_path / "data")
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png"))
    try:
        odd.write_bytes(picture(99))
    except OSError:
        pytest.skip("this file system takes text only")
    assert opened(folder).key == opened(folder).key
    assert len(opened(folder).examples) == COUNT + 1


def of_files(config):
    examples = ((Image.open(path), None) for path in sorted(Path("data").rglob("*.png")))
    found = {path.name: path for path in sorted(Path("data").rglob("*.png"))}
    return Source(identity="own", count=COUNT, class_names=(), examples=examples, files=found)


def test_the_files_of_a_source_of_ones_own_belong_to_its_identity(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = pictures(tmp_path / "data")
    key = opened(f"{__name__}:of_files").key
    (folder / "a" / "00.png").write_bytes(picture(99))
    assert opened(f"{__name__}:of_files").key != key


def test_files_that_change_while_they_are_decoded_leave_no_copy(tmp_path, monkeypatch, cache):
    folder = pictures(tmp_path / "data")
    fit = data_set._fit

    def changing(*given):
        (folder / "a" / "00.png").write_bytes(picture(99))
        return fit(*given)

    with monkeypatch.context() as patched:
        patched.setattr(data_set, "_fit", changing)
        with pytest.raises(DataError, match="changed while they were read; run the same command again"):
            opened(folder)
    assert not [path for path in (cache / "images").iterdir() if path.is_dir()]
    opened(folder)


# What is remembered


def named(folder):
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.png"))}


def hashed(folder, **values):
    return hash_files(named(folder), folder, **values)


@pytest.fixture
def folder(tmp_path):
    return pictures(tmp_path / "data")


@pytest.fixture
def read(monkeypatch):
    """The names of the files that are read."""
    names = []
    plain = files._Reader._hash
    monkeypatch.setattr(files._Reader, "_hash", lambda self, path: (names.append(path.name), plain(self, path))[1])
    return names


def test_files_that_are_known_are_not_read_again(folder, settled, read):
    first = hashed(folder)
    assert len(read) == COUNT
    assert hashed(folder).equals(first)
    assert len(read) == COUNT
    touch(folder / "a")
    (folder / "b" / "01.png").write_bytes(picture(99))
    assert not hashed(folder).equals(first)
    assert read[COUNT:].count("01.png") == 1


def test_a_file_that_has_just_been_written_is_read_again(folder, monkeypatch, read):
    monkeypatch.setattr(files, "TICK_NS", 10**15)
    hashed(folder)
    hashed(folder)
    assert len(read) == 2 * COUNT


@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: content[: len(content) // 2], lambda content: b"PAR1" + bytes(99) + b"PAR1"],
    ids=["empty", "cut", "foreign"],
)
def test_a_damaged_memo_only_costs_time(folder, settled, read, cache, damage):
    first = hashed(folder)
    (memo,) = (cache / "hashes").glob("*.parquet")
    memo.write_bytes(damage(memo.read_bytes()))
    assert hashed(folder).equals(first)
    assert len(read) == 2 * COUNT
    hashed(folder)
    assert len(read) == 2 * COUNT  # it was mended


def test_no_byte_of_a_memo_can_be_altered_unseen(folder, settled, cache):
    first = hashed(folder)
    (memo,) = (cache / "hashes").glob("*.parquet")
    content = memo.read_bytes()
    for at in range(0, len(content), 97):
        memo.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        assert hashed(folder).equals(first)


def test_a_memo_that_cannot_be_written_only_costs_time(folder, settled, read, monkeypatch):
    def full(*anything):
        raise OSError("no space left on device")

    monkeypatch.setattr(files, "write_table", full)
    assert hashed(folder).equals(hashed(folder))
    assert len(read) == 2 * COUNT


def test_memos_are_bounded_in_number(folder, settled, cache, monkeypatch):
    monkeypatch.setattr(files, "MOST_MEMOS", 3)
    for index in range(5):
        hash_files(named(folder), folder / str(index))
    assert len(list((cache / "hashes").glob("*.parquet"))) == 3


PROCESS = """
import sys
from pathlib import Path
from gantune.data.files import hash_files

folder = Path(sys.argv[1])
found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.png"))}
print("ready", flush=True)
sys.stdin.readline()
print(hash_files(found, folder).to_pylist())
"""


def test_processes_hash_at_once(folder, settled):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", PROCESS, folder], **pipes) for _ in range(2)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    wanted = f"{hashed(folder).to_pylist()}\n"
    assert [process.communicate()[0] for process in processes] == [wanted] * 2


def test_progress_is_told_while_files_are_read(folder, monkeypatch):
    told, hold = [], threading.Event()
    plain = files._Reader._hash
    monkeypatch.setattr(files, "SECONDS_BETWEEN_REPORTS", 0.01)
    monkeypatch.setattr(files._Reader, "_hash", lambda self, path: hold.wait(60) and plain(self, path))
    hashed(folder, report=lambda text: (told.append(text), hold.set()))
    assert told[0] == "reading data: 0 of 64 files (0%)"


def test_a_file_that_cannot_be_read_is_named(folder):
    with pytest.raises(DataError, match=r"data: cannot be read: Is a directory; mend or remove it"):
        hash_files({**named(folder), "more": folder}, folder)


# What differs


def refused(images, recorded):
    with pytest.raises(DataError) as caught:
        check_reference(images, ObjectiveConfig(), SimpleNamespace(wish="of other data"), recorded)
    return str(caught.value)


def test_data_that_differs_is_refused_with_its_first_files(tmp_path, folder):
    recorded = tmp_path / "data.parquet"
    write_table(opened(folder).files, recorded)
    (folder / "a" / "00.png").write_bytes(picture(99))
    (folder / "a" / "01.png").write_bytes(picture(98))
    (folder / "b" / "01.png").rename(folder / "a" / "03.png")
    (folder / "b" / "05.png").write_bytes(picture(97))
    text = refused(opened(folder), recorded)
    assert "(5 files: a/00.png has changed, a/01.png is new, a/03.png is new and 2 more)" in text
    assert text.startswith("data: the data differs from that which this run's scores are measured against")
    assert text.endswith("; restore it, or start a new run with --name")
    recorded.write_bytes(b"no table")
    assert "measured against; restore" in refused(opened(folder), recorded)
    recorded.unlink()
    assert "measured against; restore" in refused(opened(folder), recorded)
    assert "digits: the data differs" in refused(opened("digits"), recorded)


def test_a_missing_file_is_named(tmp_path, folder):
    recorded = tmp_path / "data.parquet"
    table = opened(folder).files
    write_table(table, recorded)
    assert differing(recorded, table) == []
    assert differing(recorded, table.slice(1)) == ["a/00.png is missing"]
