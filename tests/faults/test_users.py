"""The harness's own Kafka: it lets in whom it knows, by a password, to what was given to them; and it can be taught all of it anew."""

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local.environment import SERVICES
from deploy.local.kafka import HOST, LocalKafka, Node, free_ports
from shared import acls, kafka
from shared.contracts.rights import PRINCIPALS
from shared.contracts.topics import TOPICS
from shared.settings import Secured
from tests.faults.users import DOORS, Users

PREFIX = "faults."
TOPIC = f"{PREFIX}hours.events"


@dataclass(frozen=True)
class Place:
    """A broker and its users, in a folder."""

    kafka: LocalKafka
    users: Users
    folder: Path

    def door(self, name: str) -> str:
        """Where one comes in, in no proxy's way."""
        return f"{HOST}:{self.kafka.nodes[0].doors[name][0]}"

    def as_(self, service: str) -> Secured:
        """As its processes are told to come in."""
        said = self.users.settings(service, service, PREFIX, [self.door(service.upper())])
        its = {name.removeprefix(f"{service.upper()}_KAFKA_"): value for name, value in said.items()}
        assert its["SECURITY_PROTOCOL"] == "SASL_SSL"
        return Secured(
            servers=its["SERVERS"], protocol="SASL_SSL", user=its["USER"], password_file=Path(its["PASSWORD_FILE"]),
            ca_file=Path(its["CA_FILE"]), certificate_file=None, certificate_key_file=None,
        )  # fmt: skip


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory, kafka_class_path: str) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("users")
    ports = iter(free_ports(2 + len(DOORS)))
    node = Node(next(ports), next(ports), {door: (port := next(ports), port) for door in DOORS})
    users = Users(folder / "users")
    server = LocalKafka(folder / "kafka", kafka_class_path, nodes=[node], secured=users.brokers())
    try:
        server.start()
        await users.admit(server, PREFIX)
        await kafka.ensure_topics(server.servers, PREFIX, TOPICS.values())
        yield Place(server, users, folder)
    finally:
        server.remove()


async def lets_in(place: Place, principal: str, password: str) -> bool:
    [one] = await place.users.lets_in(place.kafka, acls.user_of(PREFIX, principal), password)
    return one


@pytest.mark.parametrize("principal", PRINCIPALS)
async def test_everybody_is_let_in_by_their_own_password_alone(place: Place, principal: str) -> None:
    assert await lets_in(place, principal, place.users.password(principal))
    other = PRINCIPALS[PRINCIPALS.index(principal) - 1]
    assert not await lets_in(place, principal, place.users.password(other))
    assert not await lets_in(place, "nobody", place.users.password(principal))


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_may_do_by_its_door_what_the_table_of_rights_says_and_nothing_else(place: Place, service: str) -> None:
    assert await acls.differences(place.as_(service), PREFIX, service) == []
    other = SERVICES[SERVICES.index(service) - 1]
    assert await acls.differences(place.as_(service), PREFIX, other)


async def test_the_harness_comes_by_the_brokers_own_door_and_may_do_everything(place: Place) -> None:
    assert "may ALTER" in "".join(await acls.differences(place.kafka.servers, PREFIX, "hours"))
    producer = await kafka.start_producer(place.kafka.servers, "harness")
    try:
        sent = await producer.send_and_wait(TOPIC, b"of no log", key=b"nobody", partition=0)
    finally:
        await kafka.stop(producer)
    assert sent.topic == TOPIC


async def test_a_password_that_was_changed_counts_from_then_on_and_the_old_one_no_more(place: Place) -> None:
    old, new = place.users.password("hours"), secrets.token_hex(24)
    user = acls.user_of(PREFIX, "hours")
    await place.users.change(place.kafka, user, old, new)
    try:
        assert (await lets_in(place, "hours", old), await lets_in(place, "hours", new)) == (False, True)
        with pytest.raises(AssertionError, match=r"did not count"):
            await place.users.change(place.kafka, user, old, new)
    finally:
        await place.users.change(place.kafka, user, new, old)


async def test_brokers_that_have_lost_everything_know_everybody_again_when_they_are_told(place: Place) -> None:
    """Last: topics are gone."""
    place.kafka.kill()
    shutil.rmtree(place.folder / "kafka" / "node-0" / "data")
    place.kafka.launch()
    await asyncio.to_thread(place.kafka.wait_until_up)
    assert not await lets_in(place, "hours", place.users.password("hours"))
    await place.users.admit(place.kafka, PREFIX)
    assert await lets_in(place, "hours", place.users.password("hours"))
    await kafka.ensure_topics(place.kafka.servers, PREFIX, TOPICS.values())
    assert await acls.differences(place.as_("hours"), PREFIX, "hours") == []
