"""One running system for the tests that only use it; those that break things start their own."""

from collections.abc import AsyncIterator, Iterator

import pytest

from deploy.local.kafka import LocalKafka
from deploy.local.postgres import LocalPostgres
from tests.e2e.stack import Stack, running
from tests.e2e.stage import Stage


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory, postgres_server: LocalPostgres, kafka_server: LocalKafka) -> Iterator[Stack]:
    """Six processes on the travelling clock, with nothing in their logs yet."""
    with running(tmp_path_factory.mktemp("stack"), postgres_server, kafka_server) as made:
        yield made


@pytest.fixture(scope="package")
async def stage(stack: Stack) -> AsyncIterator[Stage]:
    """The same system with its programme and policies adopted."""
    made = Stage(stack)
    await made.set()
    yield made
    await made.close()
