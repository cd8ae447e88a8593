"""Who may do what on Kafka is what the table says, for everybody and everything, on a broker that asks who one is."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka.errors import ClusterAuthorizationFailedError, GroupCoordinatorNotAvailableError, TopicAuthorizationFailedError, for_code
from aiokafka.protocol.admin import CreateAclsRequest, ListGroupsRequest

from shared import acls, kafka
from shared.consumer.shell import Subscription
from shared.contracts.rights import CREATOR, OPERATIONS, PRINCIPALS, RIGHTS, may
from shared.contracts.topics import SERVICES, SUBSCRIPTIONS, TOPICS
from shared.credentials import RightMissingError
from shared.metrics import Metrics
from shared.relay.publisher import Publisher
from shared.relay.steps import START, Outgoing
from tests.integration.relay.conftest import until
from tests.integration.secured.attempts import GROUP_ATTEMPTS, TOPIC_ATTEMPTS, is_refused
from tests.integration.secured.conftest import ADMIN, PREFIXES, Broker, Idle

OURS, ANOTHER = TRIED = PREFIXES[1:]
GROUPS = ("views", "inbox", "reactions", "withdrawals", "views@2")


@pytest.fixture(scope="module")
async def topics(granted: Broker) -> Broker:
    """The topics of both installations, made by who may make them."""
    for prefix in TRIED:
        await kafka.ensure_topics(granted.as_(f"{prefix}{CREATOR}"), prefix, TOPICS.values())
    async with kafka.admin_client(granted.as_(ADMIN)) as admin:
        await until(lambda: groups_are_known(admin))
    return granted


async def groups_are_known(admin: Any) -> bool:
    """A fresh broker makes its topic of groups when it is first asked for one."""
    try:
        await admin.find_coordinator("anything")
    except GroupCoordinatorNotAvailableError:
        return False
    return True


def test_the_table_says_what_the_services_do_and_no_more() -> None:
    assert {each.principal for each in RIGHTS} == set(PRINCIPALS)
    for service in SERVICES:
        sources = {each.source for each in SUBSCRIPTIONS if each.consumer.startswith(f"{service}.")}
        for topic in TOPICS.values():
            rights = may(service, "topic", topic.name)
            assert ("WRITE" in rights) == (topic.owner == service), topic.name
            assert ("READ" in rights) == (topic.owner in sources), topic.name
            assert not rights & {"CREATE", "DELETE", "ALTER", "ALTER_CONFIGS"}, topic.name
    assert all(not may(CREATOR, "topic", name) & {"READ", "WRITE", "DELETE", "ALTER", "ALTER_CONFIGS"} for name in TOPICS)


@pytest.mark.parametrize("principal", PRINCIPALS)
async def test_everybody_may_do_with_every_topic_what_the_table_says_and_is_refused_the_rest(topics: Broker, principal: str) -> None:
    who = topics.as_(f"{OURS}{principal}")
    assert TOPIC_ATTEMPTS.keys() == set(OPERATIONS["topic"])
    refused, allowed = set[tuple[str, str]](), set[tuple[str, str]]()
    async with kafka.admin_client(who) as admin:
        for name in TOPICS:
            for operation, attempt in TOPIC_ATTEMPTS.items():
                for prefix in TRIED:
                    outcome = refused if await is_refused(attempt, admin, who, f"{prefix}{name}") else allowed
                    outcome.add((operation, f"{prefix}{name}"))
    assert allowed == {(operation, f"{OURS}{name}") for name in TOPICS for operation in may(principal, "topic", name)}
    assert len(allowed) + len(refused) == len(TOPICS) * len(TOPIC_ATTEMPTS) * len(TRIED)


@pytest.mark.parametrize("principal", PRINCIPALS)
async def test_everybody_commits_in_their_own_groups_and_in_nobody_elses(topics: Broker, principal: str) -> None:
    who = topics.as_(f"{OURS}{principal}")
    groups = [f"{prefix}{service}.{name}" for prefix in TRIED for service in SERVICES for name in GROUPS]
    own = {each for each in groups if each.startswith(f"{OURS}{principal}.")}
    async with kafka.admin_client(who) as admin:
        for operation, attempt in GROUP_ATTEMPTS.items():
            assert {each for each in groups if not await is_refused(attempt, admin, who, each)} == own, operation


@pytest.mark.parametrize("principal", PRINCIPALS)
async def test_nobody_makes_a_topic_that_is_not_declared_or_rules_over_the_cluster(topics: Broker, principal: str) -> None:
    who = topics.as_(f"{OURS}{principal}")
    async with kafka.admin_client(who) as admin:
        for name in (f"{OURS}hours.event", f"{OURS}hours.events.copy", "anything"):
            assert await is_refused(TOPIC_ATTEMPTS["CREATE"], admin, who, name), name
        entry = (2, "*", 3, f"User:{who.user}", "*", 2, 3)  # All of every topic, to oneself.
        answer = await admin._send_request(CreateAclsRequest(*entry))
        assert for_code(answer.creation_responses[0][0]) is ClusterAuthorizationFailedError
        assert not (await admin._send_request(ListGroupsRequest())).groups or principal in SERVICES  # At most those of one's own.
    with pytest.raises(RightMissingError, match="administrator"):
        await acls.apply(who, OURS)


@pytest.mark.parametrize("prefix", TRIED)
@pytest.mark.parametrize("principal", PRINCIPALS)
async def test_whoever_has_the_rights_of_the_table_finds_no_difference(topics: Broker, principal: str, prefix: str) -> None:
    assert await acls.differences(topics.as_(f"{prefix}{principal}"), prefix, principal) == []


async def test_a_service_without_its_topics_is_told_who_may_make_them(topics: Broker) -> None:
    missing = "east."
    with pytest.raises(RightMissingError, match=rf"topic {missing}hours\.\w+ does not exist, and this user may not make it"):
        await kafka.ensure_topics(topics.as_(f"{OURS}hours"), missing, [TOPICS["hours.events"]])


@pytest.fixture
async def spoiled(topics: Broker) -> AsyncIterator[Broker]:
    """Something of hours is missing, and it may do more than it should."""
    need = acls.wanted(ANOTHER)
    hours, rest = f"{ANOTHER}hours", "registration.heads"
    gone = next(each for each in need if (each.user, each.name, each.operation) == (hours, f"{ANOTHER}{rest}", "READ"))
    extra = acls.Acl(hours, "topic", f"{ANOTHER}recognition.events", "literal", "WRITE")
    broad = acls.Acl("passer-by", "topic", ANOTHER, "prefixed", "READ")
    async with kafka.admin_client(topics.as_(ADMIN)) as admin:
        await acls.take(admin, gone)
        await acls.give(admin, extra)
        await acls.give(admin, broad)
        yield topics
        await acls.apply(topics.as_(ADMIN), ANOTHER)
        await acls.take(admin, broad)


async def test_what_lacks_and_what_is_too_much_is_named_and_one_command_puts_it_right(spoiled: Broker) -> None:
    hours, admin = spoiled.as_(f"{ANOTHER}hours"), spoiled.as_(ADMIN)

    async def differs() -> bool:
        return await acls.differences(hours, ANOTHER, "hours") == [
            f"may not DESCRIBE, READ topic {ANOTHER}registration.heads",
            f"may DESCRIBE, WRITE topic {ANOTHER}recognition.events",
        ]

    await until(differs)
    done = await acls.apply(admin, ANOTHER)
    assert list(map(str, done.given)) == [f"{hours.user} READ topic {ANOTHER}registration.heads"]
    assert list(map(str, done.taken)) == [f"{hours.user} WRITE topic {ANOTHER}recognition.events"]
    assert list(map(str, done.others)) == [f"passer-by READ topic {ANOTHER}*"]  # Not ours to change.

    async def is_well() -> bool:
        return await acls.differences(hours, ANOTHER, "hours") == []

    await until(is_well)
    again = await acls.apply(admin, ANOTHER)
    assert (again.given, again.taken) == ([], [])


@pytest.mark.parametrize("topic", [f"{OURS}recognition.events", f"{ANOTHER}registration.events"])
async def test_a_reader_who_may_not_read_says_so_and_does_not_wait_in_silence(topics: Broker, topic: str) -> None:
    hours = topics.as_(f"{OURS}hours")
    with pytest.raises(RightMissingError, match=f"this user may not read {topic}: `acls apply` gives the right"):
        await Subscription(Idle(), hours, topic, f"{OURS}hours.views", asyncio.Event(), Metrics("hours", "test"))._connected()
    consumer = await kafka.start_consumer(hours, "test", topic)
    try:
        with pytest.raises(RightMissingError):
            await kafka.offsets(consumer, topic)
    finally:
        await kafka.stop(consumer)


@pytest.mark.parametrize("service", [each for each in SERVICES if each != "hours"])
async def test_the_relays_own_producer_is_refused_by_another_services_topics(topics: Broker, service: str) -> None:
    publisher = Publisher(topics.as_(f"{OURS}hours"), OURS, service, Metrics(service, "test"))
    try:
        with pytest.raises(TopicAuthorizationFailedError):
            await publisher.say(b"{}")
        await publisher.drop("refused")
        with pytest.raises(TopicAuthorizationFailedError):
            await publisher.publish([Outgoing(START, b"key", [], b"{}")])
    finally:
        await publisher.close()


def test_the_lines_for_kafkas_own_tool_say_each_right_once() -> None:
    lines = list(acls.tool_lines(OURS))
    said = {
        (line.split("User:")[1].split("'")[0], line.split("'")[-2], operation)
        for line in lines
        for operation in re.findall(r"--operation (\w+)", line)
    }
    assert said == {(each.user, each.name, "".join(map(str.title, each.operation.split("_")))) for each in acls.wanted(OURS)}
    assert all(("prefixed" in line) == ("--group" in line) for line in lines)
