"""Kafka away, or back without its data: commands go on, the backlog is told, nothing hangs, all is published (F18, F21, stack.md F12)."""

import asyncio
from pathlib import Path
from time import monotonic

import pytest

from deploy.local.kafka import LocalKafka
from shared.metrics import Metrics
from tests.conftest import Databases
from tests.integration.relay.conftest import SERVICE, Log, finding, opened, sample, until


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


@pytest.mark.timeout(300)  # Three starts of a broker.
async def test_kafka_away_at_the_start_in_the_middle_without_its_data_and_at_the_end(
    tmp_path: Path, kafka_class_path: str, database: Databases, metrics: Metrics
) -> None:
    server = LocalKafka(tmp_path, kafka_class_path)
    try:
        async with opened(database(), server.servers, "") as log:
            await log.append(3)
            async with log.relaying(metrics):
                await says_backlog(log, metrics, 3, 3)
                await start(server)
                await until(lambda: log.is_whole(3), within=30.0)

                server.kill()
                await log.append(2500)
                await says_backlog(log, metrics, 2500, 2503)
                assert sample(metrics, "retries_total") >= 1
                await start(server)
                await until(lambda: log.is_whole(2503), within=30.0)
                await until(lambda: sample(metrics, "relay_backlog_events") == 0)
                assert await log.positions() == list(range(1, 2504))

                server.remove()
                await log.append(5)
                await start(server)
                await until(lambda: log.is_whole(2508), within=40.0)
                await until(lambda: sample(metrics, "log_published_position") == 2508)  # Before it has heard of these it seals nothing.
                assert sum(finding(metrics, each) for each in ("rewritten", "lost_tail")) >= 1
                assert await log.positions() == list(range(1, 2509))

                looked = sample(metrics, "retries_total")
                server.kill()
                await log.append(1)
                # It publishes to nobody; or its own word came first, and it looks for the end of a topic that nobody has.
                await until(lambda: is_under_way(log, 2509, metrics, looked))
                began = monotonic()
            assert monotonic() - began < 5.0
            assert not [task for task in asyncio.all_tasks() if "_sender_routine" in repr(task)]
    finally:
        server.remove()


async def is_under_way(log: Log, position: int, metrics: Metrics, looked: float) -> bool:
    sealed: bool = await log.pool.fetchval("SELECT max(position) = $1 FROM es.seal", position)
    return sealed or sample(metrics, "retries_total") > looked
