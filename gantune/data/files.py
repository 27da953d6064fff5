"""Identify files by their bytes: sha256, remembered in the cache while a file's size and times stay the same."""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from gantune.data.cache import cache_directory
from gantune.errors import DataError
from gantune.whole import whole

CHUNK = 2**20  # bytes
THREADS = 8
MOST_OF_BATCH = 64  # files that a thread takes at once
SECONDS_BETWEEN_REPORTS = 2.0
MOST_MEMOS = 100  # in the cache, the least recently written are deleted

# A file that is written twice within one tick of its file system's clock keeps its time stamp. Ticks last up to two
# seconds (FAT), so the hash of a file that was changed less than that before it was read is not remembered.
TICK_NS = 2 * 10**9

TABLE = pa.schema([("file", pa.string()), ("size", pa.int64()), ("sha256", pa.string())])
# The time of the last change of the inode (ctime) is a part: unlike mtime nobody can set it back.
STAMP = pa.schema([("modified", pa.int64()), ("changed", pa.int64()), ("inode", pa.uint64())])
MEMO = pa.schema([*TABLE, *STAMP])
UNREADABLE = (OSError, pa.ArrowException, KeyError, TypeError, ValueError)

Report = Callable[[str], None]


class _Hashed(NamedTuple):
    """The content of a file; `stamp` is None where it is not to be remembered."""

    size: int
    sha256: str
    stamp: tuple[int, int, int] | None


def hash_files(files: Mapping[str, Path], root: Path, report: Report = lambda text: None) -> pa.Table:
    """Return a table of `file`, `size` and `sha256` of files by name; a missing file has no bytes and no hash.

    root: the file or folder that they belong to, whose hashes are remembered together. Raises DataError where a file
    cannot be read, OSError where the cache cannot be written.
    """
    key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    memo = cache_directory() / "hashes" / f"{key}.parquet"
    known = _remembered(memo, files)
    if len(known) < len(files):
        memo.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{memo}.lock"):
            known = _remembered(memo, files)  # another process may have hashed them meanwhile
            known |= _hash({name: path for name, path in files.items() if name not in known}, root.name, report)
            _remember(memo, known)
    rows = [(_text(name), known[name].size, known[name].sha256) for name in files]
    return _table(rows, TABLE)


def write_table(table: pa.Table, path: Path) -> None:
    """Write the table of files whole, with checksums. Raises OSError."""
    with whole(path) as partial:
        pq.write_table(table, partial, write_page_checksum=True)


def differing(recorded: Path, now: pa.Table) -> list[str]:
    """Return the files that differ from a table written earlier: `NAME is new`, `is missing` or `has changed`.

    Empty where that table is missing or damaged.
    """
    try:
        before = _read(recorded, TABLE)
    except UNREADABLE:
        return []
    old, new = (
        dict(zip(table["file"].to_pylist(), table["sha256"].to_pylist(), strict=True)) for table in (before, now)
    )
    return [
        f"{name} {'is missing' if not new.get(name) else 'has changed' if old.get(name) else 'is new'}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _hash(files: Mapping[str, Path], what: str, report: Report) -> dict[str, _Hashed]:
    """Hash files on several threads: while one waits for the disk, others compute."""
    paths, reader, pool = list(files.values()), _Reader(), ThreadPoolExecutor(THREADS)
    batch = max(1, min(MOST_OF_BATCH, len(paths) // (4 * THREADS)))
    try:
        total = sum(map(_size, paths))
        batches = [pool.submit(reader.hash, paths[start : start + batch]) for start in range(0, len(paths), batch)]
        while wait(batches, SECONDS_BETWEEN_REPORTS, FIRST_EXCEPTION).not_done:
            for failed in (one for one in batches if one.done() and one.exception()):
                failed.result()  # which raises
            share = min(1.0, reader.bytes / max(1, total))
            report(f"reading {what}: {reader.files:,} of {len(paths):,} files ({share:.0%})")
        return dict(zip(files, (hashed for one in batches for hashed in one.result()), strict=True))
    finally:
        reader.stopped = True  # Ctrl-C does not wait for a large file
        pool.shutdown(cancel_futures=True)


class _Reader:
    """Hashes files until it is stopped, and counts files and bytes."""

    def __init__(self) -> None:
        self.files = self.bytes = 0
        self.stopped = False
        self._counting = threading.Lock()

    def hash(self, paths: Sequence[Path]) -> list[_Hashed]:
        """Read files. Raises DataError where that fails."""
        return [self._hash(path) for path in paths if not self.stopped]

    def _hash(self, path: Path) -> _Hashed:
        digest, size = hashlib.sha256(), 0
        try:
            with open(path, "rb", buffering=0) as stream:
                started, stat = time.time_ns(), os.fstat(stream.fileno())
                while not self.stopped and (chunk := stream.read(CHUNK)):
                    digest.update(chunk)
                    size += len(chunk)
                    self._count(0, len(chunk))
        except FileNotFoundError:  # its decoder tells of it, if it is still wanted
            return _Hashed(0, "", None)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}; mend or remove it") from error
        self._count(1, 0)
        settled = stat.st_ctime_ns + TICK_NS < started
        return _Hashed(size, digest.hexdigest(), _stamp(stat) if settled else None)

    def _count(self, files: int, count: int) -> None:
        with self._counting:
            self.files += files
            self.bytes += count


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _stamp(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _remembered(memo: Path, files: Mapping[str, Path]) -> dict[str, _Hashed]:
    """Look up the files that have not changed since they were hashed; none where the memo is missing or damaged."""
    try:
        table = _read(memo, MEMO)
        known = {name: _Hashed(size, sha256, tuple(stamp)) for name, size, sha256, *stamp in _rows(table)}
    except UNREADABLE:
        return {}
    found = {}
    for name, path in files.items():
        hashed = known.get(_text(name))
        with contextlib.suppress(OSError):
            if hashed is not None and (hashed.size, hashed.stamp) == ((stat := path.stat()).st_size, _stamp(stat)):
                found[name] = hashed
    return found


def _remember(memo: Path, known: Mapping[str, _Hashed]) -> None:
    """Write the memo; one that cannot be written only costs time."""
    rows = [(_text(name), one.size, one.sha256, *one.stamp) for name, one in known.items() if one.stamp]
    with contextlib.suppress(OSError):
        write_table(_table(rows, MEMO), memo)
        memos = sorted(memo.parent.glob("*.parquet"), key=lambda path: path.stat().st_mtime_ns)
        for old in memos[:-MOST_MEMOS]:
            old.unlink(missing_ok=True)


def _text(name: str) -> str:
    """A file's name as text; what is not UTF-8 in it is escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _table(rows: list[Any], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [[] for _ in schema]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)


def _rows(table: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a table of this schema. Raises one of UNREADABLE."""
    with pq.ParquetFile(path, page_checksum_verification=True) as opened:
        return opened.read().select(schema.names).cast(schema)
