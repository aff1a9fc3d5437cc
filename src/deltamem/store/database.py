"""Opening a database: URLs, locks, durability, and the driver's errors in words."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from deltamem.extensions import how_to_install
from deltamem.store.errors import InvalidError, NotFoundError, SchemaError, StoreError, UnavailableError

_WRITES = "deltamem_writes"
# Seconds that emptying the log waits for readers. Writers wait as long, so it is no longer than a few reads take.
_SCRUB_WAIT = 0.5
# Seconds between two attempts to switch a new file to the log.
_ASK_AGAIN = 0.01
_FULL = "The disk under {store} is full. Nothing was written; free some space and try again."
_DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
# PostgreSQL's classes of errors: connection, authorisation, no such database, resources, operator intervention.
_OUT_OF_REACH = ("08", "28", "3D", "53", "57")


class Database:
    """An SQLite or PostgreSQL database, shared by threads.

    Args:
        url: SQLAlchemy's URL of it; ``sqlite://`` lives in memory and dies with the object.
        timeout: seconds that a call waits for another's lock.
        create: make an SQLite file that is not there.

    Raises:
        InvalidError: the URL is malformed or of another kind of database.
        NotFoundError: the file is not there and is not to be made.
        ImportError: psycopg is needed and not installed.
    """

    def __init__(self, url: str, *, timeout: float, create: bool = True) -> None:
        self._timeout = timeout
        self._url = _parse(url)
        self._closed = False
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self.in_memory = self.is_sqlite and self._url.database in (None, "", ":memory:")
        # SQLite has one writer at a time. Its own way to wait is to poll; threads of one process queue here.
        self._turn = threading.Lock()
        self._file: _File | None = None
        if self.is_sqlite and not self.in_memory:
            path = Path(str(self._url.database))
            if not create and not path.exists():
                raise NotFoundError(f"There is no store at {self.place}: check the path.")
            # Only its owner reads the file, and the log, to which SQLite gives the same permissions. If it cannot be
            # made, SQLite says so at the first connection.
            with suppress(OSError):
                path.touch(mode=0o600, exist_ok=False)
            self._file = _File(path)
        self.engine = _engine(self._url, self._file, self.in_memory, timeout)
        event.listen(self.engine, "begin", self._begin)
        event.listen(self.engine, "checkin", self._returned)
        if self.is_sqlite:
            event.listen(self.engine, "connect", self._configure)
        self._writer = self.engine.execution_options(**{_WRITES: True})
        self._reader = self.engine
        if not self.is_sqlite:
            # SQLite's transactions read from one snapshot anyway.
            self._reader = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @property
    def place(self) -> str:
        """The URL without its password and driver."""
        return self._url.set(drivername=self._url.get_backend_name()).render_as_string(hide_password=True)

    def error(self, kind: type[StoreError], text: str, why: object = "") -> StoreError:
        """An error that names the database, where ``text`` has ``{store}``, and quotes its driver.

        Both are for whoever runs it and not for clients.
        """
        told = f"{text} ({why})" if why else text
        public = text.replace("{store}", "the store")
        return kind(told.replace("{store}", self.place), public[:1].upper() + public[1:])

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one snapshot.

        Raises:
            UnavailableError: the database is locked or out of reach.
        """
        with self._guarded(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is durable once the block has been left, and undone if it raises.

        Raises:
            UnavailableError: the database is locked, full or out of reach.
        """
        with self._in_turn(), self._guarded(), self._writer.begin() as connection:
            yield connection

    def scrub(self) -> None:
        """Empties SQLite's write-ahead log, where rows that were deleted can still be read.

        While someone reads from the log for long it stays; it is emptied with the next deletion.
        """
        if not self.is_sqlite or self.in_memory:
            return
        with self._in_turn(), self._guarded(), self.engine.connect() as connection:
            cursor = connection.connection.cursor()
            try:
                cursor.execute(_wait(min(_SCRUB_WAIT, self._timeout)))
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                cursor.execute(_wait(self._timeout))
                cursor.close()

    def vacuum(self, tables: Sequence[str]) -> None:
        """Writes a database's tables anew, without what was deleted.

        Raises:
            UnavailableError: the database is locked, full or out of reach.
        """
        if self.in_memory:
            return
        if self.is_sqlite:
            with self._in_turn(), self._guarded(), self.engine.connect() as connection:
                connection.connection.cursor().execute("VACUUM").close()
            self.scrub()
            return
        anew = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        with self._guarded(), anew.connect() as connection:
            for table in tables:
                connection.exec_driver_sql(f'VACUUM FULL "{table}"')
            # Old files go with the next checkpoint, which comes by itself where this user may not ask for one.
            with suppress(ProgrammingError):
                connection.exec_driver_sql("CHECKPOINT")

    def close(self) -> None:
        """Closes the connections; later calls are refused."""
        self._closed = True
        self.engine.dispose()

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        if not self.is_sqlite:
            yield
            return
        if not self._turn.acquire(timeout=self._timeout):
            raise self._locked()
        try:
            yield
        finally:
            self._turn.release()

    def _begin(self, connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        if self.is_sqlite:
            # A writer that began as a reader could not wait for another: it would fail at once.
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
        elif writes:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {round(self._timeout * 1000)}")

    def _returned(self, connection: Any, record: object) -> None:
        # A thread may still have used it when the others were closed.
        if self._closed and connection is not None:
            connection.close()

    def _configure(self, connection: sqlite3.Connection, record: object) -> None:
        # The driver must not begin transactions itself; _begin does.
        connection.isolation_level = None
        connection.execute(_wait(self._timeout))
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA synchronous = FULL")
        if self._switch_to_log(connection) not in ("wal", "memory"):
            raise self.error(
                UnavailableError,
                "{store} cannot keep a write-ahead log: its file system has no shared memory, as on a network share. "
                "Put the file on a local disk, or use PostgreSQL.",
            )

    def _switch_to_log(self, connection: sqlite3.Connection) -> str:
        """The mode after asking for a write-ahead log. SQLite does not wait where others ask at the same moment."""
        until = time.monotonic() + self._timeout
        while True:
            try:
                return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(_ASK_AGAIN)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        if self._closed:
            raise self.error(StoreError, "{store} is closed; open it again.")
        if self._file is not None and not self._file.in_place():
            raise self.error(
                UnavailableError,
                "{store} was moved, deleted or replaced while it was in use. Put the file back, with its -wal and "
                "-shm beside it, or restart the server to use the one that is there now.",
            )
        try:
            yield
        except PoolTimeoutError:
            raise self.error(UnavailableError, "All connections to {store} are in use; try again later.") from None
        except DBAPIError as error:
            raise self._in_words(error) from error

    def _in_words(self, error: DBAPIError) -> Exception:
        if isinstance(error.orig, sqlite3.Error):
            return self._sqlite_error(error.orig) or error
        return self._postgresql_error(error) or error

    def _sqlite_error(self, error: sqlite3.Error) -> StoreError | None:
        match getattr(error, "sqlite_errorcode", 0) & 0xFF:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return self._locked()
            case sqlite3.SQLITE_FULL:
                return self.error(UnavailableError, _FULL)
            case sqlite3.SQLITE_IOERR:
                return self.error(UnavailableError, "The disk under {store} fails. Check it and try again.", error)
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN:
                return self.error(
                    UnavailableError,
                    "{store} cannot be opened and written: does its folder exist, and may this process write in it?",
                    error,
                )
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                return self.error(SchemaError, "{store} is damaged or not an SQLite database. Restore a backup.", error)
        return None

    def _postgresql_error(self, error: DBAPIError) -> StoreError | None:
        state: str | None = getattr(error.orig, "sqlstate", None)
        if state in ("55P03", "40001", "40P01"):
            return self._locked()
        if state == "53100":
            return self.error(UnavailableError, _FULL)
        # Without a state the error is the driver's own, as when it cannot connect.
        lost = isinstance(error, OperationalError) if state is None else state[:2] in _OUT_OF_REACH
        if lost or error.connection_invalidated or state == "25006":
            return self.error(
                UnavailableError,
                "{store} cannot be used now. Try again once the server runs and lets this user in; if a write was "
                "under way, load the session to see whether it was saved.",
                _first_line(error.orig),
            )
        return None

    def _locked(self) -> StoreError:
        return self.error(
            UnavailableError,
            f"Another writer has held its lock on {{store}} for more than {self._timeout:g} s. Nothing was written; "
            "try again, and see what holds it (a backup, a shell).",
        )


class _File:
    """A database's file, by what it is and not only by what it is called.

    Open connections follow a file that is moved, and new ones would make an empty one in its place.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._found = self._identity()

    def connect(self) -> sqlite3.Connection:
        """A connection to the file, which is not made where it is not there."""
        return sqlite3.connect(f"file:{quote(str(self.path))}?mode=rw", uri=True, check_same_thread=False)

    def in_place(self) -> bool:
        """Whether the path still leads to the file that was opened; a file that never was there is SQLite's affair."""
        if self._found is None:
            self._found = self._identity()
            return True
        return self._identity() == self._found

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino


def _wait(seconds: float) -> str:
    """Has an SQLite connection wait so long for others."""
    return f"PRAGMA busy_timeout = {round(seconds * 1000)}"


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError:
        # The text may hold a password.
        raise InvalidError(
            "The store's URL is malformed; write sqlite:///sessions.db or postgresql://user@host/database."
        ) from None
    if url.drivername not in _DRIVERS:
        raise InvalidError(f"A store is SQLite or PostgreSQL, not {url.drivername}: sqlite:/// or postgresql://.")
    if url.drivername.startswith("sqlite") and (url.database or "").startswith("file:"):
        raise InvalidError("SQLite's own file: addresses are not taken; write sqlite:///sessions.db.")
    return url.set(drivername=_DRIVERS[url.drivername])


def _engine(url: URL, file: _File | None, in_memory: bool, timeout: float) -> Engine:
    # Parameters are people's data and stay out of errors and logs.
    options: dict[str, Any] = {"hide_parameters": True}
    if in_memory:
        # One connection for all threads: another would be another database.
        options |= {"poolclass": QueuePool, "pool_size": 1, "max_overflow": 0}
        options |= {"connect_args": {"check_same_thread": False}}
    elif file is not None:
        options |= {"creator": file.connect}
    elif url.get_backend_name() == "postgresql":
        options |= {"pool_pre_ping": True, "pool_size": 10, "max_overflow": 10}
        if "connect_timeout" not in url.query:
            options |= {"connect_args": {"connect_timeout": max(2, round(timeout))}}
    try:
        return create_engine(url, **options)
    except ModuleNotFoundError:
        raise ImportError(f"PostgreSQL needs psycopg: {how_to_install('postgres')}") from None


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
