"""Plays commands over HTTP on the travelling clock: who asks, what is answered, and when the clock may move on.

A key is made of names, so whoever plays the same year again is given the first answers and goes on where it was interrupted.
"""

import asyncio
import http.client
import json
import os
import threading
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote
from uuid import UUID

from deploy.local.environment import HOST, ISSUER, SERVICES
from deploy.local.keys import Keys, issue_token, person_id
from shared.contracts.topics import SUBSCRIPTIONS
from shared.eventstore.clock import arrive, travel_to
from shared.postgres import Connection, connect

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
    "registration": frozenset({"registration"}),
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

    def __init__(self, connections: Mapping[str, Connection]) -> None:
        self._connections = connections

    @classmethod
    async def open(cls, environ: Mapping[str, str]) -> Self:
        """As the owners of the databases, by `<SERVICE>_POSTGRES_DSN`."""
        names = {service: f"{service.upper()}_POSTGRES_DSN" for service in SERVICES}
        missing = [name for name in names.values() if name not in environ]
        if missing:
            raise SampleError(f"{missing[0]} is not set: the sample is loaded by `make up`")
        return cls({service: await connect(environ[name], "sample") for service, name in names.items()})

    async def close(self) -> None:
        for connection in self._connections.values():
            await connection.close(timeout=2)

    async def travelling(self) -> list[str]:
        """The services whose log still is on the travelling clock."""
        clocks = await self._each("SELECT clock FROM es.log")
        return [service for service, clock in clocks.items() if clock == "travel"]

    async def is_empty(self) -> bool:
        """Whether nothing was ever written."""
        return not any((await self._each("SELECT max(position) FROM es.event")).values())

    async def move(self, instant: datetime) -> None:
        """Sets every travelling clock that is not there yet to `instant`, once all is quiet, and waits for what falls due then."""
        await self.settle()
        for connection in self._connections.values():
            row = await connection.fetchrow('SELECT clock, "now" FROM es.log')
            if row is not None and row["clock"] == "travel" and (row["now"] is None or row["now"] < instant):
                await travel_to(connection, instant)
        if any((await self._each(_COUNT_DUE)).values()):
            await self.settle()

    async def arrive(self) -> None:
        """Lets every log go over to the system clock, for good."""
        await self.settle()
        for connection in self._connections.values():
            await arrive(connection)

    async def settle(self) -> None:
        """Waits until every consumer of every service stands at the stores' heads and nothing is due. Raises SampleError."""
        until = time.monotonic() + PATIENCE_SECONDS
        quiet_at: Mapping[str, Any] | None = None
        while True:
            heads, behind = await self._look()
            if not behind and heads == quiet_at:
                return
            quiet_at = heads if not behind else None
            if behind and time.monotonic() > until:
                raise SampleError(f"nothing moves any more: {behind[0]}")
            if behind:
                await asyncio.sleep(_POLL_SECONDS)

    async def _look(self) -> tuple[Mapping[str, Any], list[str]]:
        """The heads, and in words who is not there."""
        heads = await self._each("SELECT coalesce(max(position), 0) FROM es.event")
        behind = [f"{service} has {count} deadlines due" for service, count in (await self._each(_COUNT_DUE)).items() if count]
        for service, connection in self._connections.items():
            places = {(row["consumer"], row["log"]): row for row in await connection.fetch(_SELECT_PLACES)}
            held = await connection.fetchrow("SELECT consumer, log, key, reason FROM consumer.blocked LIMIT 1")
            if held is not None:
                raise SampleError(f"{service}.{held['consumer']} has parked key {held['key']} of {held['log']}: {held['reason']}")
            for each in SUBSCRIPTIONS:
                name, _, consumer = each.consumer.partition(".")
                row = places.get((consumer, each.source))
                reacts = consumer == "inbox" and each.source in REACTING[service]
                reached = 0 if row is None else row["reacted" if reacts else "applied"]
                if name == service and reached < heads[each.source]:
                    behind.append(f"{each.consumer} is at {reached} of {heads[each.source]} in {each.source}'s log")
        return heads, behind

    async def _each(self, sql: str) -> dict[str, Any]:
        values = await asyncio.gather(*(connection.fetchval(sql) for connection in self._connections.values()))
        return dict(zip(self._connections, values, strict=True))


_SELECT_PLACES: Final = "SELECT consumer, log, applied, reacted FROM consumer.position"
_COUNT_DUE: Final = """
    SELECT count(*) FROM consumer.deadline
    WHERE failed_as IS NULL AND due_at <= (SELECT CASE clock WHEN 'travel' THEN "now" ELSE clock_timestamp() END FROM es.log)
"""


@dataclass
class Player:
    """Sends commands, insists on the answer that the story expects, and remembers how far each log is known to be."""

    caller: Caller
    logs: Logs
    tokens: dict[str, str] = field(default_factory=dict)
    refusals: int = 0

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


def places(environ: Mapping[str, str] = os.environ) -> tuple[dict[str, int], Keys, Path]:
    """Ports of the services, the keys of the token issuer, and the state folder, as the supervisor says them."""
    try:
        ports = {service: int(environ[f"{service.upper()}_HTTP_PORT"]) for service in SERVICES}
        state = Path(environ["LEIFENG_STATE"])
    except (KeyError, ValueError) as error:
        raise SampleError(f"{error} is not set: the sample is loaded by `make up`") from None
    return ports, Keys(state / "secrets"), state
