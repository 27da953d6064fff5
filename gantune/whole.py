"""Files that are there whole, or not at all."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

_unfinished: set[Path] = set()  # files and folders that this process writes under another name


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name to write a file under; it gets its own, on the disk for good, when the block ends without an error.

    Until then readers see the old file, or none; a name with a dot is passed over by those of Parquet folders. Raises
    OSError where it cannot be written.
    """
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    _unfinished.add(partial)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with open(partial, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        _unfinished.discard(partial)


def partial_files(folder: Path) -> list[Path]:
    """Return the files in a folder that a process was writing by `whole`; where it was killed they stay."""
    return sorted(folder.glob(".*.partial"))


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Mark a file or folder as one to remove if the process is ended at once."""
    _unfinished.add(path)
    try:
        yield path
    finally:
        _unfinished.discard(path)


def remove_unfinished() -> None:
    """Remove what this process has begun to write, before it is ended at once."""
    for path in list(_unfinished):
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
