"""A real PostgreSQL and a real Kafka for the tests, one of each for a whole run, started when the first test asks for it."""

import os
import secrets
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from deploy.local.kafka import LocalKafka, installed
from deploy.local.postgres import LocalPostgres, scratch_database
from deploy.local.progress import Console
from shared import logs
from tests.memory import in_memory

OWNER = "scratch_owner"
ROOM_BYTES_MIN = 12 << 30
"""A run leaves up to half of this in memory until it ends: mostly databases, ten megabytes each."""


@dataclass(frozen=True)
class Databases:
    """Makes databases on the test run's server. Call it: each call gives the address (DSN) of a fresh one, as its owner, no superuser."""

    server: LocalPostgres
    password: str

    def __call__(self, template: str | None = None) -> str:
        """An empty database, or a copy of the one whose address is `template` (close all connections to that one first)."""
        copied = None if template is None else template.rpartition("/")[2]
        return self.server.dsn(scratch_database(self.server, OWNER, copied), OWNER, self.password)

    def admin(self, dsn: str) -> str:
        """The same database as the superuser, for what only an operator may do."""
        return self.server.dsn(dsn.rpartition("/")[2])


@pytest.fixture(scope="session")
def kafka_class_path() -> str:
    """Kafka's checked jars; fetched by the first run on a machine."""
    return installed(Console())


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPostgres]:
    """PostgreSQL 18 without fsync: a killed server keeps every commit, a lost machine does not."""
    server = LocalPostgres(tmp_path_factory.mktemp("postgres"), secrets.token_hex(16), fsync=False)
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory, kafka_class_path: str) -> Iterator[LocalKafka]:
    """Kafka 4.3, one node. Shared by all tests: put `topic_prefix` before every topic. A test that kills it takes `own_kafka`."""
    server = LocalKafka(tmp_path_factory.mktemp("kafka"), kafka_class_path)
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def database(postgres_server: LocalPostgres) -> Databases:
    """Databases for the asking; see Databases. They go with the server at the end of the run."""
    password = secrets.token_hex(16)
    postgres_server.ensure_role(OWNER, password)
    return Databases(postgres_server, password)


@pytest.fixture
def topic_prefix() -> str:
    """Unique to the test."""
    return f"t{uuid.uuid4().hex[:12]}."


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Callable[..., LocalPostgres]]:
    """Makes servers that a test may stop, kill and start again; with fsync unless `fsync=False`."""
    made: list[LocalPostgres] = []

    def make(*, fsync: bool = True) -> LocalPostgres:
        server = LocalPostgres(tmp_path / f"postgres-{len(made)}", secrets.token_hex(16), fsync=fsync)
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.remove()


@pytest.fixture
def own_kafka(tmp_path: Path, kafka_class_path: str) -> Iterator[Callable[..., LocalKafka]]:
    """Makes brokers that a test may stop, kill and start again; `nodes=3` for a cluster."""
    made: list[LocalKafka] = []

    def make(*, nodes: int = 1) -> LocalKafka:
        server = LocalKafka(tmp_path / f"kafka-{len(made)}", kafka_class_path, nodes=nodes)
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.remove()


def plain_logs() -> None:
    """Log lines of the code under test as plain text: a traceback with every local variable in it takes seconds to draw."""
    structlog.configure(processors=[structlog.stdlib.add_log_level, logs.places_instead_of_messages, structlog.processors.LogfmtRenderer()])


def pytest_configure(config: pytest.Config) -> None:
    """No test may reach for a real programme's settings by accident; and what tests write lies in memory, unless somebody says where."""
    plain_logs()
    if (place := in_memory(ROOM_BYTES_MIN)) is not None:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", place)
    for name in [name for name in os.environ if name.split("_")[0] in {"REGISTRATION", "HOURS", "RECOGNITION", "LEIFENG"}]:
        del os.environ[name]
