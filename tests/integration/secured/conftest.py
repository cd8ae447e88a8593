"""A real Kafka that asks who one is: SASL_SSL with SCRAM-SHA-512, TLS inside, an authorizer that lets nobody do what nobody was given."""

import secrets
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from deploy.local.kafka import HOST, LocalKafka, Node, free_ports
from deploy.local.kafka import Secured as SecuredBroker
from shared import acls
from shared.contracts.rights import PRINCIPALS
from shared.settings import Secured
from tests.integration.secured.authority import Authority
from tests.integration.secured.shipped import shipped_properties

ADMIN = "admin"
PREFIXES = ("", "north.", "south.")
"""Installations on one cluster: services run in the first, everything is tried in the others."""


@dataclass(frozen=True)
class Broker:
    """The broker, and the hands of each of its users."""

    server: LocalKafka
    authority: Authority
    folder: Path
    passwords: Mapping[str, str]
    certificate_servers: str
    """Where one comes in by certificate."""

    def as_(self, user: str) -> Secured:
        """One of its users, by password."""
        return Secured(
            servers=self.server.servers,
            protocol="SASL_SSL",
            user=user,
            password_file=self.folder / f"{user}.password",
            ca_file=self.authority.ca_file,
            certificate_file=None,
            certificate_key_file=None,
        )

    def by_certificate(self, user: str) -> Secured:
        """The same user, by a certificate with its name."""
        certificate, key = self.authority.issue(user)
        said = replace(self.as_(user), protocol="SSL", servers=self.certificate_servers, user=None, password_file=None)
        return replace(said, certificate_file=certificate, certificate_key_file=key)


class Idle:
    """A reader that has nothing to do."""

    name = "views"
    position = 0
    offset = 0

    async def begin(self) -> int:
        return 0

    async def take(self, messages: Any) -> bool | None:
        return None


def secret(path: Path, text: str) -> Path:
    """A file that only its owner reads."""
    path.touch(mode=0o600)
    path.write_text(text + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="package")
def broker(tmp_path_factory: pytest.TempPathFactory, kafka_class_path: str) -> Iterator[Broker]:
    """Configured by deploy/kafka/secured.properties; its users have no rights yet."""
    folder = tmp_path_factory.mktemp("secured")
    authority = Authority(folder / "authority", "Invented CA")
    passwords = {
        name: f"hush-{secrets.token_hex(12)}" for name in (ADMIN, *(f"{prefix}{each}" for prefix in PREFIXES for each in PRINCIPALS))
    }
    for name, password in passwords.items():
        secret(folder / f"{name}.password", password)
    port, controller, internal = free_ports(3)
    nodes = [Node(port, controller, {"INTERNAL": (internal, internal)})]
    context = ssl.create_default_context(cafile=authority.ca_file)
    server = LocalKafka(
        folder / "kafka", kafka_class_path, nodes=nodes, secured=SecuredBroker(shipped_properties(authority, folder), passwords, context)
    )
    server.start()
    yield Broker(server, authority, folder, passwords, f"{HOST}:{internal}")
    server.remove()


@pytest.fixture(scope="package")
async def granted(broker: Broker) -> Broker:
    """The same, and its users have their rights."""
    for prefix in PREFIXES:
        await acls.apply(broker.as_(ADMIN), prefix)
    return broker
