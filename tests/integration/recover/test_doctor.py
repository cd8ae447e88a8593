"""`doctor` finds nothing in a healthy service, and names each thing that is not as it should be."""

import re
from collections.abc import Callable
from pathlib import Path

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from deploy.local.kafka import LocalKafka
from deploy.local.postgres import LocalPostgres
from shared.doctor import Line
from tests.integration.recover.conftest import SERVICE, Ran, Site, run


def findings(ran: Ran) -> dict[str, Line]:
    """What was printed, by what was looked at."""
    found = {}
    for line in ran.out.splitlines():
        level, _, rest = line.partition("  ")
        if level.strip() in {"ok", "warn", "bad"}:
            what, _, text = rest.strip().partition(": ")
            found[what] = Line(level.strip(), what, text)  # type: ignore[arg-type]
    return found


async def set_retention(site: Site, value: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=site.kafka.servers)
    await admin.start()
    try:
        topic = f"{site.prefix}{SERVICE}.events"
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs={"retention.ms": value})])
    finally:
        await admin.close()


async def publish_something(site: Site) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=site.kafka.servers)
    await producer.start()
    try:
        await producer.send_and_wait(f"{site.prefix}{SERVICE}.events", b"of nobody")
    finally:
        await producer.stop()


async def test_a_healthy_service_has_no_finding_and_a_spoiled_one_has_one_for_each_thing(
    tmp_path: Path, own_postgres: Callable[..., LocalPostgres], kafka_server: LocalKafka
) -> None:
    site = Site(tmp_path, own_postgres(), kafka_server)
    site.migrate()
    site.start_service()
    try:
        await site.adopt()
        assert (await site.register(site.person())).status_code == 200
        await site.caught_up()
        halves = ("first", "second", "--first-custodian", "王一", "--second-custodian", "李二")
        assert (
            await site.run("keys", "split", *(str(tmp_path / each) for each in halves[:2]), *halves[2:], "--reason", "a test")
        ).code == 0
        healthy = await site.run("doctor")
        assert healthy.code == 0, healthy.out
        assert {what for what, line in findings(healthy).items() if line.level != "ok"} == {"rights"}, healthy.out
        assert findings(healthy)["rights"].text.startswith("Kafka asks nobody who they are")
        assert list(findings(healthy)) == [
            "migrations", "read models", "log", "roles", "parked keys", "consumers", "rights", "topics", "topic", "heads", "clocks", "keys",
            "escrow", "erasures", "reads", "durability", "disk", "grants", "locks",
        ]  # fmt: skip

        assert (await site.run("log", "read-only", "--reason", "a test")).code == 0
        assert (await site.run("role", "pause", "inbox", "--reason", "a test")).code == 0
    finally:
        site.stop()
    owner = site.database(SERVICE)
    for statement in (
        f'GRANT UPDATE ON es.event TO "{owner}_app"',
        f'GRANT SELECT ON keys.person TO "{owner}_reader"',
        f'REVOKE INSERT ON consumer.parked FROM "{owner}_app"',
        f'ALTER DATABASE "{owner}" SET synchronous_commit = off',
        "ALTER TABLE es.event DISABLE TRIGGER ALL",
        "UPDATE es.event SET recorded_at = recorded_at - interval '10 days'",
        "DELETE FROM public.migration WHERE set_name = 'eventstore' AND number = 2",
        "UPDATE consumer.views SET definition_hash = 'other'",
        "UPDATE consumer.head SET log_id = gen_random_uuid(), said_at = seen_at + interval '10 seconds'",
        "INSERT INTO consumer.parked VALUES ('views', 'registration', 1, 'k', 't', '', '', 'e', 'applied')",
        "INSERT INTO consumer.stopped VALUES ('views', 'registration', 'applied', 'PayloadError', 21)",
        "GRANT EXECUTE ON FUNCTION pg_try_advisory_lock(bigint) TO PUBLIC",
    ):
        await site.sql(SERVICE, statement)
    await set_retention(site, "1000")
    await publish_something(site)
    other_key = tmp_path / "other"
    other_key.write_text("ab" * 32)
    other_key.chmod(0o600)
    spoiled = await run(SERVICE, site.environment(SERVICE) | {"REGISTRATION_KEY_FILE": str(other_key)}, "doctor", "--free-gb", "0.001")
    assert spoiled.code == 1
    found = findings(spoiled)
    assert {what: line.level for what, line in found.items()} == {
        "migrations": "bad", "read models": "warn", "log": "warn", "roles": "warn", "parked keys": "warn", "consumers": "bad",
        "rights": "warn", "topics": "bad", "topic": "bad", "heads": "bad", "clocks": "bad", "keys": "bad", "escrow": "warn",
        "erasures": "ok", "reads": "ok",
        "durability": "bad", "disk": "bad", "grants": "bad", "locks": "warn",
    }  # fmt: skip
    assert "0002_decisions_are_appended_in_one_call.sql has not been applied" in found["migrations"].text
    assert "inbox paused" in found["roles"].text
    assert "retention.ms=1000, declared is -1" in found["topics"].text
    assert "the last record of" in found["topic"].text
    assert "synchronous_commit off" in found["durability"].text
    assert re.search(r"more each day of the last 10; what is free lasts for \d days: make room", found["disk"].text)
    assert f"{owner}_app may UPDATE es.event; {owner}_reader may SELECT keys.person" in found["grants"].text
    assert f"{owner}_app may not INSERT consumer.parked" in found["grants"].text


async def test_a_database_or_a_broker_that_is_away_is_a_finding_and_no_crash(site: Site) -> None:
    away = {"REGISTRATION_KAFKA_SERVERS": "127.0.0.1:1"}
    ran = await run(SERVICE, site.environment(SERVICE) | away, "doctor")
    assert ran.code == 1
    assert findings(ran)["topics"].level == "bad"
    assert findings(ran)["grants"].level == "ok"
    away = {"REGISTRATION_POSTGRES_DSN": "postgresql://nobody:x@127.0.0.1:1/none"}
    ran = await run(SERVICE, site.environment(SERVICE) | away, "doctor")
    assert (ran.code, findings(ran)["database"].level) == (1, "bad")
