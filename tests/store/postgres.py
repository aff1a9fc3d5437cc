"""A PostgreSQL server of its own for the tests, on a Unix socket, as Debian and others install it."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg


def find_binaries() -> Path | None:
    """The folder with initdb and pg_ctl; ``None`` if no server is installed."""
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4]))
    return installed[-1].parent if installed else None


def unprivileged_user() -> str | None:
    """Who the server runs as: PostgreSQL refuses to be root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


class Server:
    """A running cluster that is deleted when stopped."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._user = unprivileged_user()
        self.folder = Path(tempfile.mkdtemp(prefix="deltamem-pg-"))
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        self._data = self.folder / "data"
        self._run("initdb", "-D", self._data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        self.start()

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off -c max_connections=60 -c wal_recycle=off"
        self._run("pg_ctl", "-D", self._data, "-l", self.folder / "log", "-o", options, "-w", "start")

    def restart(self) -> None:
        """Throws every client out and starts anew."""
        self._run("pg_ctl", "-D", self._data, "-m", "fast", "-w", "stop")
        self.start()

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def empty_database(self) -> str:
        """The URL of the one database, emptied: making one for every test would cost megabytes each."""
        with psycopg.connect(f"host={self.folder} user=tester dbname=postgres", autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return f"postgresql://tester@/postgres?host={self.folder}"

    def _run(self, program: str, *arguments: str | Path) -> None:
        # Output goes to a file: the server inherits it, and a pipe would never end.
        with open(self.folder / "output", "ab") as output:
            done = subprocess.run(
                [self._binaries / program, *arguments],
                user=self._user,
                cwd=self.folder,
                stdout=output,
                stderr=output,
                timeout=60,
            )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {(self.folder / 'output').read_text()}")
