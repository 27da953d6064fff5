"""A study's database: checked before anything starts, waited for when it goes away. Its password is shown nowhere."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError

from gantune.errors import RunError, SpecError

PATIENCE_SECONDS = 60.0  # with a server that does not answer, as while it is started again
SECONDS_BETWEEN = 0.5
# A machine that vanished is noticed before patience ends: without these, a driver of PostgreSQL would wait for hours.
# A database without an encoding of its own (SQL_ASCII, of the C locale) would give bytes for text.
LIBPQ = {"connect_timeout": 10, "tcp_user_timeout": 30_000, "client_encoding": "utf8"}
EXAMPLE = "postgresql+psycopg://user@host/database"


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """One study in a database, as one driver opens it."""

    url: str = field(repr=False)
    study: str = ""
    driver: str = ""

    def __str__(self) -> str:
        return f"study {self.study} at {self.shown}" if self.study else self.shown

    @property
    def shown(self) -> str:
        """The URL as people may see it: its password masked, its options, which may hold another, left out."""
        return make_url(self.url).set(query={}).render_as_string(hide_password=True)

    @property
    def engine_options(self) -> dict[str, Any]:
        """What SQLAlchemy's engine is made with."""
        libpq = make_url(self.url).drivername in ("postgresql", "postgresql+psycopg", "postgresql+psycopg2")
        return {"pool_pre_ping": True, "connect_args": dict(LIBPQ) if libpq else {}}

    def check(self) -> None:
        """Raise SpecError where the URL cannot be meant, RunError where the database does not answer."""
        url = _parsed(self.url)
        if url.get_backend_name() == "sqlite":
            raise SpecError(
                "--storage: got SQLite, which locks its whole file, and drivers that write at once fail; "
                f"use a server, as {EXAMPLE}, or leave --storage out: one driver alone needs no database"
            )
        try:
            engine = sqlalchemy.create_engine(self.url, **self.engine_options)
        except ModuleNotFoundError as error:
            raise RunError(f"--storage: {self.shown} needs the package `{error.name}`; {_remedy(url)}") from None
        except (NoSuchModuleError, ArgumentError):
            raise SpecError(f"--storage: no database is called `{url.drivername}`; write {EXAMPLE}") from None
        try:
            with engine.connect():
                pass
        except (DBAPIError, OSError) as error:
            raise RunError(f"--storage: {self.shown} does not answer: {self._cause(error)}") from None
        finally:
            engine.dispose()

    def patient(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A call that asks again while the server is away. Raises RunError where that takes longer than patience."""

        def answered(*arguments: Any, **options: Any) -> Any:
            began = time.monotonic()
            while True:
                try:
                    return call(*arguments, **options)
                except Exception as error:  # Optuna wraps some of SQLAlchemy's and passes others on
                    cause = error if isinstance(error, DBAPIError) else error.__cause__
                    if not isinstance(cause, DBAPIError):
                        raise
                    passing = isinstance(cause, OperationalError | InterfaceError) or cause.connection_invalidated
                    if passing and time.monotonic() - began < PATIENCE_SECONDS:
                        time.sleep(SECONDS_BETWEEN)
                        continue
                    raise RunError(
                        f"{self}: does not answer: {self._cause(cause)}; nothing is lost, the same command continues"
                    ) from None

        return answered

    def _cause(self, error: Exception) -> str:
        """The server's or the driver's own words, in one line."""
        words = str(getattr(error, "orig", None) or error).strip().splitlines()
        text = words[0] if words else type(error).__name__
        password = make_url(self.url).password
        return text.replace(password, "***") if password else text


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):  # its message would repeat what may hold a password
        raise SpecError(f"--storage: cannot be read as the URL of a database; write {EXAMPLE}") from None


def _remedy(url: URL) -> str:
    if url.drivername == "postgresql+psycopg":
        return "install it with: pip install 'gantune[postgres]'"
    if url.get_backend_name() == "postgresql":
        return f"install it, or write {EXAMPLE} and: pip install 'gantune[postgres]'"
    return "install it"
