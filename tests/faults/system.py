"""The running system as these tests need it: processes that come and go while clients go on, and second ones beside the first."""

import asyncio
import re
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from time import monotonic

import asyncpg
import httpx

from deploy.local.children import Child, Identity
from deploy.local.environment import HOST, SERVICES
from deploy.local.kafka import LocalKafka, free_ports
from deploy.local.postgres import LocalPostgres
from tests.e2e.stack import Stack
from tests.loopback import NO_TLS

PROCESSES = tuple(f"{service}-{role}" for service in SERVICES for role in ("api", "worker"))
EXIT_SECONDS_MAX = 30.0
ABSENT = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What a connection of our own to a database raises that suffers a fault."""


class System(Stack):
    """A stack. `hours-worker-2` is a second worker of hours, on a port of its own."""

    def __init__(self, folder: Path, postgres: LocalPostgres, kafka: LocalKafka) -> None:
        super().__init__(folder, postgres, kafka, clock="travel")
        self._more_ports: dict[str, int] = {}
        self._being_made = ""
        self._orders: tuple[str, ...] = ()

    def launch(self, name: str, *orders: str) -> Child:
        """Starts a process without waiting for it. With `orders`, `tests.faults.launcher` does to it from outside what they say."""
        service, _, role = name.partition("-")
        self._orders = orders
        try:
            self.processes[name] = self._child(name, service, role)
        finally:
            self._orders = ()
        return self.processes[name]

    def program(self, service: str, role: str) -> Sequence[str]:
        """The service itself, or the launcher that is to do something to it."""
        return ("tests.faults.launcher", service, role, *self._orders) if self._orders else super().program(service, role)

    async def ready(self, *names: str, within: float = 30.0) -> None:
        """Until each answers `/readyz`, while everything else goes on."""
        await asyncio.gather(*(self._one_ready(name, self.processes[name], within) for name in names))

    async def _one_ready(self, name: str, child: Child, within: float) -> None:
        await until(lambda: self._ready_or_ended(name, child), within, name, every=0.1)
        assert child.running(), child.last_words(20)

    async def metric(self, name: str, metric: str, **labels: str) -> float:
        """The sum of those samples of a process's metric that have these labels; 0 where there is none."""
        async with httpx.AsyncClient(timeout=3, verify=NO_TLS) as client:
            text = (await client.get(f"{self.url(name)}/metrics")).text
        samples = re.findall(rf"^leifeng_{metric}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
        return sum(float(value) for said, value in samples if all(f'{label}="{wanted}"' in said for label, wanted in labels.items()))

    async def ended(self, *names: str, within: float = EXIT_SECONDS_MAX) -> dict[str, int | None]:
        """SIGTERM to all of them at once; their exit codes. Fails when one takes longer than `within` seconds."""
        children = {name: self.processes[name] for name in names}
        for child in children.values():
            child.send(signal.SIGTERM)
        for name, child in children.items():
            await until(lambda c=child: not c.running(), within, f"the end of {name}")  # type: ignore[misc]
        return {name: child.exit_code() for name, child in children.items()}

    def pids(self) -> dict[str, int]:
        """Who runs now: the same before and after means that nothing was started anew."""
        return {name: child.pid for name, child in self.processes.items() if child.running()}

    def url(self, name: str) -> str:
        """Base address of a process, of a second one too."""
        return f"http://{HOST}:{self._port(name)}" if name.count("-") > 1 else super().url(name)

    def _port(self, name: str) -> int:
        if name not in self._more_ports:
            (self._more_ports[name],) = free_ports(1)
        return self._more_ports[name]

    def _child(self, name: str, service: str, role: str) -> Child:
        self._being_made = name
        try:
            return super()._child(name, service, role.partition("-")[0])
        finally:
            self._being_made = ""

    def environment(self, service: str) -> dict[str, str]:
        """The settings of one service; a second process has another port."""
        settings = super().environment(service)
        if (name := self._being_made).count("-") > 1:
            settings[f"{service.upper()}_{'HTTP' if '-api-' in name else 'WORKER'}_PORT"] = str(self._port(name))
        return settings

    async def _ready_or_ended(self, name: str, child: Child) -> bool:
        if not child.running():
            return True
        try:
            async with httpx.AsyncClient(timeout=2, verify=NO_TLS) as client:
                return (await client.get(f"{self.url(name)}/readyz")).status_code == 200
        except httpx.HTTPError:
            return False


async def until(condition: Callable[[], bool | Awaitable[bool]], within: float, what: str = "it", every: float = 0.03) -> float:
    """Looks until a condition holds; the seconds that it took. Fails after `within`."""
    began = monotonic()
    while True:
        held = condition()
        if held if isinstance(held, bool) else await held:
            return monotonic() - began
        assert monotonic() - began < within, f"{what} did not come true within {within:g} s"
        await asyncio.sleep(every)


def server_and_backends(server: LocalPostgres) -> Sequence[Identity]:
    """Every process of a PostgreSQL server."""
    (postmaster,) = server.pids
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text("ascii").split()
    found = [Identity.of(pid) for pid in (postmaster, *map(int, children))]
    return [each for each in found if each is not None]


def freeze(server: LocalPostgres) -> Callable[[], None]:
    """SIGSTOP of the whole server; call the result to let it go on."""
    stopped = server_and_backends(server)
    for each in stopped:
        each.send(signal.SIGSTOP)

    def thaw() -> None:
        for each in stopped:
            each.send(signal.SIGCONT)

    return thaw
