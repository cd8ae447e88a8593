"""`make up` and what it promises: one plain line when it cannot, everything ended when it ends, nobody else ever touched."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from deploy.local.children import Identity, wait_for
from deploy.local.environment import HOST, SERVICES, Ports, read_ports
from deploy.local.jars import LOCK, class_path, read_lock
from deploy.local.keys import Keys, issue_token, person_id
from deploy.local.places import CHECKOUT, JARS, Places
from deploy.local.postgres import LocalPostgres
from deploy.local.progress import Console
from deploy.local.supervisor import State, down
from deploy.local.trouble import Trouble
from shared.contracts import topics

NO_NETWORK = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"), "http://127.0.0.1:9")


def read_state(places: Places) -> State:
    state = State.read(places)
    assert state is not None
    return state


def everybody_of(state: State) -> list[Identity]:
    return [state.supervisor, *state.children.values()]


def a_free_base() -> int:
    while True:
        base = random.randrange(20_000, 32_000, 100)
        try:
            read_ports({"LEIFENG_PORT_BASE": str(base)}).check_free()
        except Trouble:
            continue
        return base


class Stack:
    """The command line, with a state folder and ports of its own and a network that answers nothing."""

    def __init__(self, state: Path) -> None:
        self.places = Places(state)
        base = a_free_base()
        self.ports: Ports = read_ports({"LEIFENG_PORT_BASE": str(base)})
        self.environment = {**os.environ, **NO_NETWORK, "LEIFENG_PORT_BASE": str(base), "LEIFENG_STATE": str(state)}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deploy.local", *words]
        return subprocess.run(command, cwd=CHECKOUT, env=self.environment, capture_output=True, text=True, timeout=60, check=False)

    def sql(self, text: str) -> str:
        password = Keys(self.places.secrets).admin_password()
        return LocalPostgres(self.places.data / "postgres", password, port=self.ports.postgres).execute(text)

    def up(self) -> State:
        done = self.run("up", "--detach", "--only-backing")
        assert done.returncode == 0, done.stdout + done.stderr
        return read_state(self.places)


@pytest.fixture
def stack(tmp_path: Path, kafka_class_path: str) -> Iterator[Stack]:
    stack = Stack(tmp_path / "state")
    yield stack
    assert stack.run("reset").returncode == 0


def test_a_later_start_needs_no_network_and_down_ends_everything(stack: Stack) -> None:
    first = stack.up()
    assert {"kafka", "postgres"} == first.children.keys()
    assert stack.run("status").returncode == 0
    assert "runs already" in stack.run("up").stdout
    assert stack.run("down").returncode == 0
    assert not any(one.lives() for one in everybody_of(first))
    assert stack.run("status").returncode == 1
    begin = time.monotonic()
    second = stack.up()
    assert time.monotonic() - begin < 15
    assert stack.run("down").returncode == 0
    assert not any(one.lives() for one in everybody_of(second))


def test_the_supervisors_death_ends_everything_and_the_next_start_goes_on_with_the_data(stack: Stack) -> None:
    first = stack.up()
    stack.sql("create table kept (n int); insert into kept values (7)")
    assert first.supervisor.send(signal.SIGKILL)
    assert all(one.gone(within=10) for one in everybody_of(first))
    second = stack.up()
    assert all(one.lives() for one in everybody_of(second))
    assert stack.sql("select n from kept") == "7"


def test_a_database_that_dies_is_started_again(stack: Stack) -> None:
    before = stack.up().children["postgres"]
    assert before.send(signal.SIGKILL)
    assert wait_for(lambda: read_state(stack.places).children["postgres"] != before, within=20)
    assert all(one.lives() for one in everybody_of(read_state(stack.places)))


def test_secrets_are_closed_to_others_and_stand_on_no_command_line_and_in_no_log(stack: Stack) -> None:
    state = stack.up()
    files = [file for file in stack.places.secrets.iterdir() if file.name.startswith("postgres-")]
    assert len(files) == 1 + len(SERVICES)
    assert stack.places.secrets.stat().st_mode & 0o777 == 0o700
    words = [file.read_text().strip() for file in files]
    told = [Path(f"/proc/{one.pid}/cmdline").read_text() for one in everybody_of(state)]
    told += [file.read_text(errors="replace") for file in stack.places.state.rglob("*.log*")]
    assert not any(word in text for word in words for text in told)
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in stack.places.secrets.iterdir())


def test_a_taken_port_is_named_in_one_line_with_the_way_out(stack: Stack) -> None:
    with socket.create_server((HOST, stack.ports.kafka)):
        done = stack.run("up", "--only-backing")
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert f"port {stack.ports.kafka} (Kafka) is taken" in line
    assert "LEIFENG_PORT_BASE=" in line
    assert not done.stderr


def test_down_never_signals_a_process_that_it_has_not_started(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "30"])
    try:
        used_again = Identity(stranger.pid, "another boot/1")
        State(used_again, {"kafka": used_again}, ready=True).write(Places(tmp_path))
        down(Places(tmp_path), Console())
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait(5)


def test_a_jar_with_another_content_is_refused(tmp_path: Path, kafka_class_path: str) -> None:
    (tmp_path / "jars").mkdir()
    for jar in read_lock():
        (tmp_path / "jars" / jar.file_name).symlink_to(JARS / "jars" / jar.file_name)
    assert len(class_path(tmp_path, Console()).split(":")) == len(read_lock())
    changed = tmp_path / "jars" / read_lock()[0].file_name
    content = changed.read_bytes()
    changed.unlink()
    changed.write_bytes(content + b"\0")
    with pytest.raises(Trouble, match=rf"{changed.name} has SHA-256 .* it is not used"):
        class_path(tmp_path, Console())


def test_a_first_start_without_network_says_so_in_one_line(stack: Stack) -> None:
    shutil.copytree(CHECKOUT / "deploy", stack.places.state / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "deploy.local", "--state", str(stack.places.state / "fresh"), "up", "--only-backing"]
    done = subprocess.run(command, cwd=stack.places.state, env=stack.environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert "needs a network" in errors[0]
    assert not done.stderr


def test_a_line_of_the_lock_that_is_none_is_named(tmp_path: Path) -> None:
    lock = tmp_path / "kafka.lock"
    lock.write_text(LOCK.read_text() + "nonsense\n")
    with pytest.raises(Trouble, match=f"line {len(read_lock()) + 2} is not"):
        read_lock(lock)


def test_no_two_parts_share_a_port_and_a_base_outside_the_range_is_refused() -> None:
    for environ in ({}, {"LEIFENG_PORT_BASE": "20000"}, {"LEIFENG_PORT_BASE": "65400"}):
        named = read_ports(environ).named()
        assert len(set(named.values())) == len(named) == 3 + 2 * len(SERVICES)
        assert max(named.values()) <= 65_535
    for wrong in ("", "80", "70000", "x", "²"):
        with pytest.raises(Trouble, match="is no port"):
            read_ports({"LEIFENG_PORT_BASE": wrong})


def test_the_stack_starts_the_services_that_the_contracts_name() -> None:
    assert SERVICES == topics.SERVICES


def test_the_same_name_is_the_same_person_and_no_token_lives_longer_than_a_quarter_of_an_hour(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    assert person_id("leader") == person_id("leader") != person_id("kiosk")
    assert person_id(str(person_id("leader"))) == person_id("leader")
    with pytest.raises(Trouble, match="15 minutes"):
        issue_token(keys, "issuer", person=person_id("leader"), role="activity_leader", unit="U1", minutes=16)
    with pytest.raises(Trouble, match="nobody is no role: choose one of bureau_admin, "):
        issue_token(keys, "issuer", person=person_id("leader"), role="nobody", unit="U1")


# The supervisor with a program of ours in place of a service: it serves /readyz, or ends at once.
DRIVER = """
    import sys
    from pathlib import Path
    from deploy.local.environment import read_ports
    from deploy.local.places import Places
    from deploy.local.progress import Console
    from deploy.local.supervisor import Ended, Program, Supervisor
    from deploy.local.trouble import Trouble

    state, port, code = sys.argv[1:]
    try:
        with Supervisor(Places(Path(state)), read_ports(), Console()) as supervisor:
            supervisor.start([Program("program", [sys.executable, "-c", code, port], {}, f"http://127.0.0.1:{port}/readyz")])
            supervisor.ready()
            supervisor.keep_up()
    except Ended:
        pass
    except Trouble as trouble:
        sys.exit(str(trouble))
"""
SERVES = """
import http.server, sys
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""
ENDS = "import sys; sys.exit('no key file')"


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[[str], tuple[subprocess.Popen[str], Places, str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> tuple[subprocess.Popen[str], Places, str]:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        command: Sequence[str] = [sys.executable, "-c", textwrap.dedent(DRIVER), str(tmp_path), str(port), code]
        process = subprocess.Popen(
            command, cwd=CHECKOUT, env={**os.environ, **NO_NETWORK}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process, Places(tmp_path), f"http://{HOST}:{port}/readyz"

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=10)


def is_ready(places: Places) -> bool:
    try:
        return read_state(places).ready
    except (AssertionError, json.JSONDecodeError):
        return False


def answers(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_a_service_process_that_dies_is_started_again(drive: Callable[[str], tuple[subprocess.Popen[str], Places, str]]) -> None:
    supervisor, places, url = drive(SERVES)
    assert wait_for(lambda: is_ready(places), within=20)
    first = read_state(places).children["program"]
    assert first.send(signal.SIGKILL)
    assert first.gone(within=5)
    assert wait_for(lambda: answers(url), within=20)
    second = read_state(places).children["program"]
    assert second != first
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(20) == 0
    assert not second.lives()


def test_a_service_process_that_ends_at_its_start_is_named_with_its_last_words(
    drive: Callable[[str], tuple[subprocess.Popen[str], Places, str]],
) -> None:
    supervisor, _, _ = drive(ENDS)
    _, told = supervisor.communicate(timeout=20)
    assert supervisor.returncode == 1
    (line,) = told.splitlines()
    assert "program has ended" in line
    assert "no key file" in line
