"""Who comes into the harness's Kafka, and by which door: services as deploy/kafka says, brokers and the harness by one of their own.

A service comes by its own listener, behind a proxy, over TLS, with a user's password out of a file, and may do what it was given; commands
of operators do the same by a listener that no fault touches. The brokers' own listener stays in plain text and asks nobody: who comes there
may do everything, so that what is looked at does not hang on what is tried, and TLS costs nothing where nothing is tried by it.
"""

import secrets
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from aiokafka.conn import create_conn
from aiokafka.errors import SaslAuthenticationFailed

from deploy.local.environment import HOST, SERVICES
from deploy.local.kafka import LocalKafka, Secured
from shared import acls
from shared.contracts.rights import PRINCIPALS
from shared.credentials import MECHANISM
from shared.privacy.keyfile import write_secret
from tests.faults.system import until
from tests.integration.secured.authority import Authority
from tests.integration.secured.credentials import set_password
from tests.integration.secured.shipped import shipped_properties

OPERATORS: Final = "OPERATORS"
"""The door of commands that somebody types."""
DOORS: Final = (*map(str.upper, SERVICES), OPERATORS)
KNOWN_WITHIN_S: Final = 30.0
"""What the controller has noted, each broker knows soon after."""
_LOGIN: Final = "scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;"


class Users:
    """The users of one Kafka, by principal (`shared/contracts/rights.py`); their passwords lie in files, as services want them."""

    def __init__(self, folder: Path) -> None:
        """Makes who signs the brokers' certificate, and the passwords."""
        self._folder = folder
        folder.mkdir(mode=0o700)
        self._authority = Authority(folder / "authority", "Invented CA")
        self._context = ssl.create_default_context(cafile=self._authority.ca_file)
        for principal in PRINCIPALS:
            write_secret(self.password_file(principal), f"{secrets.token_hex(24)}\n")

    def brokers(self) -> Secured:
        """What makes brokers ask at the doors: the settings as they are shipped, and who may do what by which door."""
        said = [
            "listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT," + ",".join(f"{door}:SASL_SSL" for door in DOORS),
            "inter.broker.listener.name=BROKER",
            "super.users=User:ANONYMOUS",
            *(f"listener.name.{door.lower()}.{_LOGIN}" for door in DOORS),
        ]
        return Secured("\n".join((shipped_properties(self._authority, self._folder), *said, "")))

    def password_file(self, principal: str) -> Path:
        """Where the password lies that the processes of a service are told."""
        return self._folder / f"kafka-{principal}"

    def password(self, principal: str) -> str:
        """What is in it."""
        return self.password_file(principal).read_text("utf-8").strip()

    def settings(self, service: str, principal: str, prefix: str, servers: Sequence[str]) -> dict[str, str]:
        """How a process of a service is told to come in, as one of the users of the installation with this prefix."""
        said = {
            "SERVERS": ",".join(servers),
            "SECURITY_PROTOCOL": "SASL_SSL",
            "USER": acls.user_of(prefix, principal),
            "PASSWORD_FILE": str(self.password_file(principal)),
            "CA_FILE": str(self._authority.ca_file),
        }
        return {f"{service.upper()}_KAFKA_{name}": value for name, value in said.items()}

    async def admit(self, kafka: LocalKafka, prefix: str) -> None:
        """Gives everybody their rights, then their passwords, and waits until every broker lets everybody in. All brokers are up."""
        await acls.apply(kafka.servers, prefix)
        for principal in PRINCIPALS:
            await set_password(kafka.servers, acls.user_of(prefix, principal), self.password(principal))
        for principal in PRINCIPALS:
            await self.known(kafka, acls.user_of(prefix, principal), self.password(principal))

    async def change(self, kafka: LocalKafka, user: str, old: str, new: str) -> None:
        """Gives a user another password, as the cluster's administrator does, and waits until no broker takes the old one any more."""
        assert all(await self.lets_in(kafka, user, old)), f"the password of {user} did not count"
        await set_password(kafka.servers, user, new)
        await self.known(kafka, user, new)
        assert not any(await self.lets_in(kafka, user, old)), f"the old password of {user} counts"

    async def known(self, kafka: LocalKafka, user: str, password: str) -> None:
        """Until every broker lets in who comes with this."""

        async def is_known() -> bool:
            return all(await self.lets_in(kafka, user, password))

        await until(is_known, KNOWN_WITHIN_S, f"{user} known to all brokers")

    async def lets_in(self, kafka: LocalKafka, user: str, password: str) -> list[bool]:
        """What each of the brokers answers to who comes with this: whether it is the user's password."""
        return [await self._lets_in(node.doors[OPERATORS][0], user, password) for node in kafka.nodes]

    async def _lets_in(self, port: int, user: str, password: str) -> bool:
        try:
            connection = await create_conn(
                HOST, port, security_protocol="SASL_SSL", ssl_context=self._context, sasl_mechanism=MECHANISM,
                sasl_plain_username=user, sasl_plain_password=password,
            )  # fmt: skip
        except SaslAuthenticationFailed:
            return False
        connection.close()
        return True
