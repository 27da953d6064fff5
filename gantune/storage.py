"""A folder on a file system of pyarrow's, by its URI, as s3://bucket/prefix. Credentials are the environment's.

What is asked of it waits, within `Patience`, for a storage that does not answer for a while.
"""

import contextlib
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from gantune.data.cache import cache_directory
from gantune.errors import SpecError, StorageError

PATIENCE_SECONDS = 300.0  # of a driver and its workers, with a storage that is away
SECONDS_BETWEEN = 2.0
SECONDS_UNTIL_TOLD = 10.0
AT_ONCE = 16  # requests
WHOLE = ("s3", "gcs", "abfs")  # where an object appears as a whole or not at all
S3_OPTIONS = ("endpoint_override", "scheme", "region")
SECRET = ("key", "secret", "token", "password", "credential")  # what a parameter is called that holds one
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
REMEDY = "leave it out: credentials come from the environment, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
# In the words of pyarrow's S3: no waiting would help.
FOR_GOOD = re.compile(
    "ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID|SIGNATURE_DOES_NOT_MATCH|"
    "HTTP status 4(?!08|29)"
)
Found = TypeVar("Found")


class AwayError(StorageError):
    """A storage that does not answer."""


class Patience:
    """How long an answer is waited for, and who hears of it: once when it does not come, and once when it is back."""

    def __init__(self, seconds: float = 0.0, say: Callable[[str], None] | None = None) -> None:
        self.seconds, self.say = seconds, say
        self._told = ""
        self._since: float | None = None  # when a question was asked that has no answer
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def watching(self, place: str) -> Iterator[None]:
        """Tell of an answer that is long in coming: a file system tries for a minute or more before it gives up."""
        if self.say is None:
            yield
            return
        watch = threading.Timer(SECONDS_UNTIL_TOLD, self.missed, (place, time.monotonic()))
        watch.daemon = True
        watch.start()
        try:
            yield
        finally:
            watch.cancel()

    def missed(self, place: str, asked: float) -> bool:
        """Note that a question has had no answer since it was asked; whether to ask again."""
        with self._lock:
            if self._since is None:
                self._since = asked
            if self.say is not None and self.seconds and not self._told:
                self._told = place
                self.say(f"{place} does not answer; it is waited for, for {self.seconds:.0f}s or a little more")
            return time.monotonic() - self._since < self.seconds

    def answered(self) -> None:
        """Note an answer."""
        if self._since is None:
            return
        with self._lock:
            if self._since is not None and self._told and self.say is not None:
                self.say(f"{self._told} answers again, after {time.monotonic() - self._since:.0f}s")
            self._since, self._told = None, ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A file that is there: its size, and when it was written, in nanoseconds of the storage's clock."""

    size: int
    written: int


class Place:
    """A folder there. Names in it are relative, with slashes.

    Every question raises StorageError where the storage refuses it, or is away for longer than patience lasts, and
    FileNotFoundError where a file is not there.
    """

    def __init__(
        self, uri: str, *, filesystem: Any = None, root: str | None = None, patience: Patience | None = None
    ) -> None:
        """Read a URI. Raises SpecError for one that cannot be meant, or that holds a secret; asks nothing yet.

        filesystem, root: the folder as pyarrow knows it, where it is known.
        """
        self._parts = _checked(uri)
        self._given = filesystem, self._parts.path if root is None else root
        self.patience = patience or Patience()

    def __str__(self) -> str:
        return self.uri

    def __repr__(self) -> str:
        return f"Place({self.uri!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """As its URI alone: a connection stays in its process."""
        return Place, (self.uri,)

    @cached_property
    def uri(self) -> str:
        """The folder's URI in one form, whoever wrote it how."""
        query = urlencode(sorted(parse_qsl(self._parts.query)), safe=":/")
        return self._parts._replace(path=self._parts.path.rstrip("/"), query=query).geturl()

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self._parts.path.rstrip("/").rpartition("/")[2] or self._parts.netloc

    @property
    def parent(self) -> "Place":
        """The folder that it lies in."""
        above, root = self._parts.path.rstrip("/").rpartition("/")[0], self._opened[1].rpartition("/")[0]
        return Place(self._parts._replace(path=above).geturl(), filesystem=self.filesystem, root=root)

    def __truediv__(self, name: str) -> "Place":
        below = self._parts._replace(path=f"{self._parts.path.rstrip('/')}/{name}").geturl()
        return Place(below, filesystem=self.filesystem, root=self._path(name), patience=self.patience)

    def impatient(self) -> "Place":
        """The same, whose questions wait for nobody."""
        return Place(self.uri, filesystem=self.filesystem, root=self._opened[1])

    @property
    def copy(self) -> Path:
        """Where this machine keeps its copy."""
        return cache_directory() / "runs" / hashlib.sha256(self.uri.encode()).hexdigest()[:16] / self.name

    @property
    def filesystem(self) -> Any:
        """Pyarrow's, or one with the same methods."""
        return self._opened[0]

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        system, root = _open(self._parts) if self._given[0] is None else self._given
        return system, root.rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self._opened[1]}/{name}" if name else self._opened[1]

    def put(self, name: str, content: bytes, guard: Callable[[], None] = lambda: None) -> None:
        """Write a file, whole or not at all. `guard` is asked before every attempt, and may raise to end it."""
        system, path = self.filesystem, self._path(name)

        def write() -> None:
            guard()
            whole = system.type_name in WHOLE
            folder, _, last = path.rpartition("/")
            partial = path if whole else f"{folder}/.{last}.{os.getpid()}.partial"
            if not whole:
                system.create_dir(folder, recursive=True)
            with system.open_output_stream(partial) as stream:
                stream.write(content)
            if not whole:
                system.move(partial, path)

        self._ask(write)

    def get(self, name: str) -> bytes:
        """A file's content."""

        def read() -> bytes:
            with self.filesystem.open_input_stream(self._path(name)) as stream:
                return bytes(stream.read())

        return self._ask(read)

    def look_into(self, name: str, read: Callable[[BinaryIO, int], Found]) -> Found | None:
        """What `read` makes of a file and its size, fetching no more than it reads; None where there is none."""

        def look() -> Found | None:
            try:
                with self.filesystem.open_input_file(self._path(name)) as stream:
                    return read(stream, stream.size())
            except FileNotFoundError:
                return None

        return self._ask(look)

    def remove(self, names: Iterable[str], guard: Callable[[], None] = lambda: None) -> None:
        """Delete files; those that are not there are passed over."""

        def delete(name: str) -> None:
            guard()
            with contextlib.suppress(FileNotFoundError):
                self.filesystem.delete_file(self._path(name))

        at_once(lambda name: self._ask(lambda: delete(name)), names)

    def stored(self, name: str) -> Stored | None:
        """What is there of one file."""
        return self.stored_each([name]).get(name)

    def stored_each(self, names: Sequence[str]) -> dict[str, Stored]:
        """What is there of some files."""
        found = self._ask(lambda: self.filesystem.get_file_info([self._path(name) for name in names]))
        return {
            name: Stored(size=info.size, written=info.mtime_ns or 0)
            for name, info in zip(names, found, strict=True)
            if info.is_file
        }

    def files(self, below: str = "") -> dict[str, Stored]:
        """All files in a folder and those in it, by name."""
        return {
            name: Stored(size=info.size, written=info.mtime_ns or 0)
            for name, info in self._list(below, recursive=True).items()
            if info.is_file
        }

    def folders(self) -> list[str]:
        """The names of the folders in it."""
        return sorted(name for name, info in self._list("", recursive=False).items() if not info.is_file)

    def _list(self, below: str, *, recursive: bool) -> dict[str, Any]:
        from pyarrow.fs import FileSelector

        root = self._path("")
        wish = FileSelector(self._path(below), allow_not_found=True, recursive=recursive)
        found = self._ask(lambda: self.filesystem.get_file_info(wish))
        return {info.path[len(root) :].strip("/"): info for info in found}

    def _ask(self, question: Callable[[], Found]) -> Found:
        while True:
            asked = time.monotonic()
            try:
                with self.patience.watching(self.uri):
                    answer = question()
            except FileNotFoundError:
                raise
            except (OSError, AwayError) as error:
                words = _words(error)
                if isinstance(error, OSError) and _for_good(error):
                    raise StorageError(f"{self.uri}: {words}; nothing is lost, the same command continues") from None
                if not self.patience.missed(self.uri, asked):
                    raise AwayError(
                        f"{self.uri}: does not answer: {words}; nothing is lost, the same command continues"
                    ) from None
                time.sleep(SECONDS_BETWEEN)
            else:
                self.patience.answered()
                return answer


def at_once(call: Callable[[str], object], names: Iterable[str]) -> None:
    """Call for every name, some at a time, for most of it is waiting. Raises what a call raises."""
    listed: Sequence[str] = list(names)
    if len(listed) == 1:
        call(listed[0])
    elif listed:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(call, listed))


def is_uri(text: str) -> bool:
    """Whether a text names a place, and not a folder of this machine."""
    return "://" in text


def _checked(uri: str) -> SplitResult:
    """The parts of a URI. Raises SpecError, in which no secret is repeated."""
    try:
        parts = urlsplit(uri)
        password, user = parts.password, parts.username
    except ValueError:
        raise SpecError("--runs: cannot be read as a URI; write s3://bucket/prefix") from None
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if password is not None or (user is not None and parts.scheme == "s3"):
        raise SpecError(f"{shown}: holds what stands before an `@`, which would be written down; {REMEDY}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in options:
        if any(word in name.lower() for word in SECRET):
            raise SpecError(f"{shown}: holds `{name}`, which would be written down; {REMEDY}")
        if parts.scheme == "s3" and name not in S3_OPTIONS:
            raise SpecError(f"{shown}: unknown option `{name}`; there are {', '.join(S3_OPTIONS)}")
    if not parts.scheme or parts.fragment or not (parts.netloc or parts.path.strip("/")):
        raise SpecError(f"{shown}: cannot be read as a URI; write s3://bucket/prefix")
    return parts


def _open(parts: SplitResult) -> tuple[Any, str]:
    """The file system of a URI, and its path there.

    S3's own time-outs, of 3 seconds and 1, would take every pause for an end.
    """
    from pyarrow import fs

    if parts.scheme == "s3":
        options = dict(parse_qsl(parts.query))
        endpoint, scheme = _endpoint(options)
        system = fs.S3FileSystem(
            region=options.get("region") or _region(parts.netloc, endpoint),
            scheme=scheme,
            endpoint_override=endpoint,
            request_timeout=60,
            connect_timeout=10,
            allow_delayed_open=True,  # a small file is one request then
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3),
        )
        return system, f"{parts.netloc}{parts.path}"
    try:
        found: tuple[Any, str] = fs.FileSystem.from_uri(parts.geturl())
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise SpecError(f"{parts.scheme}://{parts.netloc}{parts.path}: {_words(error)}") from None
    return found


def _endpoint(options: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The server and its scheme: as the URI says, else as the environment does, which pyarrow leaves out of account."""
    told = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
    if "endpoint_override" in options or not told.netloc:
        return options.get("endpoint_override"), options.get("scheme")
    return told.netloc, options.get("scheme") or told.scheme


def _region(bucket: str, endpoint: str | None) -> str | None:
    """Where a bucket lies: as the environment says, else as AWS does; None leaves it to the SDK."""
    from pyarrow.fs import resolve_s3_region

    told = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if told or endpoint:
        return told
    try:
        found: str = resolve_s3_region(bucket)
    except OSError:
        return None
    return found


def _for_good(error: OSError) -> bool:
    """Whether waiting would not help: a disk's error, or a refusal."""
    return error.errno is not None or bool(FOR_GOOD.search(str(error)))


def _words(error: Exception) -> str:
    """The first line of an error, without secrets."""
    words = (str(error).strip() or type(error).__name__).splitlines()[0]
    for name in SECRETS:
        if secret := os.environ.get(name):
            words = words.replace(secret, "***")
    return words
