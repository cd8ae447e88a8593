"""Systems to break: one on the test run's servers for what only kills our processes, one on servers of its own for outages."""

import secrets
from collections.abc import Iterator

import pytest

from deploy.local.kafka import LocalKafka
from deploy.local.postgres import LocalPostgres
from tests.faults.system import System


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, postgres_server: LocalPostgres, kafka_server: LocalKafka) -> Iterator[System]:
    """Migrated, with nothing running: a module starts the processes that it needs."""
    made = System(tmp_path_factory.mktemp("system"), postgres_server, kafka_server)
    made.migrate()
    yield made
    made.remove()


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory, kafka_class_path: str) -> Iterator[System]:
    """On a PostgreSQL (with fsync) and a Kafka of its own, which the tests stop, kill and freeze. All six processes run."""
    folder = tmp_path_factory.mktemp("fragile")
    postgres = LocalPostgres(folder / "postgres", secrets.token_hex(16))
    kafka = LocalKafka(folder / "kafka", kafka_class_path)
    made: System | None = None
    try:
        kafka.launch()
        postgres.start()
        kafka.wait_until_up()
        made = System(folder, postgres, kafka)
        made.migrate()
        made.start()
        yield made
    finally:
        if made is not None:
            made.remove()
        kafka.remove()
        postgres.remove()
