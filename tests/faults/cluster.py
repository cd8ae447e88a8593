"""The topology of reliability.md 2.2: three Kafka nodes, a PostgreSQL for each service, two apis and two workers each, a proxy per edge.

A small one has one node and one server, is up in a third of the time, and serves for what no broker and no standby needs to die for.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from itertools import cycle
from pathlib import Path
from typing import Final

from deploy.local.children import Child
from deploy.local.environment import HOST, SERVICES
from deploy.local.kafka import LocalKafka, Node, free_ports
from deploy.local.postgres import SUPERUSER, LocalPostgres, _account, _binaries
from shared.acls import user_of
from shared.contracts.rights import CREATOR
from shared.contracts.topics import TOPICS
from shared.kafka import LOST_ERRORS, cluster_as_declared
from tests.faults.proxy import Proxies, Proxy
from tests.faults.system import System, until
from tests.faults.users import DOORS, OPERATORS, Users

NODES: Final = 3
ROLES: Final = ("api", "api-2", "worker", "worker-2")
PROCESSES: Final = tuple(f"{service}-{role}" for service in SERVICES for role in ROLES)
STANDBY_OF: Final = "hours"
"""The service whose commits also wait for a standby."""
COPIED_WITHIN_S: Final = 60.0
UP_WITHIN_S: Final = 60.0
IN_SYNC_WITHIN_S: Final = 90.0


class Cluster(System):
    """Made by `cluster`. Processes reach their servers through `proxies`, the harness goes straight to them."""

    def __init__(
        self, folder: Path, servers: dict[str, LocalPostgres], kafka: LocalKafka, users: Users, proxies: Proxies, ways: Mapping[str, Proxy]
    ) -> None:
        self.postgres_of = servers
        """By service; another one after a failover."""
        self.standby_of: dict[str, LocalPostgres] = {}
        """Synchronous standbys by service."""
        super().__init__(folder, servers[SERVICES[0]], kafka)
        self.users = users
        to_postgres = {name: proxies.edge(f"{name}/postgres", servers[name.partition("-")[0]].port) for name in PROCESSES}
        self.proxies: Mapping[str, Proxy] = {**{f"{name}/postgres": edge for name, edge in to_postgres.items()}, **ways}
        """The edges `<process>/postgres` and `<service>/kafka-<node>`: a service's processes share their ways to Kafka."""
        self._followers = 0

    def server(self, service: str) -> LocalPostgres:
        """The PostgreSQL of a service."""
        return self.postgres_of[service]

    def environment(self, service: str, command: str = "") -> dict[str, str]:
        """The settings of one service, of one of its commands, and of a process while it is made: that one connects through its own edges.

        Who migrates makes topics: that takes another user of Kafka's.
        """
        settings = super().environment(service)
        edge = self.proxies.get(f"{self._being_made}/postgres")
        port, database = edge.port if edge else self.server(service).port, self.database(service)
        settings[f"{service.upper()}_POSTGRES_DSN"] = f"postgresql://{database}@{HOST}:{port}/{database}"
        settings[f"{service.upper()}_POSTGRES_PASSWORD_FILE"] = str(self.keys.database_password_file(service))
        migrates = "migrate" in (command, self._being_made.partition("-")[2])
        door = service.upper() if edge else OPERATORS
        brokers = [f"{HOST}:{led_to}" for _, led_to in (node.doors[door] for node in self.kafka.nodes)]
        return settings | self.users.settings(service, CREATOR if migrates else service, self.prefix, brokers)

    def edges(self, service: str, kind: str) -> list[Proxy]:
        """The edges of a service to `postgres` or to `kafka`."""
        return [edge for name, edge in self.proxies.items() if name.startswith(service) and f"/{kind}" in name]

    def heal_edges(self) -> None:
        """A good wire everywhere."""
        for each in self.proxies.values():
            each.heal()

    # -- Kafka

    def kafka_user(self, service: str) -> str:
        """As whom a service comes into Kafka."""
        return user_of(self.prefix, service)

    async def admit(self) -> None:
        """Makes the users of Kafka, with what they may do: in one that is new, and in one that has lost everything."""
        await self.users.admit(self.kafka, self.prefix)

    async def brokers_in_sync(self, within: float = IN_SYNC_WITHIN_S) -> float:
        """Until every topic has all its copies in sync; the seconds that it took."""

        async def are() -> bool:
            try:
                _, said = await cluster_as_declared(self.kafka.servers, self.prefix, TOPICS.values())
            except LOST_ERRORS:
                return False
            return not said

        return await until(are, within, "all copies in sync")

    async def start_broker(self, node: int) -> None:
        """Starts a node that was stopped or killed, and waits until it answers, while everything else goes on."""
        self.kafka.launch(node)
        await asyncio.to_thread(self.kafka.wait_until_up, node)

    # -- PostgreSQL

    async def start_postgres(self, service: str) -> None:
        """Starts a server that was stopped or killed, and waits until it answers, while everything else goes on."""
        server = self.server(service)
        server.launch()
        await asyncio.to_thread(server.wait_until_up)

    async def follow(self, service: str) -> None:
        """Gives a service a synchronous standby: no commit is acknowledged any more that it has not on its disk."""
        primary = self.server(service)
        self._followers += 1
        folder = self.folder / f"standby-{service}-{self._followers}"
        standby = LocalPostgres(folder, primary.password)
        self.standby_of[service] = standby
        copy = _begin_copy(primary, standby, folder)
        await until(lambda: not copy.running(), COPIED_WITHIN_S, "the copy of the database")
        assert copy.exit_code() == 0, copy.last_words(20)
        standby.launch()
        await asyncio.to_thread(standby.wait_until_up)
        await self.sql(service, f"ALTER SYSTEM SET synchronous_standby_names = '{_APPLICATION}'")
        await self.sql(service, "SELECT pg_reload_conf()")
        await until(lambda: self._is_synchronous(service), UP_WITHIN_S, "a synchronous standby")

    async def fail_over(self, service: str) -> None:
        """Kills the service's server for good; its standby takes over, alone at first, and the edges lead there."""
        primary, standby = self.server(service), self.standby_of.pop(service)
        await asyncio.to_thread(primary.remove)
        self.postgres_of[service] = standby
        await self.sql(service, "ALTER SYSTEM SET synchronous_standby_names = ''")  # Its own copy of the setting: it has no standby yet.
        await self.sql(service, "SELECT pg_reload_conf()")
        ((promoted,),) = await self.sql(service, "SELECT pg_promote(true, 30)")
        assert promoted
        for edge in self.edges(service, "postgres"):
            edge.aim(standby.port)

    async def _is_synchronous(self, service: str) -> bool:
        found = await self.sql(service, "SELECT sync_state FROM pg_stat_replication WHERE application_name = $1", _APPLICATION)
        return [row["sync_state"] for row in found] == ["sync"]


_APPLICATION: Final = "standby"


def _begin_copy(primary: LocalPostgres, standby: LocalPostgres, folder: Path) -> Child:
    """`pg_basebackup`, as the account that servers run as."""
    account, home = _account(), standby.data.parent
    for each in {folder, home}:
        each.mkdir(parents=True, exist_ok=True)
    if account is not None:
        os.chown(home, account.uid, account.gid)
    home.chmod(0o700)
    where = ("-h", HOST, "-p", str(primary.port), "-U", SUPERUSER)
    return Child(
        "basebackup",
        [_binaries() / "pg_basebackup", *where, "-D", standby.data, "-R", "-X", "stream", "--checkpoint=fast"],
        log=folder / "basebackup.log",
        environment={"PATH": os.environ["PATH"], "LC_ALL": "C", "PGPASSWORD": primary.password, "PGAPPNAME": _APPLICATION},
        account=account,
        directory=home,
    )


@asynccontextmanager
async def cluster(folder: Path, class_path: str, seed: int, *, small: bool = False) -> AsyncIterator[Cluster]:
    """The whole of it, migrated and ready; at the end of the block every process is ended, and all data forgotten."""
    with ExitStack() as ends:
        proxies = Proxies(folder, seed)
        ends.callback(proxies.close)
        nodes, ways = _nodes(proxies, 1 if small else NODES)
        users = Users(folder / "users")
        kafka = LocalKafka(folder / "kafka", class_path, nodes=nodes, secured=users.brokers())
        ends.callback(kafka.remove)
        for node in range(len(nodes)):
            kafka.launch(node)
        names = ("all",) if small else SERVICES
        made_servers = [LocalPostgres(folder / f"postgres-{name}", secrets.token_hex(16)) for name in names]
        for server in made_servers:
            ends.callback(server.remove)
            server.launch()
        for server in made_servers:
            server.wait_until_up()
        servers = dict(zip(SERVICES, cycle(made_servers), strict=False))
        made = Cluster(folder, servers, kafka, users, proxies, ways)
        ends.callback(_remove_later_servers, made)
        ends.callback(made.stop)
        for node in range(len(nodes)):
            kafka.wait_until_up(node)
        await made.admit()
        made.migrate()
        if not small:
            await made.follow(STANDBY_OF)
        for roles in (ROLES[:2], ROLES[2:]):  # Some at a time: all at once they would be late together.
            made.start(*(f"{service}-{role}" for role in roles for service in SERVICES))
        yield made


def _nodes(proxies: Proxies, count: int) -> tuple[Sequence[Node], Mapping[str, Proxy]]:
    """Each node has a listener for each service, behind a proxy: what a broker says of itself to a service leads through it.

    One more is for commands that somebody types, without a proxy.
    """
    ports = iter(free_ports(count * (2 + len(DOORS))))
    nodes, ways = [], {}
    for node in range(count):
        doors = {}
        for service in SERVICES:
            port = next(ports)
            ways[f"{service}/kafka-{node}"] = way = proxies.edge(f"{service}/kafka-{node}", port)
            doors[service.upper()] = (port, way.port)
        port = next(ports)
        doors[OPERATORS] = (port, port)
        nodes.append(Node(next(ports), next(ports), doors))
    return nodes, ways


def _remove_later_servers(made: Cluster) -> None:
    for server in {*made.postgres_of.values(), *made.standby_of.values()}:
        server.remove()
