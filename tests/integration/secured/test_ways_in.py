"""Who may not come in is told why, by every client that we make, in words without a secret; who changes a password restarts nothing."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared import credentials, kafka
from shared.consumer.shell import Subscription
from shared.contracts.topics import TOPICS
from shared.credentials import (
    AccessError,
    BrokerUntrustedError,
    CertificateRefusedError,
    PasswordRefusedError,
    ProtocolDiffersError,
    SecretUnreadableError,
    why_not,
)
from shared.metrics import Metrics
from shared.settings import Secured, Servers
from tests.integration.relay.conftest import until
from tests.integration.secured.authority import Authority
from tests.integration.secured.conftest import ADMIN, Broker, Idle, secret
from tests.integration.secured.credentials import set_password

HUSH = "hush-not-this-one"
TOPIC = "hours.events"


async def produce(servers: Servers) -> None:
    await kafka.stop(await kafka.start_producer(servers, "test"))


async def consume(servers: Servers) -> None:
    await kafka.stop(await kafka.start_consumer(servers, "test", TOPIC))


async def administer(servers: Servers) -> None:
    await kafka.cluster_as_declared(servers, "", [TOPICS[TOPIC]])


async def subscribe(servers: Servers) -> None:
    subscription = Subscription(Idle(), servers, TOPIC, "hours.views", asyncio.Event(), Metrics("hours", "test"))
    async with asyncio.timeout(30):
        await subscription._connected()


CLIENTS: tuple[Callable[[Servers], Awaitable[None]], ...] = (produce, consume, administer, subscribe)


def world_readable(path: Path, text: str) -> Path:
    secret(path, text).chmod(0o644)
    return path


def wrong_password(broker: Broker, folder: Path) -> Servers:
    return replace(broker.as_("hours"), password_file=secret(folder / "other.password", HUSH))


def another_users_password(broker: Broker, folder: Path) -> Servers:
    return replace(broker.as_("hours"), password_file=broker.as_("registration").password_file)


def unknown_user(broker: Broker, folder: Path) -> Servers:
    return replace(broker.as_("hours"), user="nobody")


def unknown_authority(broker: Broker, folder: Path) -> Servers:
    return replace(broker.as_("hours"), ca_file=Authority(folder / "stranger", "Another CA").ca_file)


def whom_this_machine_trusts(broker: Broker, folder: Path) -> Servers:
    return replace(broker.as_("hours"), ca_file=None)


def another_host(broker: Broker, folder: Path) -> Servers:
    return replace(broker.as_("hours"), servers=broker.server.servers.replace("127.0.0.1", "localhost"))


def strangers_certificate(broker: Broker, folder: Path) -> Servers:
    certificate, key = Authority(folder / "stranger", "Another CA").issue("hours")
    return replace(broker.by_certificate("hours"), certificate_file=certificate, certificate_key_file=key)


def no_certificate(broker: Broker, folder: Path) -> Servers:
    return replace(broker.by_certificate("hours"), certificate_file=None, certificate_key_file=None)


def open_password_file(broker: Broker, folder: Path) -> Servers:
    return replace(broker.as_("hours"), password_file=world_readable(folder / "open.password", HUSH))


def open_key_file(broker: Broker, folder: Path) -> Servers:
    said = broker.by_certificate("hours")
    assert said.certificate_key_file is not None
    said.certificate_key_file.chmod(0o644)
    return said


def no_password_file(broker: Broker, folder: Path) -> Servers:
    return replace(broker.as_("hours"), password_file=folder / "nowhere")


def no_pem_file(broker: Broker, folder: Path) -> Servers:
    return replace(broker.as_("hours"), ca_file=secret(folder / "not.pem", HUSH))


def by_certificate_where_a_password_is_asked_for(broker: Broker, folder: Path) -> Servers:
    return replace(broker.by_certificate("hours"), servers=broker.server.servers)


def by_password_where_a_certificate_is_asked_for(broker: Broker, folder: Path) -> Servers:
    return replace(broker.as_("hours"), servers=broker.certificate_servers)


REFUSED: dict[Callable[[Broker, Path], Servers], tuple[type[AccessError], str]] = {
    wrong_password: (PasswordRefusedError, "Kafka has no user hours with the password in other.password"),
    another_users_password: (PasswordRefusedError, "no user hours with the password in registration.password"),
    unknown_user: (PasswordRefusedError, "no user nobody with"),
    unknown_authority: (BrokerUntrustedError, "does not hold against ca.pem .KAFKA_CA_FILE.: unable to get local issuer certificate"),
    whom_this_machine_trusts: (BrokerUntrustedError, "whom this machine trusts"),
    another_host: (BrokerUntrustedError, "certificate is not valid for 'localhost'"),
    strangers_certificate: (CertificateRefusedError, "certificate"),
    no_certificate: (CertificateRefusedError, "certificate"),
    open_password_file: (SecretUnreadableError, "open.password is open to everybody on this machine: chmod 600"),
    open_key_file: (SecretUnreadableError, "hours.key is open to everybody on this machine: chmod 600"),
    no_password_file: (SecretUnreadableError, "nowhere cannot be read: FileNotFoundError"),
    no_pem_file: (SecretUnreadableError, "not.pem cannot be used"),
    by_certificate_where_a_password_is_asked_for: (CertificateRefusedError, "wants SASL_SSL"),
    by_password_where_a_certificate_is_asked_for: (ProtocolDiffersError, "or want a certificate"),
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("way", REFUSED)
async def test_who_may_not_come_in_is_told_why_and_no_secret_is_in_it(
    broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture, way: Callable[[Broker, Path], Servers], client: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    error, words = REFUSED[way]
    servers = way(broker, tmp_path)
    with pytest.raises(error, match=words) as caught:
        await client(servers)
    shown = [caplog.text, repr(servers), *map(str, _chain(caught.value)), *map(repr, _chain(caught.value))]
    for hush in (HUSH, *broker.passwords.values()):
        assert not [each for each in shown if hush in each]
    assert isinstance(caught.value, kafka.LOST_ERRORS)  # A process goes on trying: the file or the user may yet be put right.


def _chain(error: BaseException | None) -> list[BaseException]:
    return [] if error is None else [error, *_chain(error.__cause__)]


@pytest.mark.parametrize("client", CLIENTS)
async def test_nobody_comes_in_without_saying_who_they_are(broker: Broker, client: Any) -> None:
    with pytest.raises(kafka.LOST_ERRORS):
        await client(broker.server.servers)
    why = await why_not(broker.server.servers)
    assert isinstance(why, ProtocolDiffersError)
    assert "KAFKA_SECURITY_PROTOCOL" in str(why)


@pytest.mark.parametrize("client", CLIENTS[:3])
async def test_who_may_come_in_does_by_password_and_by_certificate(granted: Broker, client: Any) -> None:
    await kafka.ensure_topics(granted.as_("creator"), "", TOPICS.values())
    for servers in (granted.as_("hours"), granted.by_certificate("hours")):
        assert await why_not(servers) is None
        await client(servers)


async def test_a_broker_that_is_away_is_no_question_of_access(broker: Broker) -> None:
    away = replace(broker.as_("hours"), servers="127.0.0.1:1")
    assert await why_not(away) is None
    with pytest.raises(kafka.LOST_ERRORS) as caught:
        await produce(away)
    assert not isinstance(caught.value, AccessError)


async def test_a_password_that_is_changed_counts_for_the_next_client_and_is_noticed_by_those_that_run(
    broker: Broker, tmp_path: Path
) -> None:
    file = secret(tmp_path / "rotated.password", "hush-first")
    rotated = replace(broker.as_(ADMIN), user="rotated", password_file=file)
    await set_password(broker.as_(ADMIN), "rotated", "hush-first")
    await until(lambda: comes_in(rotated))
    made_with = credentials.stamp(rotated)
    await set_password(broker.as_(ADMIN), "rotated", "hush-second")

    async def is_refused() -> bool:
        return not await comes_in(rotated)

    await until(is_refused)
    assert credentials.stamp(rotated) == made_with
    secret(tmp_path / "new", "hush-second").replace(file)
    assert credentials.stamp(rotated) != made_with
    await until(lambda: comes_in(rotated))


async def comes_in(servers: Secured) -> bool:
    try:
        async with kafka.admin_client(servers):
            return True
    except PasswordRefusedError:
        return False
