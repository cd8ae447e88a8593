"""Another service's log was restored and has lost a tail that was read here: by command, what was read of it is read anew."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from deploy.local.kafka import LocalKafka
from services.hours.main import SERVICE
from shared import kafka
from shared.codec import Codec
from shared.consumer import Kafka, Setting, inbox, views, withdrawals
from shared.consumer.apply import Consumer
from shared.contracts.event import Event
from shared.contracts.registration import RoleWithdrawn, VolunteerRegistered
from shared.contracts.topics import EVENTS, TOPICS, UPCASTERS
from shared.digest import digest_of
from shared.eventstore.store import open_store
from shared.metrics import Metrics
from shared.migrate import roles_of
from shared.postgres import connect, open_pool
from shared.privacy import PersonalKeys
from shared.process import migrate_database
from shared.rebuild import RebuildError, Rebuilding, rebuild
from shared.worker import LOCK_SPACE, ROLES
from tests.conftest import Databases
from tests.integration.consumer.log import Log, Message, publish

CODEC = Codec(EVENTS, UPCASTERS)


def say(log: Log, event: Event, person: UUID) -> None:
    log.say(str(person), event, payload=CODEC.encode(event, uuid4()))


def register(log: Log, person: UUID) -> None:
    """One more volunteer, of whom nothing is known."""
    event = VolunteerRegistered(
        volunteer_id=person, number=str(person.int % 10**8), unit_code="water-saving-office", name=None, id_number=None, phone=None,
        is_minor=False, skills=None,
    )  # fmt: skip
    say(log, event, person)


def messages(log: Log) -> list[Message]:
    return [log.message(position) for position in range(1, len(log.records) + 1)]


@asynccontextmanager
async def hours(database: Databases, servers: str, prefix: str, said: list[str]) -> AsyncIterator[tuple[str, Rebuilding]]:
    """The address of a database of the service, and what rebuilds its read models."""
    dsn = database()
    owner = await connect(dsn, "owner", statement_seconds=30)
    await migrate_database(owner, SERVICE, "system")
    roles, metrics = await roles_of(owner), Metrics("hours", "test")
    async with open_pool(dsn, "test", 6, role=roles.app) as pool:
        store = await open_store(pool, "hours", metrics)
        setting = Setting(
            consumers=SERVICE.consumers, pool=pool, kafka=Kafka(servers, prefix), codec=CODEC, keys=PersonalKeys(pool, bytes(32)),
            metrics=metrics,
        )  # fmt: skip
        yield dsn, Rebuilding(
            owner=owner, roles=roles, setting=setting, store=store, api_sql=SERVICE.api_sql, imbalance=SERVICE.imbalance, say=said.append,
            accept_loss=True,
        )  # fmt: skip
        await store.close()
    await owner.close()


async def take(work: Rebuilding, log: Log) -> None:
    """All three consumers read registration's log to its end."""
    setting = work.setting
    for part in (*views.parts(setting), *inbox.parts(setting), *withdrawals.parts(setting)):
        if part.source == "registration":
            consumer = Consumer(part, setting.pool, setting.metrics)
            await consumer.begin()
            assert not await consumer.take(messages(log))


async def places(work: Rebuilding) -> set[tuple[str, int, bytes]]:
    rows = await work.owner.fetch(
        "SELECT consumer, applied, applied_hash FROM consumer.position WHERE log = 'registration' AND consumer NOT LIKE 'views@%'"
    )
    return {tuple(row) for row in rows}


async def test_what_was_read_of_a_tail_that_is_lost_is_forgotten_by_command_and_the_log_followed_again(
    database: Databases, kafka_server: LocalKafka, topic_prefix: str
) -> None:
    servers, said, lost, new = kafka_server.servers, list[str](), uuid4(), uuid4()
    known, log = [uuid4(), uuid4()], Log("registration")
    for person in known:
        register(log, person)
    fork = Log("registration", log.log_id, list(log.records), list(log.hashes))
    register(log, lost)
    say(log, RoleWithdrawn(person_id=known[0], role="unit_admin", unit_code="water-saving-office", reason=None), known[0])
    register(fork, new)
    names = [f"{service}.{kind}" for service in ("registration", "hours") for kind in ("events", "heads")]
    await kafka.ensure_topics(servers, topic_prefix, [TOPICS[each] for each in names])
    await publish(servers, f"{topic_prefix}registration.events", messages(fork))
    word = {"log_id": str(log.log_id), "head": 3, "sealed": 3, "published": 3, "chain_hash": fork.hashes[3].hex()}
    value = json.dumps({**word, "time": datetime.now(UTC).isoformat()}).encode()
    await publish(servers, f"{topic_prefix}registration.heads", [Message(0, [], value, "registration")])

    async with (
        hours(database, servers, topic_prefix, said) as (dsn, work),
        hours(database, servers, topic_prefix, []) as (other_dsn, other),
    ):
        await take(work, log)
        await take(other, fork)
        assert await places(work) == {(each, 4, log.hashes[4]) for each in ("views", "inbox", "withdrawals")}

        worker = await connect(dsn, "worker")
        await worker.execute("SELECT pg_advisory_lock($1, $2)", LOCK_SPACE, ROLES.index("inbox"))
        with pytest.raises(RebuildError, match=r"a worker is at work \(inbox\)"):
            await rebuild(work, asyncio.Event())
        await worker.close()

        assert await rebuild(work, asyncio.Event())
        assert "accepted: registration: behind the live read models" in said
        assert await places(work) == {(each, 3, fork.hashes[3]) for each in ("views", "inbox", "withdrawals")}
        register(fork, uuid4())
        for each in (work, other):
            await take(each, fork)
        assert (await digest_of(dsn)).tables == (await digest_of(other_dsn)).tables
        for query in (
            "SELECT volunteer_id FROM lookup.volunteers ORDER BY 1",
            "SELECT subject, kind, position FROM consumer.withdrawn ORDER BY 1, 2",
        ):
            assert await work.owner.fetch(query) == await other.owner.fetch(query), query
