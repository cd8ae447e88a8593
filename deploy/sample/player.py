"""Plays commands over HTTP on the travelling clock: who asks, what is answered, and when the clock may move on.

A key is made of names, so whoever plays the same year again is given the first answers and goes on where it was interrupted.
"""

import asyncio
import http.client
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote
from uuid import UUID

import asyncpg

from deploy.local.environment import HOST, ISSUER, SERVICES
from deploy.local.keys import Keys, issue_token, person_id
from shared.contracts.topics import SUBSCRIPTIONS
from shared.eventstore.clock import arrive, travel_to
from shared.postgres import Connection, connect

T = TypeVar("T")

AT_ONCE: Final = 12
"""Commands under way together: enough to share commits, few enough for two cores."""
TOKEN_SECONDS: Final = 600.0
"""A token lives 15 minutes; it is made anew well before."""
PATIENCE_SECONDS: Final = 60.0
"""How long a service may be away or behind before the player gives up."""
_POLL_SECONDS: Final = 0.02
_AGAIN_SECONDS: Final = 0.1
_COME_BACK: Final = frozenset(
    {"not_caught_up", "stream_conflict", "too_many_requests", "store_unavailable", "log_closed", "internal_error"}
)


REACTING: Final[Mapping[str, frozenset[str]]] = {
    "registration": frozenset({"registration", "hours", "recognition"}),
    "hours": frozenset({"hours"}),
    "recognition": frozenset({"hours", "recognition"}),
}
"""Whose facts each service reacts to: there its `reacted` position moves too. A test compares it with the services."""


class SampleError(Exception):
    """The year cannot be played, or what the services show is not what was played; said in one plain line."""


@dataclass(frozen=True, slots=True)
class Who:
    """Who asks: the same name is the same person, also for `python -m deploy.local token`."""

    name: str
    role: str
    unit: str

    @property
    def id(self) -> UUID:
        return person_id(self.name)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command was answered: accepted with the types of its events, or refused with a code."""

    status: int
    body: Mapping[str, Any]

    @property
    def code(self) -> str | None:
        code: str | None = self.body.get("code")
        return code

    @property
    def events(self) -> list[str]:
        return [str(each["type"]).partition(".")[2] for each in self.body.get("events", ())]

    @property
    def stream_id(self) -> UUID:
        """The id of the stream that the command changed."""
        return UUID(str(self.body["stream"]).partition("-")[2])

    @property
    def token(self) -> str:
        return str(self.body["position"])


class Caller:
    """Speaks HTTP to the three services, a few requests at once, and comes back when one is away for a moment."""

    def __init__(self, ports: Mapping[str, int], keys: Keys) -> None:
        self._ports = ports
        self._keys = keys
        self._tokens: dict[Who, tuple[float, str]] = {}
        self._mine = threading.local()
        self._threads = ThreadPoolExecutor(AT_ONCE, "sample")
        self.sent = 0

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown()

    async def post(self, who: Who, service: str, path: str, body: Mapping[str, Any], key: str, after: Iterable[str] = ()) -> Answer:
        """One command. Raises SampleError when the service stays away, or says that the request is wrong in itself."""
        headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
        headers |= {"After": ", ".join(after)} if after else {}
        raw = json.dumps(body, ensure_ascii=False).encode()
        self.sent += 1
        return await self._insist("POST", who, service, path, raw, headers)

    async def rows(self, who: Who, service: str, path: str, after: Iterable[str] = (), **filters: str) -> list[dict[str, Any]]:
        """All rows of a query, page by page."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            given = {"limit": "200", **filters, **({"cursor": cursor} if cursor else {})}
            asked = "&".join(f"{name}={quote(value)}" for name, value in given.items())
            headers = {"After": ", ".join(after)} if after else {}
            answer = await self._insist("GET", who, service, f"{path}?{asked}", None, headers)
            if answer.status != 200:
                raise SampleError(f"{service} does not show {path}: {answer.code}")
            if answer.body["parked"]:
                raise SampleError(f"{service}{path} has parked keys: {', '.join(answer.body['parked'])}")
            found += answer.body["items"]
            cursor = answer.body["next"]
            if cursor is None:
                return found

    async def _insist(self, method: str, who: Who, service: str, path: str, raw: bytes | None, headers: Mapping[str, str]) -> Answer:
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            said = {**headers, "Authorization": f"Bearer {self._token(who)}"}
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(self._threads, self._send, method, service, f"/api/v1{path}", raw, said)
            if answer is not None and answer.code not in _COME_BACK:
                return answer
            if time.monotonic() > until:
                raise SampleError(f"{service} does not come back: {answer.code if answer else 'no answer'} to {method} {path}")
            await asyncio.sleep(_AGAIN_SECONDS)

    def _send(self, method: str, service: str, path: str, raw: bytes | None, headers: Mapping[str, str]) -> Answer | None:
        """In a thread, which keeps its connections. None when nobody answers."""
        kept: dict[str, http.client.HTTPConnection] = self._mine.__dict__.setdefault("connections", {})
        connection = kept.setdefault(service, http.client.HTTPConnection(HOST, self._ports[service], timeout=15))
        try:
            connection.request(method, path, raw, dict(headers))
            response = connection.getresponse()
            return Answer(response.status, json.loads(response.read()))
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            connection.close()
            return None

    def _token(self, who: Who) -> str:
        made_at, token = self._tokens.get(who, (0.0, ""))
        if not token or time.monotonic() - made_at > TOKEN_SECONDS:
            token = issue_token(self._keys, ISSUER, person=who.id, role=who.role, unit=who.unit)
            self._tokens[who] = (time.monotonic(), token)
        return token


class Logs:
    """The three databases, looked at from outside: where each log and each of its readers stands, and what the clock says."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        """`addresses` are those of the databases' owners, by service."""
        self._addresses = addresses
        self._connections: dict[str, Connection] = {}

    async def close(self) -> None:
        """Closes the connections."""
        for connection in self._connections.values():
            await connection.close(timeout=2)

    async def travelling(self) -> list[str]:
        """The services whose log still is on the travelling clock."""
        return [service for service, seen in (await self._look()).items() if seen["clock"] == "travel"]

    async def is_empty(self) -> bool:
        """Whether nothing was ever written."""
        return not any(seen["head"] for seen in (await self._look()).values())

    async def move(self, instant: datetime) -> None:
        """Sets every travelling clock that is not there yet to `instant`, once all is quiet, and waits for what falls due then."""
        await self.settle()
        for service, seen in (await self._look()).items():
            if seen["clock"] == "travel" and (seen["now"] is None or seen["now"] < instant):
                await self._insist(service, lambda connection: travel_to(connection, instant))
        if any(seen["due"] for seen in (await self._look()).values()):
            await self.settle()

    async def arrive(self) -> None:
        """Lets every log go over to the system clock, for good."""
        await self.settle()
        for service in SERVICES:
            await self._insist(service, arrive)

    async def settle(self) -> None:
        """Waits until every consumer of every service stands at the stores' heads and nothing is due. Raises SampleError."""
        until = time.monotonic() + PATIENCE_SECONDS
        quiet_at: Mapping[str, int] | None = None
        while True:
            seen = await self._look()
            heads = {service: int(each["head"]) for service, each in seen.items()}
            behind = _behind(seen, heads)
            if not behind and heads == quiet_at:  # Twice, since the three are not looked at in one instant.
                return
            quiet_at = None if behind else heads
            if behind and time.monotonic() > until:
                raise SampleError(f"nothing moves any more: {behind[0]}")
            if behind:
                await asyncio.sleep(_POLL_SECONDS)

    async def _look(self) -> dict[str, Mapping[str, Any]]:
        rows = await asyncio.gather(*(self._insist(service, lambda connection: connection.fetch(_LOOK)) for service in SERVICES))
        return {service: dict(row) for service, (row,) in zip(SERVICES, rows, strict=True)}

    async def _insist(self, service: str, ask: Callable[[Connection], Awaitable[T]]) -> T:
        """Asks one database, and comes back when it is away for a moment. Raises SampleError."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if service not in self._connections:
                    self._connections[service] = await connect(self._addresses[service], "sample")
                return await ask(self._connections[service])
            except (
                OSError,
                TimeoutError,
                asyncpg.InterfaceError,
                asyncpg.PostgresConnectionError,
                asyncpg.OperatorInterventionError,
            ) as error:
                if connection := self._connections.pop(service, None):
                    connection.terminate()
                if time.monotonic() > until:
                    raise SampleError(f"the database of {service} does not come back: {type(error).__name__}") from None
                await asyncio.sleep(_AGAIN_SECONDS)


def _behind(seen: Mapping[str, Mapping[str, Any]], heads: Mapping[str, int]) -> list[str]:
    """In words, who has not read everything. Raises SampleError for a parked key, which waiting does not cure."""
    behind = []
    for service, each in seen.items():
        if each["parked"] is not None:
            raise SampleError(f"{service} has parked a key: {each['parked']}")
        if each["due"]:
            behind.append(f"{service} has {each['due']} deadlines due")
        places = json.loads(each["places"])
        for one in SUBSCRIPTIONS:
            name, _, consumer = one.consumer.partition(".")
            if name == service:
                applied, reacted = places.get(f"{consumer} {one.source}", (0, 0))
                reached = reacted if consumer == "inbox" and one.source in REACTING[service] else applied
                if reached < heads[one.source]:
                    behind.append(f"{one.consumer} is at {reached} of {heads[one.source]} in the log of {one.source}")
    return behind


_LOOK: Final = """
    SELECT clock, "now", (SELECT coalesce(max(position), 0) FROM es.event) AS head,
           (SELECT count(*) FROM consumer.deadline
            WHERE failed_as IS NULL AND due_at <= CASE clock WHEN 'travel' THEN "now" ELSE clock_timestamp() END) AS due,
           (SELECT coalesce(json_object_agg(consumer || ' ' || log, json_build_array(applied, reacted)), '{}')
            FROM consumer.position) AS places,
           (SELECT concat_ws(' ', consumer, log, key, reason) FROM consumer.blocked LIMIT 1) AS parked
    FROM es.log
"""


@dataclass
class Player:
    """Sends commands, insists on the answer that the story expects, and remembers how far each log is known to be."""

    caller: Caller
    logs: Logs
    tokens: dict[str, str] = field(default_factory=dict)
    refusals: int = 0

    async def appoint(self, *first: Who) -> None:
        """Gives the first roles of the installation, as an operator does, and waits until all services have heard. Raises SampleError."""
        said = [f"{who.id}={who.role}@{who.unit}" for who in first]
        run = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.registration", "grant", *said)
        if await run.wait() != 0:
            raise SampleError(f"{', '.join(who.name for who in first)} cannot be given the first roles")
        await self.logs.settle()

    async def tell(
        self, who: Who, service: str, path: str, body: Mapping[str, Any], key: str, *, after: str | None = None, refused: str | None = None
    ) -> Answer:
        """One command that must be accepted, or refused with the code `refused`. `after` names a service whose facts it needs."""
        tokens = [self.tokens[after]] if after is not None and after in self.tokens else []
        answer = await self.caller.post(who, service, path, body, key, tokens)
        if answer.code != refused:
            raise SampleError(
                f"{key}: expected {refused or 'it to be accepted'}, was answered {answer.status} {answer.code}: {dict(answer.body)}"
            )
        if refused is not None:
            self.refusals += 1
        else:
            self._remember(service, answer.token)
        return answer

    def _remember(self, service: str, token: str) -> None:
        known = self.tokens.get(service)
        if known is None or _position(token) > _position(known):
            self.tokens[service] = token


def _position(token: str) -> int:
    return int(token.rpartition(":")[2])


async def together(actions: Iterable[Awaitable[Any]]) -> Sequence[Any]:
    """Runs them at once; the first that fails is what failed."""
    async with asyncio.TaskGroup() as tasks:
        made = [tasks.create_task(_as_coroutine(each)) for each in actions]
    return [each.result() for each in made]


async def _as_coroutine(action: Awaitable[Any]) -> Any:
    return await action


@dataclass(frozen=True, slots=True)
class Place:
    """Where the stack is, as the supervisor says it in the environment."""

    ports: Mapping[str, int]
    databases: Mapping[str, str]
    keys: Keys
    state: Path


def place(environ: Mapping[str, str] = os.environ) -> Place:
    """Raises SampleError that names the variable that is missing."""
    try:
        ports = {service: int(environ[f"{service.upper()}_HTTP_PORT"]) for service in SERVICES}
        databases = {service: environ[f"{service.upper()}_POSTGRES_DSN"] for service in SERVICES}
        state = Path(environ["LEIFENG_STATE"])
    except KeyError as error:
        raise SampleError(f"{error} is not set: the sample is loaded by `make up`") from None
    return Place(ports, databases, Keys(state / "secrets"), state)
