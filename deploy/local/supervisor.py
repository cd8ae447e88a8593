"""One process that starts the whole local stack, keeps it up, and ends everything it has started.

Nothing survives it: the kernel kills its children when it dies, and lets PostgreSQL shut down. Nobody else is ever signalled: what is
written down about a process is its number and its start time, and both are compared first.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final, Self

from deploy.local.children import Child, Identity, last_lines, wait_for
from deploy.local.environment import HOST, SERVICES, Ports, base_url, database_of, login_of, service_environment
from deploy.local.kafka import LocalKafka, Node, installed
from deploy.local.keys import Keys, person_id
from deploy.local.places import CHECKOUT, Places
from deploy.local.postgres import LocalPostgres, forget_root_data
from deploy.local.progress import MEGABYTE, Console
from deploy.local.trouble import Trouble

_FREE_BYTES_MIN: Final = 600 * MEGABYTE
_READY_WITHIN_S: Final = 60.0
_MIGRATED_WITHIN_S: Final = 120.0
_SAMPLE_WITHIN_S: Final = 600.0
FIRST_PERSON: Final = "bureau-admin"
"""Whom `make up` gives a link to: the administrator of the sample."""
SAMPLE_UNIT: Final = "water-saving-office"
"""The unit that an SQL login is made for, as a sample."""
_LINK_WITHIN_S: Final = 30.0
_LOGINS_WITHIN_S: Final = 60.0
_DRAIN_S: Final = 35.0
"""A service answers SIGTERM within 30 s (operations 3.3)."""
_LOOK_EVERY_S: Final = 0.2
_BACKOFF_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_SETTLED_S: Final = 60.0
"""A process that has lived this long starts again at once when it dies."""
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""A proxy that stands in the environment is for the world outside."""


class Ended(BaseException):
    """Somebody wants the stack to end."""


@dataclass(frozen=True)
class Program:
    """A process of a service: what to run, and where it says that it is ready."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready_url: str


def service_programs(ports: Ports, keys: Keys) -> list[Program]:
    """The `api` and the `worker` of each service."""
    return [
        Program(
            f"{service}-{role}",
            [sys.executable, "-m", f"services.{service}", role],
            service_environment(service, ports, keys),
            f"http://{HOST}:{port}/readyz",
        )
        for service in SERVICES
        for role, port in (("api", ports.api[service]), ("worker", ports.worker[service]))
    ]


@dataclass
class _Kept:
    """Something that is started again when it dies."""

    name: str
    start: Callable[[], Child]
    child: Child
    since: float = field(default_factory=time.monotonic)
    deaths: int = 0
    due: float | None = None
    """When to start it again; None while it runs."""


class Supervisor:
    """Use as a context: leaving it ends everything it has started, in order."""

    def __init__(self, places: Places, ports: Ports, console: Console) -> None:
        self._places = places
        self._ports = ports
        self._console = console
        self._keys = Keys(places.secrets)
        self._kept: dict[str, _Kept] = {}
        self._backing: list[_Kept] = []
        self._kafka: LocalKafka | None = None
        self._postgres: LocalPostgres | None = None
        self._passing: list[Child] = []
        self._ready = False

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _end)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # The second Ctrl-C: the kernel ends the rest.
        self._console.say("stopping")
        services = [*(kept.child for kept in self._kept.values()), *self._passing]
        for child in services:
            child.send(signal.SIGTERM)
        for child in services:
            child.stop((signal.SIGTERM, _DRAIN_S))
        for server in (self._kafka, self._postgres):
            if server is not None:
                server.stop()
        (self._places.run / "state.json").unlink(missing_ok=True)
        self._console.say("stopped")

    def start_backing(self) -> None:
        """Broker and database, with a database and an owner role for each service. Raises Trouble."""
        with self._phase("Kafka and PostgreSQL are up"):
            jars = installed(self._console)
            ports = self._ports
            node = Node(ports.kafka, ports.kafka_controller)
            self._kafka = kafka = LocalKafka(self._places.data / "kafka", jars, nodes=[node])
            kafka.launch()
            self._write_state()
            self._postgres = postgres = LocalPostgres(self._places.data / "postgres", self._keys.admin_password(), port=ports.postgres)
            postgres.start()
            self._write_state()
            for service in SERVICES:
                postgres.ensure_role(database_of(service), self._keys.database_password(service))
                postgres.ensure_database(database_of(service), database_of(service))
            kafka.wait_until_up()
            self._backing = [_Kept("postgres", self._start_postgres, self._start_postgres()), _Kept("kafka", kafka.launch, kafka.launch())]

    def migrate(self) -> None:
        """Bring every service's database to its newest schema and make its topics, all services at once. Raises Trouble."""
        with self._phase(f"{len(SERVICES)} databases and their topics are migrated"):
            runs = {
                service: self._spawn(
                    f"{service}-migrate",
                    [sys.executable, "-m", f"services.{service}", "migrate"],
                    service_environment(service, self._ports, self._keys),
                )
                for service in SERVICES
            }
            self._passing = list(runs.values())
            for service, child in runs.items():
                self._wait_for_end(child, _MIGRATED_WITHIN_S, f"migrating {service}")
            self._passing = []

    def start(self, programs: Sequence[Program]) -> None:
        """Start processes of services, and wait until each is ready. Raises Trouble with the end of the log of one that ends instead."""
        with self._phase(f"{len(programs)} processes are ready"):
            for program in programs:
                self._keep(program.name, lambda program=program: self._spawn(program.name, program.command, program.environment))  # type: ignore[misc]
            self._write_state()
            end = time.monotonic() + _READY_WITHIN_S
            for program in programs:
                child = self._kept[program.name].child
                while not _is_ready(program.ready_url):
                    if not child.running():
                        raise Trouble(f"{program.name} has ended instead of getting ready, see {child.log}: {_last_line(child.log)}")
                    if time.monotonic() > end:
                        raise Trouble(
                            f"{program.name} is not ready after {_READY_WITHIN_S:.0f} s, see {child.log}: {_last_line(child.log)}"
                        )
                    self._console.tick(f"waiting for {program.name}")
                    time.sleep(0.1)

    def load_sample(self) -> None:
        """Play the sample year, once in the life of the data. Raises Trouble."""
        marker = self._places.data / "sample.loaded"
        if marker.exists():
            return
        with self._phase("the sample year is loaded"):
            environment = {
                name: value for service in SERVICES for name, value in service_environment(service, self._ports, self._keys).items()
            }
            environment |= {"LEIFENG_STATE": str(self._places.state)}
            child = self._spawn("sample", [sys.executable, "-m", "deploy.sample", "load"], environment)
            self._passing = [child]
            self._wait_for_end(child, _SAMPLE_WITHIN_S, "loading the sample year")
            self._passing = []
            marker.touch()

    def make_logins(self) -> None:
        """The SQL logins of the sample: in each service one that sees every unit and one of a unit, all at once. Raises Trouble."""
        wanted = [(service, unit) for service in SERVICES for unit in (None, SAMPLE_UNIT)]
        lacking = [(service, unit) for service, unit in wanted if not self._keys.login_file(login_of(service, unit)).exists()]
        if not lacking:
            return
        with self._phase(f"{len(lacking)} SQL logins are made"):
            runs = {}
            for service, unit in lacking:
                login = login_of(service, unit)
                sees = ["--all-units"] if unit is None else ["--unit", unit]
                command = [sys.executable, "-m", f"services.{service}", "logins", "add", "--name", login, *sees]
                command += ["--password-file", str(self._keys.login_file(login)), "--reason", "the sample", "--by", "make up"]
                runs[login] = self._spawn(f"{login}-login", command, service_environment(service, self._ports, self._keys))
            self._passing = list(runs.values())
            for login, child in runs.items():
                self._wait_for_end(child, _LOGINS_WITHIN_S, f"making the login {login}")
            self._passing = []

    def ready(self) -> None:
        """Say where to look, and let a waiting `up --detach` go."""
        self._ready = True
        self._write_state()
        self._console.say(f"ready after {self._console.elapsed():.1f} s")

    def keep_up(self) -> None:
        """Start again what dies, for ever; a process that dies again and again is waited for longer and longer."""
        while True:
            self._look_after_all()
            time.sleep(_LOOK_EVERY_S)

    def _look_after_all(self) -> None:
        for kept in (*self._backing, *self._kept.values()):
            self._look_after(kept)

    def _look_after(self, kept: _Kept) -> None:
        now = time.monotonic()
        if kept.due is None:
            if kept.child.running():
                return
            kept.deaths = 1 if now - kept.since > _SETTLED_S else kept.deaths + 1
            delay = _BACKOFF_S[min(kept.deaths, len(_BACKOFF_S)) - 1]
            kept.due = now + delay
            self._console.say(f"{kept.name} has died (exit code {kept.child.exit_code()}), starting it again in {delay:g} s")
        elif now >= kept.due:
            try:
                kept.child = kept.start()
            except (Trouble, OSError) as error:
                self._console.say(f"{kept.name} could not be started again: {error}")
                kept.deaths += 1
                kept.due = now + _BACKOFF_S[min(kept.deaths, len(_BACKOFF_S)) - 1]
                return
            kept.due, kept.since = None, now
            self._write_state()

    def _start_postgres(self) -> Child:
        assert self._postgres is not None
        self._postgres.start()
        assert self._postgres.child is not None
        return self._postgres.child

    def _keep(self, name: str, start: Callable[[], Child]) -> None:
        self._kept[name] = _Kept(name, start, start())

    def _spawn(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        self._places.logs.mkdir(parents=True, exist_ok=True)
        log = self._places.logs / f"{name}.log"
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        return Child(name, command, log=log, environment={**os.environ, "PYTHONUNBUFFERED": "1", **environment}, directory=CHECKOUT)

    def _wait_for_end(self, child: Child, within: float, doing: str) -> None:
        end = time.monotonic() + within
        while child.running() and time.monotonic() < end:
            self._look_after_all()
            self._console.tick(f"{doing}: {_last_line(child.log)}")
            time.sleep(0.05)
        if child.running():
            raise Trouble(f"{doing} takes longer than {within:.0f} s, see {child.log}")
        if child.exit_code() != 0:
            raise Trouble(f"{doing} has failed, see {child.log}: {_last_line(child.log)}")

    @contextlib.contextmanager
    def _phase(self, done: str) -> Iterator[None]:
        begin = self._console.elapsed()
        yield
        self._console.say(f"{done} ({self._console.elapsed() - begin:.1f} s)")

    def _write_state(self) -> None:
        children = {kept.name: kept.child for kept in self._kept.values()}
        if self._kafka is not None:
            children["kafka"] = self._kafka.children[0]
        if self._postgres is not None and self._postgres.child is not None:
            children["postgres"] = self._postgres.child
        me = Identity.of(os.getpid())
        assert me is not None
        state = State(me, {name: child.identity for name, child in children.items()}, self._ready)
        state.write(self._places)


@dataclass(frozen=True)
class State:
    """Who runs, as the supervisor has written it down."""

    supervisor: Identity
    children: Mapping[str, Identity]
    ready: bool

    def write(self, places: Places) -> None:
        """Replace the file in one step."""
        places.run.mkdir(parents=True, exist_ok=True)
        new = places.run / "state.new"
        content = {
            "supervisor": [self.supervisor.pid, self.supervisor.started],
            "children": {name: [child.pid, child.started] for name, child in self.children.items()},
            "ready": self.ready,
        }
        new.write_text(json.dumps(content), encoding="ascii")
        new.replace(places.run / "state.json")

    @classmethod
    def read(cls, places: Places) -> Self | None:
        """None when nothing has been started, or it was stopped in order."""
        try:
            content = json.loads((places.run / "state.json").read_text(encoding="ascii"))
        except FileNotFoundError:
            return None
        children = {str(name): Identity(int(pid), str(started)) for name, (pid, started) in content["children"].items()}
        pid, started = content["supervisor"]
        return cls(Identity(int(pid), str(started)), children, bool(content["ready"]))


def up(places: Places, ports: Ports, console: Console, *, only_backing: bool) -> None:
    """Start everything and stay until somebody wants the end. Raises Trouble."""
    if not sys.platform.startswith("linux"):
        raise Trouble("the local stack runs on Linux only: elsewhere use `docker compose up`")
    places.run.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(places.state).free
    if free < _FREE_BYTES_MIN:
        raise Trouble(
            f"the disk is almost full: {free // MEGABYTE} MB are free below {places.state}, {_FREE_BYTES_MIN // MEGABYTE} are needed"
        )
    with _only_one(places), contextlib.suppress(Ended):
        ports.check_free()
        keys = Keys(places.secrets)
        with Supervisor(places, ports, console) as supervisor:
            supervisor.start_backing()
            if not only_backing:
                supervisor.migrate()
                supervisor.start(service_programs(ports, keys))
                supervisor.load_sample()
                supervisor.make_logins()
            supervisor.ready()
            say_links(ports, console, only_backing=only_backing)
            if not only_backing:
                console.say(f"sign in:      {sign_in_link(places, ports, FIRST_PERSON)}   (once, within the hour)")
            supervisor.keep_up()


def up_detached(places: Places, console: Console, *, only_backing: bool) -> None:
    """Start a supervisor that stays behind, show what it says, and return when all is ready. Raises Trouble when it gives up."""
    running = State.read(places)
    if running is not None and running.supervisor.lives():
        raise Trouble(f"it runs already (process {running.supervisor.pid}): `make down` stops it")
    places.logs.mkdir(parents=True, exist_ok=True)
    log = places.logs / "supervisor.log"
    command = [sys.executable, "-m", "deploy.local", "--state", str(places.state), "up", *(["--only-backing"] if only_backing else [])]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=CHECKOUT, start_new_session=True)
    try:
        with log.open(encoding="utf-8", errors="replace") as told:
            while True:
                code = process.poll()
                console.pass_on(told.read())
                if code is not None:
                    raise Trouble("" if code else "it was stopped while it started")
                state = State.read(places)
                if state is not None and state.ready and state.supervisor.pid == process.pid:
                    time.sleep(0.1)
                    console.pass_on(told.read())
                    return
                time.sleep(0.1)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)
        process.wait(2 * _DRAIN_S)
        raise Trouble("stopped") from None


def down(places: Places, console: Console) -> None:
    """End what a supervisor of this checkout has started. Nothing else is touched. Raises Trouble."""
    state = State.read(places)
    if state is None:
        console.say("nothing runs")
        return
    if state.supervisor.send(signal.SIGTERM) and not state.supervisor.gone(2 * _DRAIN_S):
        state.supervisor.send(signal.SIGKILL)
    for name, child in state.children.items():  # There are some only when the supervisor was killed a moment ago.
        if child.lives():
            child.send(signal.SIGINT if name == "postgres" else signal.SIGTERM)
        if not child.gone(_DRAIN_S):
            child.send(signal.SIGKILL)
        if not child.gone(5.0):
            raise Trouble(f"{name} (process {child.pid}) does not end")
    (places.run / "state.json").unlink(missing_ok=True)
    console.say("stopped")


def reset(places: Places, console: Console) -> None:
    """Stop, and forget data, secrets and logs. Kafka's checked jars stay, so that the next start needs no network. Raises Trouble."""
    down(places, console)
    for folder in (places.data, places.secrets, places.logs, places.run):
        shutil.rmtree(folder, ignore_errors=True)
    forget_root_data(places.data / "postgres")
    console.say("forgotten: data, secrets, logs (Kafka's jars are kept)")


def query(places: Places, ports: Ports, service: str, sql: str, unit: str | None = None) -> str:
    """What a statement gives, as a table, of the SQL login that sees every unit, or that of a unit. Raises Trouble."""
    keys, login = Keys(places.secrets), login_of(service, unit)
    try:
        password = keys.login_file(login).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        how = "`make up` makes it" if unit in {None, SAMPLE_UNIT} else f"here only {SAMPLE_UNIT} has one"
        raise Trouble(f"there is no login {login}: {how}") from None
    server = LocalPostgres(places.data / "postgres", keys.admin_password(), port=ports.postgres)
    return server.query(sql, database_of(service), login, password)


def sign_in_link(places: Places, ports: Ports, person: str) -> str:
    """A link that signs an invented person in once, within the hour. Raises Trouble."""
    environment = {**os.environ, **service_environment("registration", ports, Keys(places.secrets))}
    command = [sys.executable, "-m", "services.registration", "sign-in-link", str(person_id(person))]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=_LINK_WITHIN_S, check=False)
    if done.returncode != 0:
        raise Trouble(f"no link could be made: {done.stderr.strip()[-300:]}")
    return done.stdout.strip().splitlines()[-1]


def status(places: Places, ports: Ports, console: Console) -> bool:
    """Say what runs; whether all that was started does."""
    state = State.read(places)
    if state is None or not state.supervisor.lives():
        console.say("nothing runs")
        return False
    living = {name: child.lives() for name, child in state.children.items()}
    for name, lives in living.items():
        console.say(f"{name}: {'runs' if lives else 'is down'}, process {state.children[name].pid}")
    say_links(ports, console, only_backing=not any("-" in name for name in living))
    return state.ready and all(living.values())


def say_links(ports: Ports, console: Console, *, only_backing: bool) -> None:
    """Where to look."""
    if not only_backing:
        for service in SERVICES:
            url = base_url(ports, service)
            console.say(
                f"{service:<13} {url}/   API {url}/api/v1/openapi.json   metrics {url}/metrics http://{HOST}:{ports.worker[service]}/metrics"
            )
        console.say("a token:      .venv/bin/python -m deploy.local token --person NAME --role ROLE --unit CODE")
        console.say("a sign-in:    .venv/bin/python -m deploy.local link --person NAME")
        console.say('SQL:          .venv/bin/python -m deploy.local sql SERVICE "SELECT * FROM api.freshness"')
    console.say(f"PostgreSQL {HOST}:{ports.postgres}, Kafka {HOST}:{ports.kafka}; `make down` or Ctrl-C stops everything")


@contextlib.contextmanager
def _only_one(places: Places) -> Iterator[None]:
    """One supervisor for one state folder."""
    with (places.run / "lock").open("w") as lock:
        # A killed one holds it no longer, though its PostgreSQL may still be shutting down: a moment's patience.
        def taken() -> bool:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        if not wait_for(taken, 1.0):
            state = State.read(places)
            raise Trouble(f"it runs already (process {state.supervisor.pid if state else 'unknown'}): `make down` stops it")
        state = State.read(places)
        if state is not None and not all(child.gone(30.0) for child in state.children.values()):
            raise Trouble("processes of a killed supervisor still run: `make down` stops them")
        yield


def _end(_number: int, _frame: FrameType | None) -> None:
    raise Ended


def _is_ready(url: str) -> bool:
    try:
        with _DIRECT.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _last_line(log: Path) -> str:
    lines = [line for line in last_lines(log, 20).splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "nothing said yet"
