"""Kafka away: commands go on, the backlog is told, and nothing hangs (F18, F21, stack.md F12)."""

import asyncio
from collections.abc import Callable
from time import monotonic

import pytest

from deploy.local.kafka import LocalKafka
from shared.metrics import Metrics
from tests.conftest import Databases
from tests.integration.relay.conftest import SERVICE, Log, opened, sample, until


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(SERVICE, "test")


async def start(server: LocalKafka) -> None:
    server.launch()
    await asyncio.to_thread(server.wait_until_up)


async def says_backlog(log: Log, metrics: Metrics, count: int, head: int) -> None:
    await until(lambda: sample(metrics, "relay_backlog_events") == count)
    assert sample(metrics, "log_head_position") == head
    oldest = await log.pool.fetchval("SELECT recorded_at FROM es.event WHERE position = $1", head - count + 1)
    assert sample(metrics, "relay_oldest_unpublished_timestamp_seconds") == pytest.approx(oldest.timestamp())


@pytest.mark.timeout(300)  # Four starts of a broker.
async def test_kafka_away_at_the_start_in_the_middle_and_at_the_end(
    own_kafka: Callable[..., LocalKafka], database: Databases, metrics: Metrics
) -> None:
    server = own_kafka()
    server.kill()
    async with opened(database(), server.servers, "") as log:
        await log.append(3)
        async with log.relaying(metrics):
            await says_backlog(log, metrics, 3, 3)
            await start(server)
            await until(lambda: log.is_whole(3), within=30.0)

            server.kill()
            await log.append(40)
            await says_backlog(log, metrics, 40, 43)
            assert sample(metrics, "retries_total") >= 1
            await start(server)
            await until(lambda: log.is_whole(43), within=30.0)
            await until(lambda: sample(metrics, "relay_backlog_events") == 0)
            assert await log.positions() == list(range(1, 44))

            server.kill()
            await log.append(5)
            await says_backlog(log, metrics, 5, 48)
            began = monotonic()
        assert monotonic() - began < 5.0
        await start(server)
        async with log.relaying(metrics):
            await until(lambda: log.is_whole(48), within=30.0)


async def test_a_relay_stops_in_time_while_a_page_is_on_its_way_to_a_kafka_that_died(
    own_kafka: Callable[..., LocalKafka], database: Databases, metrics: Metrics
) -> None:
    server = own_kafka()
    async with opened(database(), server.servers, "") as log:
        async with log.relaying(metrics):
            await log.append(1)
            await until(lambda: log.is_whole(1))
            server.kill()
            await log.append(1)
            sealed = "SELECT max(position) FROM es.seal"

            async def is_sealed() -> bool:
                return bool(await log.pool.fetchval(sealed) == 2)

            await until(is_sealed)
            began = monotonic()
        assert monotonic() - began < 5.0
        assert not [task for task in asyncio.all_tasks() if "_sender_routine" in repr(task)]


async def test_all_of_kafka_s_data_is_lost_and_comes_back_from_the_store(
    own_kafka: Callable[..., LocalKafka], database: Databases, metrics: Metrics
) -> None:
    server = own_kafka()
    async with opened(database(), server.servers, "") as log, log.relaying(metrics):
        await log.append(2500)
        await until(lambda: log.is_whole(2500))
        server.remove()
        await start(server)
        await until(lambda: log.is_whole(2500), within=40.0)
